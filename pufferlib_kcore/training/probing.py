"""Probing: some of a rollout's states, as arguments of the policy's forward."""

from __future__ import annotations

from typing import Any

import torch

from pufferlib_kcore.training.rollout import Experience

ROWS = 3  # on which a policy is traced


def probe_of(rollout: Experience, states: int, generator: torch.Generator) -> list[tuple]:
    """So many states of a rollout, drawn without return, all where it has no more, as arguments of forward.

    Of a recurrent policy those at which a segment begins, with the state that it had there.
    """
    obs = rollout.obs
    N, T = obs.shape[:2]
    segments = 0 if rollout.state_h is None else rollout.state_h.shape[2]
    steps = torch.arange(0, T, T // segments if segments else 1)
    places = torch.cartesian_prod(torch.arange(N), steps)
    some = places[torch.randperm(len(places), generator=generator)[:states]]
    rows = obs[some[:, 0], some[:, 1]].cpu().clone()
    if rollout.state_h is None or rollout.state_c is None:
        return [(rows,)]
    segment = some[:, 1] // (T // segments)
    h, c = (x[:, some[:, 0], segment].cpu().clone() for x in (rollout.state_h, rollout.state_c))
    return [(rows, (h, c))]


def on(inputs: tuple, device: torch.device) -> tuple:
    """The same elsewhere."""
    first, *state = inputs
    return (first.to(device), *(tuple(x.to(device) for x in parts) for parts in state))


def example(inputs: list[tuple]) -> tuple[Any, ...]:
    """The first rows of it; those of a recurrent state are its second axis."""
    first, *state = inputs[0]
    return (first[:ROWS], *(tuple(x[:, :ROWS].contiguous() for x in parts) for parts in state))
