"""Stable-Baselines3: collapse its models, and what watches over one while it learns.

from pufferlib_kcore.integrations import sb3
smaller = sb3.collapse(model, 0.3)
"""

from typing import TYPE_CHECKING, Any

from pufferlib_kcore.integrations.sb3.surgery import collapse, collapse_, trace

if TYPE_CHECKING:
    from pufferlib_kcore.integrations.sb3.callback import KcoreCallback

__all__ = ["KcoreCallback", "collapse", "collapse_", "trace"]


def __getattr__(name: str) -> Any:
    """The callback's class is Stable-Baselines3's child: it is made when first asked for."""
    if name == "KcoreCallback":
        from pufferlib_kcore.integrations.sb3.callback import KcoreCallback

        return KcoreCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
