"""What every env gets: episode statistics, clipped actions, float32."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class EpisodeStats(gymnasium.Wrapper):
    """Infos hold the finished episode's return and length, and the numbers that the env tells of it then.

    episode_return is the sum of the raw rewards, episode_length the number of steps (as the agent counts
    them, not frames); the env's numbers keep their keys. Infos of other steps are dropped.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.episode_return, self.episode_length = 0.0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.episode_return, self.episode_length = 0.0, 0
        observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.episode_return += float(reward)
        self.episode_length += 1
        info = self.told(info) if terminated or truncated else {}
        return observation, float(reward), terminated, truncated, info

    def told(self, info: dict) -> dict[str, float]:
        """Of an episode that is over."""
        counted = {"episode_return": self.episode_return, "episode_length": self.episode_length}
        return {**numbers(info), **counted}


def numbers(info: dict) -> dict[str, float]:
    """What is a number in an env's info; lists, text and arrays are left out."""
    kinds = (int, float, np.number, np.bool_)
    return {key: float(value) for key, value in info.items() if isinstance(value, kinds)}


class ClipActions(gymnasium.ActionWrapper):
    """Any real number is an action; the env gets the nearest one that it allows."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        assert isinstance(env.action_space, spaces.Box)
        self.low, self.high = env.action_space.low, env.action_space.high
        self.action_space = spaces.Box(-np.inf, np.inf, env.action_space.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum(action, self.low), self.high)  # np.clip, at a third of its time


class Float32Observations(gymnasium.ObservationWrapper):
    """Observations as float32, whatever the env's precision."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space = spaces.Box(
            space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.asarray(observation, np.float32)


def adapt(env: gymnasium.Env) -> gymnasium.Env:
    """Episode statistics, and the wrappers that this env's spaces call for."""
    if isinstance(env.observation_space, spaces.Box) and env.observation_space.dtype == np.float64:
        env = Float32Observations(env)
    if isinstance(env.action_space, spaces.Box):
        env = ClipActions(env)
    return EpisodeStats(env)
