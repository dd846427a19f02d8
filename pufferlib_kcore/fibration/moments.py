"""Moments: an optimizer's state, carried from a network to its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import DUAL, PICK, Axis, Fibers, Merge, carry


def first(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers) -> Tensor:
    """A running mean of gradients maps as gradients do."""
    return carry(x, axes, fibers, DUAL)


def second(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers) -> Tensor:
    """A running mean of squares: exact where gradients in a fiber are proportional, else an upper bound."""
    sizes = {name: merge.sizes() if isinstance(merge, Merge) else merge for name, merge in fibers.items()}
    return carry(x.double().sqrt(), axes, sizes, DUAL).square().to(x.dtype)


def update(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers) -> Tensor:
    """Steps already divided by their size are averaged."""
    return carry(x, axes, fibers, PICK)


BUFFERS: dict[str, Callable[[Tensor, tuple[Axis, ...], Fibers], Tensor]] = {
    "exp_avg": first,  # Adam, AdamW, NAdam, RAdam
    "exp_avg_sq": second,
    "max_exp_avg_sq": second,
    "grad_avg": first,  # RMSprop
    "square_avg": second,
    "momentum_buffer": first,  # SGD; RMSprop's is one of updates
}


def collapse_moments(state: Mapping[str, Any], axes: tuple[Axis, ...], fibers: Fibers) -> dict[str, Any]:
    """One parameter's optimizer state (Adam, AdamW, SGD with momentum, RMSprop); step counts are kept.

    Raises UserError for a buffer that it does not know.
    """
    return {key: _carried(key, value, state, axes, fibers) for key, value in state.items()}


def _carried(key: str, value: Any, state: Mapping[str, Any], axes: tuple[Axis, ...], fibers: Fibers) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.ndim != len(axes):  # a count, such as `step`
        return value.clone()
    if key not in BUFFERS:
        raise UserError(f"optimizer state '{key}' cannot be collapsed: expected one of {', '.join(BUFFERS)}")
    carried = update if key == "momentum_buffer" and "square_avg" in state else BUFFERS[key]
    return carried(value, axes, fibers)
