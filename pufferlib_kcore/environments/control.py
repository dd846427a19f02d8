"""Gymnasium's classic control and MuJoCo tasks, by Gymnasium's ids or by plain names."""

import importlib.util
import os

import gymnasium

from pufferlib_kcore.errors import UserError

CLASSIC = {
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
    "mountain_car": "MountainCar-v0",
}
CLASSIC_CONTINUOUS = {
    "pendulum": "Pendulum-v1",
    "mountain_car_continuous": "MountainCarContinuous-v0",
}
MUJOCO = {
    "ant": "Ant-v5",
    "half_cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "humanoid": "Humanoid-v5",
    "humanoid_standup": "HumanoidStandup-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "pusher": "Pusher-v5",
    "reacher": "Reacher-v5",
    "swimmer": "Swimmer-v5",
    "walker2d": "Walker2d-v5",
}
IDS = {**CLASSIC, **CLASSIC_CONTINUOUS, **MUJOCO}


def make(name: str, *, max_episode_steps: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """One task.  max_episode_steps: steps until truncation, None for Gymnasium's own limit."""
    if name in MUJOCO:
        _need("mujoco", f"{IDS[name]} needs MuJoCo", "mujoco")
        import mujoco

        mujoco.set_mju_user_warning(lambda text: None)  # else printed, and logged to the working folder
    elif render_mode is not None:
        _need("pygame", f"pictures of {IDS[name]} need pygame", "classic-control")
        os.environ.setdefault(
            "SDL_VIDEODRIVER", "dummy"
        )  # pygame looks for a screen, and complains, otherwise
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    try:
        return gymnasium.make(IDS[name], render_mode=render_mode, disable_env_checker=True, **limit)
    except gymnasium.error.UnregisteredEnv:
        raise UserError(
            f"{IDS[name]} is not in Gymnasium {gymnasium.__version__}: install Gymnasium 1.0 or later"
        ) from None


def _need(module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f'{what}, which is not installed: pip install "gymnasium[{extra}]"')
