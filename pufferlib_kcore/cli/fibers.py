"""--mode fibers: the fibers of every checkpoint of a run."""

from __future__ import annotations

from pufferlib_kcore.cli.found import run_source
from pufferlib_kcore.jobs.fibers import FibersRequest, fibers_over_time, table
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print a line a checkpoint."""
    request = FibersRequest(run=run_source(args).run, thresholds=args.settings.collapse.one_or_by_kind())
    print(table(fibers_over_time(request, shown)))
    print(f"wrote {request.run.history_path}")
    return 0
