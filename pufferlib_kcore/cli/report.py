"""--mode report: a run beside the run resumed from its collapse."""

from __future__ import annotations

from pufferlib_kcore.cli.found import source_run
from pufferlib_kcore.jobs import progress
from pufferlib_kcore.jobs.collapsing import thresholds_of
from pufferlib_kcore.jobs.comparing import ReportRequest, report
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print the comparison, and where its figure and its page are."""
    done = report(ReportRequest(run=source_run(args), thresholds=thresholds_of(args)), progress.shown)
    print(done.comparison)
    for path in (done.png, done.html):
        print(f"wrote {path}")
    return 0
