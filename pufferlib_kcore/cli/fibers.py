"""--mode fibers: the fibers of every checkpoint of a run."""

from __future__ import annotations

from pufferlib_kcore.cli.found import run_source
from pufferlib_kcore.jobs.fibers import fibers_over_time, table
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print a line a checkpoint."""
    source = run_source(args).run
    print(table(fibers_over_time(source, args.settings.collapse.one_or_by_kind(), shown)))
    print(f"wrote {source.history_path}")
    return 0
