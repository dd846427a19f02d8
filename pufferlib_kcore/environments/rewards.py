"""Rewards as they are learned from: wrappers by registered name, around an env that counts the raw ones."""

from collections.abc import Callable
from typing import Any

import gymnasium

from pufferlib_kcore.registry import Registry

REWARDS: Registry[Callable[..., gymnasium.Env]] = Registry("reward", given=("env",))  # make(env, **settings)


@REWARDS.register("scaled")
def scaled(
    env: gymnasium.Env, *, reward_scale: float = 1.0, reward_clip: float | None = None
) -> gymnasium.Env:
    """clip(reward * reward_scale, -reward_clip, reward_clip)"""
    raw = reward_scale == 1 and reward_clip is None
    return env if raw else ScaledRewards(env, reward_scale, reward_clip)


class ScaledRewards(gymnasium.Wrapper):
    """clip(reward * scale, -clip, clip)"""

    def __init__(self, env: gymnasium.Env, scale: float, clip: float | None):
        super().__init__(env)
        self.scale, self.clip = float(scale), clip

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward) * self.scale
        if self.clip is not None:
            reward = min(max(reward, -self.clip), self.clip)
        return observation, reward, terminated, truncated, info
