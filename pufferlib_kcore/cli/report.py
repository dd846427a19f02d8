"""--mode report: a run beside the run resumed from its collapse."""

from __future__ import annotations

from pufferlib_kcore.cli.found import run_source
from pufferlib_kcore.jobs.comparing import ReportRequest, report
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print the comparison, and where its figure and its page are."""
    thresholds = args.settings.collapse.one_or_by_kind()
    done = report(ReportRequest(run=run_source(args).run, thresholds=thresholds), shown)
    print(done.comparison)
    for path in (done.png, done.html):
        print(f"wrote {path}")
    return 0
