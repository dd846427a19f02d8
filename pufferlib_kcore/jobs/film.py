"""Film: whole episodes of a policy, one after the other, as an MP4 at the environment's own pace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pufferlib_kcore.environments import vector
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.training.acting import Played, play

FRAMES_PER_SECOND = 30  # where an environment does not say it


@dataclass(frozen=True, kw_only=True)
class Film:
    """An MP4 of whole episodes."""

    path: Path
    episodes: int
    frames: int
    fps: float  # as the environment plays

    def __str__(self) -> str:
        return (
            f"film={self.path} film_episodes={self.episodes} film_frames={self.frames} film_fps={self.fps:g}"
        )


def film(path: Path, restored: Restored, settings: Settings, episodes: int) -> tuple[Played, Film]:
    """Play so many episodes in one environment, and film each from its first state to its last.

    -> what was played, and the MP4 beside the checkpoint
    Raises UserError where there is no OpenCV, no picture or no room for it.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("--capture-video needs OpenCV: pip install opencv-python-headless") from None
    seed, out = settings.train.seed, path.with_suffix(".mp4")
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp.mp4")
    vec = vector.make(worlds.creator(settings, render_mode="rgb_array"), "serial", 1, 1, None, seed)
    metadata = vec.driver_env.env.metadata or {}
    pace, frames, writer = float(metadata.get("render_fps") or FRAMES_PER_SECOND), 0, None

    def shoot(step: int) -> None:
        nonlocal frames, writer
        frame = picture(vec.driver_env, settings)
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), pace, size)
            if not writer.isOpened():
                raise UserError(
                    f"cannot write {out}: no MP4 encoder in OpenCV here, or no room in the folder"
                )
        writer.write(frame[:, :, ::-1])
        frames += 1

    try:
        worlds.World(vec, None, "serial").check(restored.spec, str(path))
        played = play(restored.policy, vec, seed, episodes=episodes, watch=shoot)
        if writer is not None:
            writer.release()
            os.replace(unfinished, out)
    finally:
        if writer is not None:
            writer.release()
        unfinished.unlink(missing_ok=True)
        vec.close()
    return played, Film(path=out, episodes=len(played.returns), frames=frames, fps=pace)


def picture(env: Any, settings: Settings) -> Any:
    """What an environment shows, (height, width, 3) uint8.  Raises UserError where it cannot draw."""
    try:
        return env.render()
    except UserError:
        raise
    except Exception as error:  # OpenGL fails in as many ways as there are drivers
        backend = os.environ.get("MUJOCO_GL")
        hint = (
            f"MUJOCO_GL is {backend}: try another of egl, osmesa and glfw" if backend else "set MUJOCO_GL=egl"
        )
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"cannot draw {settings.base.env_name} here ({reason}): {hint}, or leave --capture-video out"
        ) from error
