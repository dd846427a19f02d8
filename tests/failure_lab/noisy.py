"""A chain whose values are known: action a pays mu_a plus noise of its own size, whatever came before."""

import gymnasium
import numpy as np
from gymnasium import spaces

MU = np.array([0.0, 1.0, 3.0])


class Noisy(gymnasium.Env):
    """Q(a) = mu_a + (gamma + .. + gamma^(h - 1)) mu_b, where b is taken ever after.

    common: the noise of a step is the same number whatever is done. Observation: steps so far.
    """

    observation_space = spaces.Box(0, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, sigma=1.0, length=100, common=True):
        self.sigma, self.length, self.common = sigma, length, common
        self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        z = self.np_random.standard_normal(3)
        reward = MU[action] + self.sigma * z[0 if self.common else action]
        return self._observe(), reward, self.time >= self.length, False, {}

    def _observe(self):
        return np.array([self.time], np.float32)
