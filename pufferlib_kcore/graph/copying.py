"""Copying: policies and what they are given, also those that hold what torch or Python would not copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

Copied = TypeVar("Copied")
FAILURES = (TypeError, AttributeError, ValueError, RuntimeError, OSError)  # of copying what has no copy


def copy_of(original: Copied) -> Copied:
    """A deep copy, in which computed tensors are cut from their graph.

    What a module keeps that cannot be copied, such as a lock, a file or a running environment, is shared.
    """
    memo: dict[int, Any] = {}
    with _Cut():
        try:
            return copy.deepcopy(original, memo)
        except FAILURES:
            memo = {}
            _share_what_must_be(original, memo, set())
            return copy.deepcopy(original, memo)


def _share_what_must_be(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Put into the memo, as its own copy, what is in a value and cannot be copied."""
    if id(value) in seen or isinstance(value, Tensor):
        return
    seen.add(id(value))
    try:
        copy.deepcopy(value, dict(memo))
        return
    except FAILURES:
        inner = list(value.values()) if isinstance(value, dict) else []
        inner += list(value) if isinstance(value, (list, tuple, set)) else []
        inner += list(getattr(value, "__dict__", {}).values())
        for part in inner:
            _share_what_must_be(part, memo, seen)
    try:
        copy.deepcopy(value, dict(memo))
    except FAILURES:
        memo[id(value)] = value


class _Cut(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
