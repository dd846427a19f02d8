"""Analysis: what runs left in files, as curves, fibers over time, figures and reports."""

from pufferlib_kcore.analysis.comparison import Comparison, compare
from pufferlib_kcore.analysis.curves import Curve
from pufferlib_kcore.analysis.fibers import FiberHistory
from pufferlib_kcore.analysis.logs import parse

__all__ = ["Comparison", "Curve", "FiberHistory", "compare", "parse"]
