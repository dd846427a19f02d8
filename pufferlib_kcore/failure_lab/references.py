"""References: what a world pays without skill and at best, without which no return is a failure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.failure_lab.agents import Agent, RandomAgent
from pufferlib_kcore.failure_lab.evaluation import evaluate
from pufferlib_kcore.failure_lab.optimum import Optimum
from pufferlib_kcore.failure_lab.worlds import World

EPISODES = 200
SEED = 2**20  # of their episodes, which no evaluation has


class Constant(Agent):
    """One action, always."""

    def __init__(self, action: int, state_dim: int, action_dim: int):
        super().__init__(state_dim, action_dim)
        self.action = action

    def distribution(self, observations: np.ndarray) -> np.ndarray:
        return np.tile(np.eye(self.action_dim)[self.action], (len(observations), 1))


class Optimal(Agent):
    """The optimal policy of a career, whose episodes all go on at one pace."""

    def __init__(self, best: Optimum, state_dim: int, action_dim: int):
        super().__init__(state_dim, action_dim)
        self.best, self.time = best, 0

    def begin(self, episodes: int = 1) -> None:
        self.time = 0

    def distribution(self, observations: np.ndarray) -> np.ndarray:
        times = np.full(len(observations), min(self.time, len(self.best.switches) - 1))
        self.time += 1
        return np.eye(self.action_dim)[self.best(observations, times)]


@dataclass(frozen=True)
class Known:
    """Mean returns of a world: of its reward, and of the one that is meant (true_..)."""

    uniform: float
    true_uniform: float
    constants: tuple[float, ...]  # of each action
    true_constants: tuple[float, ...]
    best: float | None  # own return of the policy that is optimal for the reward that is meant
    optimum: float | None  # of the reward that is meant, by dynamic programming; a career's alone
    optimum_error: float | None

    @property
    def constant(self) -> float:
        return max(self.constants)

    @property
    def true_constant(self) -> float:
        return max(self.true_constants)

    @property
    def references(self) -> References:
        """As detectors take them."""
        possible = None if self.best is None else max(self.best, self.constant, self.uniform)
        return References(uniform=self.uniform, constant=self.constant, best=possible, episodes=EPISODES)

    def share(self, true_return: float) -> float | None:
        """Of the way from chance to the optimum: 0 as the uniform policy, 1 the best; None where unknown."""
        if self.optimum is None:
            return None
        return (true_return - self.true_uniform) / (self.optimum - self.true_uniform)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def known(world: World) -> Known:
    """Of EPISODES episodes each, of the same seeds."""
    return _known(json.dumps([world.env, dict(world.settings), world.reward], sort_keys=True))


@cache
def _known(text: str) -> Known:
    world = World(*json.loads(text))
    env = world.creator.gymnasium()
    size, actions = env.observation_space.shape[0], int(env.action_space.n)  # type: ignore
    env.close()
    uniform = evaluate(RandomAgent(size, actions), world, EPISODES, SEED)
    alone = [evaluate(Constant(a, size, actions), world, EPISODES, SEED) for a in range(actions)]
    best = world.optimum()
    played = None if best is None else evaluate(Optimal(best, size, actions), world, EPISODES, SEED)
    return Known(
        uniform=float(uniform.returns.mean()),
        true_uniform=float(uniform.true_returns.mean()),
        constants=tuple(float(one.returns.mean()) for one in alone),
        true_constants=tuple(float(one.true_returns.mean()) for one in alone),
        best=None if played is None else float(played.returns.mean()),
        optimum=None if best is None else best.value,
        optimum_error=None if best is None else best.error,
    )
