"""--mode eval: play whole episodes with a checkpoint, and film them where asked."""

from __future__ import annotations

from pufferlib_kcore.cli.found import checkpoint_source
from pufferlib_kcore.jobs.evaluation import EvaluateRequest, evaluate
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print the mean return, and where the film is."""
    source = checkpoint_source(args)
    print(evaluate(EvaluateRequest(source=source, episodes=args.episodes, film=args.capture_video)))
    return 0
