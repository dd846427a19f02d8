"""Copying: policies, also those that keep a result of their last call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

Copied = TypeVar("Copied")


def copy_of(policy: Copied) -> Copied:
    """A deep copy, in which computed tensors (those that torch would not copy) are cut from their graph."""
    with _Cut():
        return copy.deepcopy(policy)


class _Cut(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
