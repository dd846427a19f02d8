"""Store: what a run leaves on disk, by name, written whole and read safely."""

import importlib
from typing import TYPE_CHECKING, Any

from pufferlib_kcore.store import metta
from pufferlib_kcore.store.finding import find_run, newest_run, runs_below
from pufferlib_kcore.store.metta import MettaFolder
from pufferlib_kcore.store.provenance import provenance
from pufferlib_kcore.store.runs import CollapseFolder, Run

if TYPE_CHECKING:
    from pufferlib_kcore.store.fibers import FibersFile, SpaceFibers
    from pufferlib_kcore.store.history import Count, FiberHistory, SpaceCount
    from pufferlib_kcore.store.models import EnvFacts, Facts, ModelFile
    from pufferlib_kcore.store.probes import ProbeFile
    from pufferlib_kcore.store.states import StateFile

__all__ = [
    "CollapseFolder",
    "Count",
    "EnvFacts",
    "Facts",
    "FiberHistory",
    "FibersFile",
    "MettaFolder",
    "ModelFile",
    "ProbeFile",
    "Run",
    "SpaceCount",
    "SpaceFibers",
    "StateFile",
    "find_run",
    "metta",
    "newest_run",
    "provenance",
    "runs_below",
]
MODULES = dict(
    EnvFacts="models",
    Facts="models",
    ModelFile="models",
    ProbeFile="probes",
    StateFile="states",
    FibersFile="fibers",
    SpaceFibers="fibers",
    FiberHistory="history",
    Count="history",
    SpaceCount="history",
)


def __getattr__(name: str) -> Any:
    """What reads and writes tensors is loaded when first asked for: names and folders need no torch."""
    if name in MODULES:
        return getattr(importlib.import_module(f"pufferlib_kcore.store.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
