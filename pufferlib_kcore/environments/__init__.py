"""Worlds to learn in: creators by name, and many of them stepped at once."""

from typing import TYPE_CHECKING, Any

from pufferlib_kcore.environments.quiet import quiet

with quiet():  # here, before any module of the rooms does: plugins of other versions make it print
    import gymnasium  # noqa: F401

if TYPE_CHECKING:
    from pufferlib_kcore.environments.creators import find, make_creator, names

__all__ = ["find", "make_creator", "names"]


def __getattr__(name: str) -> Any:
    """Import the creators when first asked for, with PufferLib: `environments.quiet` takes no time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pufferlib_kcore.environments import creators

    return getattr(creators, name)
