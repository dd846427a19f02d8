"""--mode eval: play whole episodes with a checkpoint, and film them where asked."""

from __future__ import annotations

from pufferlib_kcore.cli.found import played_run
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.evaluation import chosen
from pufferlib_kcore.jobs.film import film
from pufferlib_kcore.settings import Args
from pufferlib_kcore.training.evaluate import play


def run(args: Args) -> int:
    """Print the mean return, and where the film is."""
    path, restored, settings = chosen(args, played_run(args))
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
