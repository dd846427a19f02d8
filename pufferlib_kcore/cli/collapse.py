"""--mode collapse: a run's checkpoint to a smaller policy."""

from __future__ import annotations

from pufferlib_kcore.cli.found import run_source
from pufferlib_kcore.jobs.collapsing import CollapseRequest, collapse
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print what was collapsed and written."""
    print(collapse(collapse_request(args), shown).text)
    return 0


def collapse_request(args: Args) -> CollapseRequest:
    """The collapse that the arguments ask for.  Raises UserError, see `found.run_source`."""
    return CollapseRequest(
        source=run_source(args),
        settings=args.settings.collapse,
        again=args.layout != "metta",  # where one collapse is for retrainings of every seed
        insist="collapse.calibrate" in args.overrides,
    )
