"""Store: what a run leaves on disk, by name, written whole and read safely."""

from typing import TYPE_CHECKING, Any

from pufferlib_kcore.store import metta
from pufferlib_kcore.store.finding import find_run, newest_run, runs_below
from pufferlib_kcore.store.metta import MettaFolder
from pufferlib_kcore.store.provenance import provenance
from pufferlib_kcore.store.runs import CollapseFolder, Run

if TYPE_CHECKING:
    from pufferlib_kcore.store.checkpoints import load, save
    from pufferlib_kcore.store.fibers import load_fibers, save_fibers

__all__ = [
    "CollapseFolder",
    "MettaFolder",
    "Run",
    "find_run",
    "load",
    "load_fibers",
    "metta",
    "newest_run",
    "provenance",
    "runs_below",
    "save",
    "save_fibers",
]


def __getattr__(name: str) -> Any:
    """What reads and writes tensors is loaded when first asked for: names and folders need no torch."""
    if name in ("load", "save"):
        from pufferlib_kcore.store import checkpoints

        return getattr(checkpoints, name)
    if name in ("load_fibers", "save_fibers"):
        from pufferlib_kcore.store import fibers

        return getattr(fibers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
