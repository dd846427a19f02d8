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
    seed = settings.train.seed
    check_opencv()
    vec = vector.make(worlds.creator(settings, render_mode="rgb_array"), "serial", 1, 1, None, seed)
    metadata = vec.driver_env.env.metadata or {}
    camera = Camera(path.with_suffix(".mp4"), float(metadata.get("render_fps") or FRAMES_PER_SECOND))
    try:
        worlds.World(vec, None, "serial").check(restored.spec, str(path))
        played = play(
            restored.policy,
            vec,
            seed,
            episodes=episodes,
            watch=lambda step: camera.shoot(picture(vec.driver_env, settings)),
        )
        camera.keep()
    finally:
        camera.close()
        vec.close()
    return played, Film(path=camera.out, episodes=len(played.returns), frames=camera.frames, fps=camera.fps)


def check_opencv() -> None:
    """Raise UserError where OpenCV is not there."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise UserError("--capture-video needs OpenCV: pip install opencv-python-headless") from None


class Camera:
    """Pictures to an MP4, under its name when it is whole."""

    def __init__(self, out: Path, fps: float):
        self.out, self.fps, self.frames = out, fps, 0
        self._unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp.mp4")
        self._writer: Any = None

    def shoot(self, frame: Any) -> None:
        """Add a picture, (height, width, 3) uint8.  Raises UserError where nothing can be written."""
        import cv2

        if self._writer is None:
            size = frame.shape[1], frame.shape[0]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._unfinished), code, self.fps, size)
            if not self._writer.isOpened():
                raise UserError(
                    f"cannot write {self.out}: no MP4 encoder in OpenCV here, or no room in the folder"
                )
        self._writer.write(frame[:, :, ::-1])
        self.frames += 1

    def keep(self) -> None:
        """What was shot is whole."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._unfinished, self.out)

    def close(self) -> None:
        """Nothing half-written stays."""
        if self._writer is not None:
            self._writer.release()
        self._unfinished.unlink(missing_ok=True)


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
