"""Atari games as PufferLib 2.0 prepares them: grayscale, every second pixel, no life-loss ends."""

from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pufferlib_kcore.environments.packages import register

TWO_PLAYERS = dict.fromkeys(  # ALE exits the process when it loads one alone
    ("combat", "joust", "maze_craze", "warlords"), "it needs two players, and ALE starts games for one"
)

FRAMES_PER_SECOND = 60  # of the console


@cache
def names() -> tuple[str, ...]:
    """Every game that one player can start, by ALE's rom id, sorted."""
    import ale_py

    return tuple(sorted(set(ale_py.roms.get_all_rom_ids()) - set(TWO_PLAYERS)))


@register("atari", names, spelled=True, refused=TWO_PLAYERS)
def make(
    name: str,
    *,
    frameskip: int = 4,
    repeat_action_probability: float = 0.0,
    framestack: int = 1,
    full_action_space: bool = False,
    max_num_frames_per_episode: int | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """One game.  Observations: (framestack, height / 2, width / 2) uint8, mostly (1, 105, 80).

    frameskip: emulator frames an action is held for; repeat_action_probability: ALE's sticky actions;
    max_num_frames_per_episode: emulator frames until truncation, None for no limit.
    """
    import ale_py

    ale_py.ALEInterface.setLoggerMode(
        ale_py.LoggerMode.Error
    )  # before its banner, which comes with the first
    game = ale_py.AtariEnv(
        name,
        obs_type="grayscale",
        frameskip=frameskip,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        max_num_frames_per_episode=max_num_frames_per_episode,
        render_mode=render_mode,
    )
    game.metadata = {**game.metadata, "render_fps": FRAMES_PER_SECOND / frameskip}
    return Screens(game, framestack)


class Screens(gymnasium.Wrapper):
    """The last screens at half size, newest last: (framestack, height / 2, width / 2) uint8."""

    def __init__(self, env: gymnasium.Env, framestack: int = 1):
        super().__init__(env)
        height, width = (env.observation_space.shape or ())[:2]
        self.stack = np.zeros((framestack, (height + 1) // 2, (width + 1) // 2), np.uint8)
        self.observation_space = spaces.Box(0, 255, self.stack.shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        screen, info = self.env.reset(seed=seed, options=options)
        self.stack[:] = screen[::2, ::2]
        return self.stack.copy(), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict]:
        screen, reward, terminated, truncated, info = self.env.step(action)
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = screen[::2, ::2]
        return self.stack.copy(), reward, terminated, truncated, info
