"""Installed: whether a package is here, without importing it."""

import importlib.util


def is_installed(module: str) -> bool:
    """Whether it can be imported; a folder of that name, such as W&B's own, does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None
