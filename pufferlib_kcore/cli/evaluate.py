"""Evaluate: play whole episodes with a checkpoint, and film them where asked."""

from __future__ import annotations

from pathlib import Path

from pufferlib_kcore.cli import stored
from pufferlib_kcore.cli import world as worlds
from pufferlib_kcore.cli.collapse import source_run
from pufferlib_kcore.cli.film import film
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Args, Settings, resolve
from pufferlib_kcore.training.evaluate import play


def run(args: Args) -> int:
    """--mode eval"""
    path, restored, settings = chosen(args)
    count = settings.train.num_envs if args.episodes is None else args.episodes
    if args.capture_video:
        if args.vec == "ale":
            raise UserError("--vec ale has no pictures to film: leave --capture-video out")
        played, shot = film(path, restored, settings, count)
    else:
        vec = worlds.one_group(settings, args.vec, min(count, 16))
        try:
            worlds.World(vec, None, args.vec).check(restored.spec, str(path))
            played, shot = play(restored.policy, vec, settings.train.seed, count), ""
        finally:
            vec.close()
    print(f"checkpoint={path} env={settings.base.env_name} {played}")
    if shot:
        print(shot)
    return 0


def chosen(args: Args) -> tuple[Path, Restored, Settings]:
    """The checkpoint to play, its policy, and the settings of its environment."""
    if args.eval_model_path is None:
        found = source_run(args)
        path = found.latest()[1]
        return path, worlds.restored(path, args, found), stored.stored_settings(found, args)
    path = Path(args.eval_model_path)
    restored = worlds.restored(path, args)
    env = restored.file.env
    if env is None:  # a pickled module says nothing of its environment
        return path, restored, args.settings
    stored.check_env(args.env, env.name, path)

    def over(overrides: dict[str, str]) -> Settings:
        played = {f"env.{key}": value for key, value in env.kwargs.items()}
        return resolve(env.name, {**played, **overrides}, args.config)

    stored.check_policy(restored.spec, args, path, over)
    return path, restored, over(args.overrides)
