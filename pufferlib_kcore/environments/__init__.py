"""Worlds to learn in: creators by name, and many of them stepped at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pufferlib_kcore.environments.creators import make_creator, names

__all__ = ["make_creator", "names"]


def __getattr__(name: str) -> Any:
    """Import the creators when first asked for: `environments.quiet` must come before what it quietens."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pufferlib_kcore.environments import creators

    return getattr(creators, name)
