"""Neurons that compute the same, found from the weights alone, merged, and trained on."""

from typing import TYPE_CHECKING, Any

from pufferlib_kcore.errors import UserError

if TYPE_CHECKING:
    from pufferlib_kcore.graph import (
        Collapse,
        Coloring,
        Divergence,
        Traced,
        ablate,
        collapse,
        collapse_optimizer,
        distill,
        divergence,
        lift,
        reinitialize,
        resize,
        rule,
        spaces,
    )
    from pufferlib_kcore.graph.breaker import SymmetryBreaker
    from pufferlib_kcore.graph.search import Search, search
    from pufferlib_kcore.graph.traced import trace

__all__ = [
    "Collapse",
    "Coloring",
    "Divergence",
    "Search",
    "SymmetryBreaker",
    "Traced",
    "UserError",
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


def __getattr__(name: str) -> Any:
    """The engine is loaded when first asked for: settings and help need no torch."""
    if name in __all__:
        from pufferlib_kcore import graph

        return getattr(graph, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
