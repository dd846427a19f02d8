"""Store: what a run leaves on disk, by name, written whole and read safely."""

from pufferlib_kcore.store import metta
from pufferlib_kcore.store.checkpoints import load, save
from pufferlib_kcore.store.fibers import load_fibers, save_fibers
from pufferlib_kcore.store.finding import find_run, newest_run, runs_below
from pufferlib_kcore.store.metta import MettaFolder
from pufferlib_kcore.store.provenance import provenance
from pufferlib_kcore.store.runs import CollapseFolder, Run

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
