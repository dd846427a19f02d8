"""A task that only a policy with a memory can solve: name the cue that was shown at the start."""

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.packages import register


class MemoryCue(gymnasium.Env):
    """A cue at the first step, `delay` blank steps, then "go": reward 1 for the action that names the cue.

    Observation: (n_cues + 1,) float32, the cue one-hot in the first n_cues places, "go" in the last.
    Actions before "go" do nothing; the one at "go" ends the episode, after delay + 2 steps. Cues are drawn
    evenly, so a policy without memory gets 1 / n_cues on average, whatever it does.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, n_cues: int = 4, delay: int = 8, render_mode: str | None = None):
        self.n_cues, self.delay, self.render_mode = n_cues, delay, render_mode
        self.observation_space = spaces.Box(0.0, 1.0, (n_cues + 1,), np.float32)
        self.action_space = spaces.Discrete(n_cues)
        self.cue, self.time = 0, 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cue, self.time = int(self.np_random.integers(self.n_cues)), 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        answers = self.time == self.delay + 1
        self.time += 1
        reward = float(answers and int(action) == self.cue)
        return self._observe(), reward, answers, False, {}

    def _observe(self) -> np.ndarray:
        observation = np.zeros(self.n_cues + 1, np.float32)
        if self.time == 0:
            observation[self.cue] = 1
        elif self.time == self.delay + 1:
            observation[-1] = 1
        return observation

    def render(self) -> np.ndarray:
        """The observation as a row of black and white squares.  -> (32, 32 * (n_cues + 1), 3) uint8"""
        row = np.kron(self._observe(), np.ones((32, 32)))
        return np.repeat((255 * row).astype(np.uint8)[:, :, None], 3, axis=2)


@register("memory", ("memory_cue",))
def make(name: str, *, n_cues: int = 4, delay: int = 8, render_mode: str | None = None) -> gymnasium.Env:
    """n_cues: how many different cues; delay: blank steps between the cue and the question."""
    return MemoryCue(n_cues, delay, render_mode)
