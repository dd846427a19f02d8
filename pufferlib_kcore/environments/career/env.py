"""CareerEnv: stay in a job and tire, or switch it and risk the salary."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.career import dynamics
from pufferlib_kcore.environments.career.dynamics import Career
from pufferlib_kcore.environments.career.params import EnvironmentParams, checked
from pufferlib_kcore.errors import UserError

NAMES = ("salary", "burnout", "tenure", "market")
ACTIONS = ("STAY", "SWITCH")
SPACE = spaces.Box(np.array([0, 0, 0, -1], np.float32), np.ones(4, np.float32), dtype=np.float32)


class CareerEnv(gymnasium.Env):
    """One career.  Observation (4,) float32, see `dynamics.Career.observe`; actions 0 STAY, 1 SWITCH.

    Terminates at a burnout of 1, is cut off after max_steps; the reward is `dynamics.base_reward`, and
    infos hold the state in plain units. hidden: names of what the observation does not show (0 in its
    place), as in hidden=("burnout",), which makes it a POMDP. `reset()` without a seed goes on with the
    generator. Raises UserError for parameters that there are not, or out of range.
    """

    metadata = {"render_modes": []}
    feature_names, action_names = NAMES, ACTIONS

    def __init__(self, params: EnvironmentParams | None = None, *, hidden: tuple[str, ...] = (), **over: Any):
        if params is not None and over:
            raise UserError("give EnvironmentParams, or single parameters, not both")
        self.params = EnvironmentParams(**checked(over)) if params is None else params
        if unknown := set(hidden) - set(NAMES):
            raise UserError(f"cannot hide {sorted(unknown)[0]!r}: expected names of {', '.join(NAMES)}")
        self.shown = np.array([name not in hidden for name in NAMES], np.float32)
        self.observation_space = SPACE
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.career, self.time = Career(dynamics.FIRST, 0.0, 0.0, 0.0), 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.career, self.time = dynamics.start(self.params, self.np_random.standard_normal()), 0
        return self._observe(), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        u, z = self.np_random.random(dynamics.UNIFORMS), self.np_random.standard_normal(dynamics.NORMALS)
        self.career = dynamics.transition(self.params, self.career, int(action), u.tolist(), z.tolist())
        self.time += 1
        ended = bool(self.career.burnout >= dynamics.BURNED_OUT)
        cut = self.time >= self.params.max_steps and not ended
        reward = float(dynamics.base_reward(self.career))
        return self._observe(), reward, ended, cut, self._info()

    def _observe(self) -> np.ndarray:
        return self.career.observe() * self.shown

    def _info(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.career._asdict().items()}
