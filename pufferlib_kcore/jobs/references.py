"""References: play a run's task without skill: with actions drawn alike, and with each action alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor
from torch.nn.functional import one_hot

from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.distributions import Continuous, Discrete, Joint
from pufferlib_kcore.environments import seeds
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.training.acting import play

ALONE = 32  # actions that are tried alone, at most
ENVS = 8  # at once
SURE = 50.0  # nats between an action and the others: always that one

Blind = Callable[[Tensor], Any]


def references(settings: Settings, backend: str, episodes: int, watch: Watch = unwatched) -> References:
    """Mean returns of whole episodes; all on the same environments (common random numbers)."""
    vec = worlds.one_group(settings, backend, min(episodes, ENVS))
    seed = (settings.train.seed, seeds.RECORDING, 7)
    try:
        space = vec.single_action_space
        alone = list(constants(space))
        means = [
            float(play(blind, vec, seed, episodes=episodes).returns.mean())
            for blind in counted([uniform(space), *alone], 1 + len(alone), "playing without skill", watch)
        ]
    finally:
        vec.close()
    return References(uniform=means[0], constant=max(means[1:]), episodes=episodes)


def uniform(space: Space) -> Blind:
    """Actions drawn alike; of a Box from a normal of its mean and deviation, 0 and 1 where it has none."""
    if isinstance(space, spaces.Box):
        low, high = (torch.from_numpy(np.ravel(x)).float() for x in (space.low, space.high))
        bounded = low.isfinite() & high.isfinite()
        loc = torch.where(bounded, (low + high) / 2, 0.0)
        scale = torch.where(bounded, (high - low) / 12**0.5, 1.0)
        return lambda obs: Continuous(loc.expand(len(obs), -1), scale.expand(len(obs), -1))
    sizes = _sizes(space)
    return lambda obs: _joint([torch.zeros(len(obs), n) for n in sizes])


def constants(space: Space) -> Iterator[Blind]:
    """Each action alone, of several at once their k-th; of a Box the middle and both ends."""
    if isinstance(space, spaces.Box):
        low, high = (torch.from_numpy(np.ravel(x)).float() for x in (space.low, space.high))
        bounded = low.isfinite() & high.isfinite()
        for part in (0.5, 0.0, 1.0):
            yield _always(torch.where(bounded, low + part * (high - low), 2 * part - 1.0))
        return
    sizes = _sizes(space)
    for k in range(min(max(sizes), ALONE)):
        yield _the(k, sizes)


def _always(loc: Tensor) -> Blind:
    return lambda obs: Continuous(loc.expand(len(obs), -1), torch.full((len(obs), len(loc)), 1e-6))


def _the(k: int, sizes: list[int]) -> Blind:
    sure = [SURE * one_hot(torch.tensor(k % n), n).float() for n in sizes]
    return lambda obs: _joint([x.expand(len(obs), -1) for x in sure])


def _sizes(space: Any) -> list[int]:
    return [int(space.n)] if isinstance(space, spaces.Discrete) else [int(n) for n in space.nvec]


def _joint(logits: list[Tensor]) -> Any:
    parts = [Discrete(x) for x in logits]
    return parts[0] if len(parts) == 1 else Joint(tuple(parts))
