"""Neurons that compute the same, found from the weights alone, merged, and trained on."""

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph import Collapse, collapse, collapse_optimizer, lift, resize, rule, spaces

__all__ = ["Collapse", "UserError", "collapse", "collapse_optimizer", "lift", "resize", "rule", "spaces"]
