"""--mode fibers: the fibers of every checkpoint of a run."""

from __future__ import annotations

from pufferlib_kcore.cli.found import source_run
from pufferlib_kcore.jobs import progress
from pufferlib_kcore.jobs.collapsing import thresholds_of
from pufferlib_kcore.jobs.fibers import fibers_over_time, table
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print a line a checkpoint."""
    source = source_run(args)
    print(table(fibers_over_time(source, thresholds_of(args), progress.shown)))
    print(f"wrote {source.history_path}")
    return 0
