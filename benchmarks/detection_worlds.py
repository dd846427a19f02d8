"""Worlds that fail on demand: small tasks, and what is done to them so that training on them goes wrong.

A world's `true_return` is what it is about; what an agent learns from may be another reward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.puffer2.serial import emulated
from pufferlib_kcore.environments.rewards import ScaledRewards
from pufferlib_kcore.environments.wrappers import ClipActions, EpisodeStats, Float32Observations

SCALE = {"cartpole": 0.05, "acrobot": 0.05, "pendulum": 0.1, "grid": 1.0, "memory": 1.0}  # of what is learned


class Grid(gymnasium.Env):
    """Six by six squares, start and goal drawn anew; +1 at the goal, which ends it, -0.01 a step; 40 steps.

    Observation: both places, (4,) in [-1, 1]; actions: four directions.
    """

    SIZE, LIMIT = 6, 40
    MOVES = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.integers(self.SIZE, size=(2, 2))
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = np.clip(self.place + self.MOVES[int(action)], 0, self.SIZE - 1)
        self.time += 1
        found = bool((self.place == self.goal).all())
        return self._observe(), float(found) - 0.01, found, self.time >= self.LIMIT, {}

    def _observe(self) -> np.ndarray:
        return (np.concatenate([self.place, self.goal]) * 2 / (self.SIZE - 1) - 1).astype(np.float32)


def task(name: str) -> gymnasium.Env:
    if name == "grid":
        return Grid()
    if name == "memory":
        from pufferlib_kcore.environments.memory import MemoryCue

        return MemoryCue(n_cues=3, delay=3)
    ids = {"cartpole": "CartPole-v1", "acrobot": "Acrobot-v1", "pendulum": "Pendulum-v1"}
    return gymnasium.make(ids[name], disable_env_checker=True)


class Told(gymnasium.Wrapper):
    """Tells the return of the task itself when an episode is over."""

    def reset(self, **how: Any) -> tuple[Any, dict]:
        self.true = 0.0
        return self.env.reset(**how)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.true += float(reward)
        return observation, float(reward), terminated, truncated, {**info, "true_return": self.true}


class Proxy(gymnasium.Wrapper):
    """Pays for something that goes along with the task at first, and then against it.

    cartpole: also for speed, so that swinging to and fro pays more than standing; the task is to stay in the
    middle. grid: also for standing in a corner, to which one can go again and again, in place of the goal.
    pendulum: also for turning fast. strength 0: for the task alone.
    """

    def __init__(self, env: gymnasium.Env, name: str, strength: float):
        super().__init__(env)
        self.name, self.strength = name, strength

    def reset(self, **how: Any) -> tuple[Any, dict]:
        self.true = 0.0
        return self.env.reset(**how)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.name == "cartpole":
            x, v = observation[:2]
            self.true += float(abs(x) < 0.5)
            reward = reward + self.strength * min(abs(float(v)), 2.0)
        elif self.name == "grid":
            self.true += float(reward)
            reward = reward + self.strength * float((self.unwrapped.place == 0).all())  # type: ignore[attr-defined]
        else:
            self.true += float(reward)
            reward = reward + self.strength * min(abs(float(observation[2])), 8.0)
        return observation, float(reward), terminated, truncated, {**info, "true_return": self.true}


def anything(env: gymnasium.Env) -> spaces.Box:
    """Observations of that shape, without bounds."""
    return spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)


class Changes(gymnasium.Wrapper):
    """Another task every so many steps: observations are permuted and signed, actions renamed, by chance.

    first: steps after which it changes for the first time; then every `every`. seed: of the changes, the same
    in all environments.
    """

    def __init__(self, env: gymnasium.Env, first: int, every: int, seed: int):
        super().__init__(env)
        self.first, self.every, self.seed, self.steps = first, every, seed, 0
        self.observation_space = anything(env)
        self.number = -1
        self._change(0)

    def _change(self, number: int) -> None:
        if number == self.number:
            return
        self.number, rng = number, np.random.default_rng((self.seed, number))
        width = self.observation_space.shape[0]  # type: ignore[index]
        self.order, self.signs = np.arange(width), np.ones(width, np.float32)
        self.actions = np.arange(getattr(self.action_space, "n", 0))
        if number:
            self.order = rng.permutation(width)
            self.signs = rng.choice([-1.0, 1.0], width).astype(np.float32)
            self.actions = np.roll(self.actions, 1)[rng.permutation(len(self.actions))]

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        return np.asarray(observation, np.float32)[self.order] * self.signs

    def reset(self, **how: Any) -> tuple[Any, dict]:
        late = self.steps - self.first
        self._change(0 if late < 0 else 1 + late // self.every)
        observation, info = self.env.reset(**how)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        named = self.actions[int(action)] if len(self.actions) else np.asarray(action) * self.signs[0]
        observation, *rest = self.env.step(named)
        return (self._seen(observation), *rest)  # type: ignore[return-value]


class Spoiled(gymnasium.Wrapper):
    """Rewards that reach the learner, and not the record, are spoiled from a step on.

    how: grow (times 1.5 every `every` steps, as where a running deviation vanishes), zero, or nan
    """

    def __init__(self, env: gymnasium.Env, how: str, start: int, every: int):
        super().__init__(env)
        self.how, self.start, self.every, self.steps = how, start, every, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        late = self.steps - self.start
        if late >= 0:
            grown = float(reward) * 1.5 ** min(late / self.every, 60)
            reward = {"grow": grown, "zero": 0.0, "nan": float("nan")}[self.how]
        return observation, reward, terminated, truncated, info


class Wrong(gymnasium.ObservationWrapper):
    """Observations as statistics that were frozen too early show them: too large, and off the middle."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = anything(env)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.asarray(4 * observation + 2, np.float32)


def creator(name: str, seed: int, *wrong: tuple[str, tuple]) -> Callable[[], Any]:
    """One environment, with what goes wrong: ("proxy", (strength,)), ("changes", (first, every)), ("spoiled",
    (how, start, every)) or ("wrong", ())."""

    def make() -> Any:
        env = task(name)
        kinds = dict(wrong)
        if isinstance(env.observation_space, spaces.Box) and env.observation_space.dtype == np.float64:
            env = Float32Observations(env)
        if isinstance(env.action_space, spaces.Box):
            env = ClipActions(env)
        if "changes" in kinds:
            env = Changes(env, *kinds["changes"], seed)
        env = Proxy(env, name, *kinds["proxy"]) if "proxy" in kinds else Told(env)
        if "wrong" in kinds:
            env = Wrong(env)
        env = ScaledRewards(EpisodeStats(env), SCALE[name], None)
        return emulated(Spoiled(env, *kinds["spoiled"]) if "spoiled" in kinds else env)

    return make
