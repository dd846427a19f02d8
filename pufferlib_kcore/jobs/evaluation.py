"""Evaluation: play whole episodes with a checkpoint, and film them where asked."""

from __future__ import annotations

from pathlib import Path

from pufferlib_kcore.jobs import stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Args, Settings, resolve
from pufferlib_kcore.store import Run


def chosen(args: Args, found: Run | None) -> tuple[Path, Restored, Settings]:
    """The checkpoint to play, its policy, and the settings of its environment."""
    if found is not None:
        path = found.latest()[1]
        return path, worlds.restored(path, args, found), stored.stored_settings(found, args)
    path = Path(args.eval_model_path or "")
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
