"""Record: what a policy sees while it acts, as arguments of its forward, to calibrate a collapse on."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pufferlib_kcore.training.acting import device_of, play
from pufferlib_kcore.training.unroll import initial_state, is_recurrent

STATES = 1024  # in one call of forward, about


def record(
    policy: nn.Module,
    vec,
    seed: int | Sequence[int],
    states: int,
    autocast=contextlib.nullcontext,
    watch: Callable[[float], None] = lambda part: None,
) -> list[tuple]:
    """Let the policy act in every environment of `vec` from fresh episodes on, `states` steps in all.

    seed: entropy, as in `environments.seeds`; autocast: under which it acts (`precision.autocast`);
    watch: called with the part that is done.
    -> arguments of forward, call by call: (obs (B, *obs),), or, of a recurrent policy, stretches of episodes
    of one length, (obs (B, T, *obs), (h, c)), with its state at their start, each (layers, B, hidden).
    """
    steps = -(-states // vec.num_envs)
    played = play(
        policy,
        vec,
        seed,
        steps=steps,
        keep=("obs", "starts"),
        autocast=autocast,
        watch=lambda step: watch(step / steps),
    )
    obs, starts = played.kept["obs"].to(device_of(policy)), played.kept["starts"]
    if not is_recurrent(policy):
        return [(some,) for some in obs.transpose(0, 1).flatten(0, 1).split(STATES)]
    return list(_stretches(policy, obs, starts))


def _stretches(policy: nn.Module, obs: Tensor, starts: Tensor) -> Iterator[tuple]:
    """Cut (N, T, *obs) at the starts of episodes, where state is zero; those of one length go together."""
    by_length = defaultdict(list)
    for env, started in enumerate(starts):
        cuts = [0, *(t for t in range(1, len(started)) if started[t]), len(started)]
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            by_length[last - first].append((env, first))
    for length, places in by_length.items():
        together = max(1, STATES // length)
        for some in (places[i : i + together] for i in range(0, len(places), together)):
            stretch = torch.stack([obs[env, t : t + length] for env, t in some])
            yield stretch, initial_state(policy, len(some))
