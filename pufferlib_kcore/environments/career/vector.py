"""CareerVectorEnv: many careers a call, by numpy."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from pufferlib_kcore.environments.career import dynamics
from pufferlib_kcore.environments.career.env import CareerEnv
from pufferlib_kcore.environments.career.params import EnvironmentParams


class CareerVectorEnv(gymnasium.vector.VectorEnv):
    """N of CareerEnv, of one generator; same numbers for the same draws.

    An episode that ended starts anew in the same call (Gymnasium's SAME_STEP); infos hold final_obs (N, 4)
    then, and with it `_final_obs` (N,) of bool.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, num_envs: int, params: EnvironmentParams | None = None, **over: Any):
        one = CareerEnv(params, **over)
        self.num_envs, self.params, self.shown = num_envs, one.params, one.shown
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(one.observation_space, num_envs)
        self.action_space = batch_space(one.action_space, num_envs)
        self.time = np.zeros(num_envs, int)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.career = dynamics.start(self.params, self.np_random.standard_normal(self.num_envs))
        self.time[:] = 0
        return self._observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        u = self.np_random.random((dynamics.UNIFORMS, self.num_envs))
        z = self.np_random.standard_normal((dynamics.NORMALS, self.num_envs))
        switch = np.asarray(actions)
        self.career = dynamics.transition(self.params, self.career, switch, u, z)
        self.time += 1
        rewards = dynamics.base_reward(self.career)
        ended = self.career.burnout >= dynamics.BURNED_OUT
        cut = (self.time >= self.params.max_steps) & ~ended
        over, info = ended | cut, {}
        if over.any():
            info = {"final_obs": self._observe(), "_final_obs": over}
            fresh = dynamics.start(self.params, self.np_random.standard_normal(self.num_envs))
            self.career = dynamics.Career(
                *(np.where(over, a, b) for a, b in zip(fresh, self.career, strict=True))
            )
            self.time[over] = 0
        return self._observe(), rewards, ended, cut, info

    def _observe(self) -> np.ndarray:
        return self.career.observe() * self.shown
