"""--mode connectivity: the lines from a run to its collapse, and on."""

from __future__ import annotations

from pufferlib_kcore.cli.found import run_source
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.jobs.valley import ValleyRequest, valley
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print each line's ends and barrier, and where the figure is."""
    done = valley(ValleyRequest(source=run_source(args), line=args.settings.line), shown)
    print(done)
    print(f"wrote {done.run.lines_path} and {done.png}")
    return 0
