"""--mode autotune: the share of the cores that is fastest on this machine."""

from __future__ import annotations

from functools import partial

from pufferlib_kcore.jobs.autotuning import AutotuneRequest, autotune
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print a line a measurement, and where the fastest is written."""
    request = AutotuneRequest(settings=args.settings, vec=args.vec, config=args.config)
    done = autotune(request, partial(print, flush=True))
    read_by = f"which every run of {args.settings.base.env_name} reads"
    print(f"fastest: {done.speed:,.0f} steps/s; wrote {done.path}, {read_by}")
    return 0
