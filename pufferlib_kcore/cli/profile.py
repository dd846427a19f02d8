"""--mode profile: where the time of training goes."""

from __future__ import annotations

from pufferlib_kcore.jobs.profiling import ProfileRequest, profile
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print how the cores are shared, and a line a part."""
    print(profile(ProfileRequest(settings=args.settings, vec=args.vec)))
    return 0
