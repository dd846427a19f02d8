"""Analysis: what runs left in files, as curves, fibers over time, figures and reports."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pufferlib_kcore.analysis.comparison import Comparison, compare
    from pufferlib_kcore.analysis.curves import Curve
    from pufferlib_kcore.analysis.logs import parse

__all__ = ["Comparison", "Curve", "compare", "parse"]
PLACES = dict(Comparison="comparison", compare="comparison", Curve="curves", parse="logs")


def __getattr__(name: str) -> Any:
    """Each is loaded when first asked for: not every process that writes files draws figures."""
    if name in PLACES:
        return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
