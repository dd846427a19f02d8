"""Evaluate: play whole episodes with a checkpoint, and film them where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pufferlib_kcore.cli import world as worlds
from pufferlib_kcore.cli.collapse import source_run
from pufferlib_kcore.environments import vector
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Args, Settings, resolve
from pufferlib_kcore.training.evaluate import play

FILM_STEPS = 2_000  # a film's length at most
FRAMES_PER_SECOND = 15  # of game time with a frameskip of 4


def run(args: Args) -> int:
    """--mode eval"""
    path, restored, settings = chosen(args)
    count = args.settings.train.num_envs if args.episodes is None else args.episodes
    if args.capture_video and args.vec == "ale":
        raise UserError("--vec ale has no pictures to film: leave --capture-video out")
    vec = worlds.one_group(settings, args.vec, min(count, 16))
    try:
        played = play(restored.policy, vec, settings.train.seed, count)
    finally:
        vec.close()
    print(f"checkpoint={path} env={settings.base.env_name} {played}")
    if args.capture_video:
        print(f"film={film(path, restored, settings)}")
    return 0


def chosen(args: Args) -> tuple[Path, Restored, Settings]:
    """The checkpoint to play, its policy, and the settings of its environment."""
    if args.eval_model_path is None:
        found = source_run(args)
        path = found.latest()[1]
        return path, worlds.restored(path, args), worlds.stored_settings(found, args)
    path = Path(args.eval_model_path)
    restored = worlds.restored(path, args)
    if "env" not in restored.payload:  # a pickled module says nothing of its environment
        return path, restored, args.settings
    env: dict[str, Any] = restored.payload["env"]
    overrides = {**{f"env.{k}": v for k, v in env["kwargs"].items()}, **args.overrides}
    return path, restored, resolve(env["name"], overrides, args.config)


def film(path: Path, restored: Restored, settings: Settings) -> Path:
    """One episode as an MP4 beside the checkpoint."""
    try:
        import cv2
    except ImportError:
        raise UserError("--capture-video needs OpenCV: pip install opencv-python-headless") from None

    vec = vector.make(
        worlds.creator(settings, render_mode="rgb_array"), "serial", 1, 1, None, settings.train.seed
    )
    out = path.with_name(f"{path.stem}.mp4")
    writer = None

    def shoot(step: int) -> None:
        nonlocal writer
        frame = vec.driver_env.render()
        if writer is None:
            size = frame.shape[1], frame.shape[0]
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, size)
            if not writer.isOpened():
                raise UserError(f"cannot write {out}: OpenCV has no MP4 encoder here")
        writer.write(frame[:, :, ::-1])

    try:
        play(restored.policy, vec, settings.train.seed, 1, max_steps=FILM_STEPS, watch=shoot)
    finally:
        if writer is not None:
            writer.release()
        vec.close()
    return out
