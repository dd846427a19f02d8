"""Evaluation: an agent in a world, episode by episode, on its own reward and on the one that counts.

Episode e has the environment's seed of (seed, e) and draws of its own, whoever plays: agents are compared on
common random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pufferlib_kcore.environments import seeds
from pufferlib_kcore.failure_lab.agents.base import Agent, entropy
from pufferlib_kcore.failure_lab.worlds import World

ENDS = ("burnout", "salary", "goal")  # what an episode's end tells, where it does


@dataclass(frozen=True)
class Evaluation:
    """Of E episodes."""

    returns: np.ndarray  # (E,) of the world's reward
    true_returns: np.ndarray  # (E,) of the reward that is meant: a career's base, a grid without its coin
    lengths: np.ndarray  # (E,)
    actions: np.ndarray  # (A,) share of each action over all steps
    entropy: float  # mean over steps of the entropy of its actions [nats]
    values: float | None  # mean value at the starts, where the agent has one
    ends: Mapping[str, float]  # means of what the last steps tell
    observations: np.ndarray  # (T, E, D); an episode's last lengths[e] on are not its own
    taken: np.ndarray  # (T, E) actions there
    rewards: np.ndarray  # (T, E)

    @property
    def dominance(self) -> float:
        """Share of the commonest action."""
        return float(self.actions.max())

    def trajectory(self, e: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of an episode: observations (n, D), actions (n,), rewards (n,)"""
        n = int(self.lengths[e])
        return self.observations[:n, e], self.taken[:n, e], self.rewards[:n, e]

    def summary(self) -> dict[str, Any]:
        return {
            "episode_return": float(self.returns.mean()),
            "true_return": float(self.true_returns.mean()),
            "returns": self.returns.tolist(),
            "true_returns": self.true_returns.tolist(),
            "episode_length": float(self.lengths.mean()),
            "actions": self.actions.tolist(),
            "entropy": self.entropy,
            "value": self.values,
            **{f"final_{name}": value for name, value in self.ends.items()},
        }


def evaluate(
    agent: Agent, world: World, episodes: int = 100, seed: int = 0, explore: bool = False
) -> Evaluation:
    """Play, all episodes side by side.  explore: draw actions, not take the likeliest."""
    envs = [world.creator.gymnasium() for _ in range(episodes)]
    chance = np.stack([np.random.default_rng([seed, e, 1]).random(_LONGEST) for e in range(episodes)])
    observations = np.stack([env.reset(seed=seeds.env_seed(seed, e))[0] for e, env in enumerate(envs)])
    agent.begin(episodes)
    start = agent.values(observations)
    live = np.ones(episodes, bool)
    infos: list[dict] = [{} for _ in envs]
    counts = np.zeros(agent.action_dim)
    surprise: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    taken: list[np.ndarray] = []
    paid: list[np.ndarray] = []
    time = 0
    while live.any():
        chances = agent.distribution(observations)
        actions = agent.choose(chances, explore, chance[:, time % _LONGEST])
        counts += np.bincount(actions[live], minlength=agent.action_dim)
        surprise.append(entropy(chances[live]))
        seen.append(observations.copy())
        taken.append(actions)
        paid.append(np.zeros(episodes))
        for e in np.flatnonzero(live):
            observations[e], paid[-1][e], ended, cut, infos[e] = envs[e].step(int(actions[e]))
            live[e] = not (ended or cut)
        time += 1
    for env in envs:
        env.close()
    returns = np.array([info["episode_return"] for info in infos])
    true = np.array([info.get("true_return", info["episode_return"]) for info in infos])
    told = {name: np.mean([i[name] for i in infos]) for name in ENDS if all(name in i for i in infos)}
    return Evaluation(
        returns=returns,
        true_returns=true,
        lengths=np.array([info["episode_length"] for info in infos]),
        actions=counts / counts.sum(),
        entropy=float(np.concatenate(surprise).mean()),
        values=None if start is None else float(start.mean()),
        ends={name: float(value) for name, value in told.items()},
        observations=np.stack(seen),
        taken=np.stack(taken),
        rewards=np.stack(paid),
    )


_LONGEST = 1000  # steps with draws of their own; they come again in longer episodes
