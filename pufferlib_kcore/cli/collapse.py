"""--mode collapse: a run's checkpoint to a smaller policy."""

from __future__ import annotations

from pufferlib_kcore.cli.found import source_run
from pufferlib_kcore.jobs import progress
from pufferlib_kcore.jobs.collapsing import collapse_run
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print what was collapsed and written."""
    again = args.layout != "metta"  # whose collapse is one for retrainings of every seed
    print(collapse_run(args, source_run(args), progress.shown, again).text)
    return 0
