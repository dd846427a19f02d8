"""The engine on whole policies: trace, color, collapse, lift, rebuild."""

from pufferlib_kcore.graph.breaker import Broken, SymmetryBreaker
from pufferlib_kcore.graph.collapsing import collapse
from pufferlib_kcore.graph.colorings import Coloring
from pufferlib_kcore.graph.controls import ablate, reinitialize
from pufferlib_kcore.graph.distillation import distill
from pufferlib_kcore.graph.faithfulness import Divergence, divergence
from pufferlib_kcore.graph.inspection import Spaces, spaces
from pufferlib_kcore.graph.lifting import lift
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.operations import rule
from pufferlib_kcore.graph.optimizer import collapse_optimizer
from pufferlib_kcore.graph.resizing import resize
from pufferlib_kcore.graph.search import Point, Search, search
from pufferlib_kcore.graph.traced import Traced, trace

__all__ = [
    "Broken",
    "Collapse",
    "Coloring",
    "Divergence",
    "Point",
    "Search",
    "Spaces",
    "SymmetryBreaker",
    "Traced",
    "ablate",
    "collapse",
    "collapse_optimizer",
    "distill",
    "divergence",
    "lift",
    "reinitialize",
    "resize",
    "rule",
    "search",
    "spaces",
    "trace",
]
