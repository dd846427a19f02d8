"""Gymnasium's classic control and MuJoCo tasks, by Gymnasium's ids or by plain names."""

import ctypes.util
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import gymnasium

from pufferlib_kcore.environments.packages import register
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


@register("mujoco", MUJOCO, ids=MUJOCO)
@register("classic_control_continuous", CLASSIC_CONTINUOUS, ids=CLASSIC_CONTINUOUS)
@register("classic_control", CLASSIC, ids=CLASSIC)
def make(name: str, *, max_episode_steps: int | None = None, render_mode: str | None = None) -> gymnasium.Env:
    """One task.  max_episode_steps: steps until truncation, None for Gymnasium's own limit."""
    if name in MUJOCO:
        _need("mujoco", f"{IDS[name]} needs MuJoCo", "mujoco")
        if render_mode is not None:
            os.environ.update(_offscreen(name))  # read when MuJoCo is first imported
        mujoco = _mujoco(name)
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


@contextmanager
def one_model() -> Iterator[None]:
    """Within: MuJoCo tasks of one kind that are made share their model, which stepping only reads.

    Each has data of its own. Of a thousand that are stepped in turns this halves making them, and takes a
    fifth off a step, whose model is then still in the cache.
    """
    if importlib.util.find_spec("mujoco") is None:
        yield
        return
    import mujoco

    cached = functools.cache(mujoco.MjModel.from_xml_path)
    with mock.patch.object(mujoco.MjModel, "from_xml_path", cached):
        yield


def _mujoco(name: str) -> Any:
    """The module.  Raises UserError where it cannot be imported, as with an OpenGL that is not there."""
    try:
        import mujoco
    except Exception as error:
        backend = os.environ.get("MUJOCO_GL")
        cure = f"MUJOCO_GL is {backend}: unset it, or try egl" if backend else "install it anew"
        raise UserError(f"{IDS[name]}: MuJoCo cannot be loaded here ({error}); {cure}") from error
    return mujoco


def _offscreen(name: str) -> dict[str, str]:
    """What lets MuJoCo draw where there is no display, unless the user chose.  Raises UserError."""
    if {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys() or sys.platform != "linux":
        return {}
    for library, backend in (("EGL", "egl"), ("OSMesa", "osmesa")):
        if ctypes.util.find_library(library):
            return {"MUJOCO_GL": backend}
    raise UserError(
        f"pictures of {IDS[name]} need a display, EGL or OSMesa, and there is none here: install one, "
        "as in apt install libegl1"
    )


def _need(module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f'{what}, which is not installed: pip install "gymnasium[{extra}]"')
