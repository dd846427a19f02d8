"""Moments: an optimizer's state, carried from a network to its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.finite import DIVERGED, finite
from pufferlib_kcore.fibration.quotient import DUAL, PICK, Axis, Fibers, Map, Merge, carry


def first(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers) -> Tensor:
    """A running mean of gradients maps as gradients do."""
    return carry(x, axes, fibers, DUAL)


def largest(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers, maps: Mapping[str, Map] = DUAL) -> Tensor:
    """The largest size over time: exact where gradients in a fiber are proportional, else an upper bound."""
    sizes = {name: merge.sizes() if isinstance(merge, Merge) else merge for name, merge in fibers.items()}
    return carry(x, axes, sizes, maps)


def second(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers, maps: Mapping[str, Map] = DUAL) -> Tensor:
    """A running mean, or sum, of squares: its root is a size over time, and maps as one.

    A complex one holds the squares of real and imaginary parts side by side.
    """
    if x.is_complex():
        return torch.complex(second(x.real, axes, fibers, maps), second(x.imag, axes, fibers, maps))
    return largest(x.double().sqrt(), axes, fibers, maps).square().to(x.dtype)


def update(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers) -> Tensor:
    """Steps already divided by their size are averaged."""
    return carry(x, axes, fibers, PICK)


def second_of_updates(x: Tensor, axes: tuple[Axis, ...], fibers: Fibers) -> Tensor:
    """A running mean of squares of such steps."""
    return second(x, axes, fibers, PICK)


BUFFERS: dict[str, Callable[[Tensor, tuple[Axis, ...], Fibers], Tensor]] = {
    "exp_avg": first,  # Adam, AdamW, NAdam, RAdam, Adamax, Lion
    "exp_avg_sq": second,
    "max_exp_avg_sq": second,
    "exp_inf": largest,  # Adamax
    "grad_avg": first,  # RMSprop
    "square_avg": second,  # RMSprop, Adadelta
    "acc_delta": second_of_updates,  # Adadelta
    "sum": second,  # Adagrad
    "momentum_buffer": first,  # SGD, Muon; RMSprop's is one of updates
    "nesterov_momentum_momentum": first,  # heavyball's Muon: beta s + g, not orthogonalised
    "heavyball_momentum_momentum": first,
}
SQUARES = {key for key, carried in BUFFERS.items() if carried not in (first, update)}  # nowhere below 0
NUMBERS = {"step", "mu_product"}  # what one number is kept of: how far the optimizer is on its schedules
FLAT = "expected buffers by their names, a number for each of the parameter's (heavyball 1.7 keeps such ones)"
COLD = f"{DIVERGED}, or start the optimizer cold"


def collapse_moments(
    state: Mapping[str, Any], axes: tuple[Axis, ...], fibers: Fibers, parameter: str = "the parameter"
) -> dict[str, Any]:
    """One parameter's optimizer state: buffers of its shape by the maps above, step counts as they are.

    parameter  its name, for errors
    Raises UserError, naming buffer and parameter, for kinds of state that it does not know, and for buffers
    that are not finite, of another shape than the parameter's, or no plain tensors of floating-point numbers.
    """
    check_known(state, parameter)
    return {key: _carried(key, value, state, axes, fibers, parameter) for key, value in state.items()}


def check_known(state: Mapping[str, Any], parameter: str) -> None:
    """Raises UserError for state that is of none of the kinds above."""
    for key in state:
        if key not in BUFFERS and key not in NUMBERS:
            known = ", ".join([*BUFFERS, *sorted(NUMBERS)])
            if not isinstance(key, str):
                raise UserError(f"the optimizer's nested state of {parameter} cannot be collapsed: {FLAT}")
            raise UserError(
                f"the optimizer's '{key}' of {parameter} cannot be collapsed: expected none but {known}"
            )


def shape_in(state: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of a parameter, told by its state; None where that holds nothing of its shape."""
    tensors = (x for key, x in state.items() if key in BUFFERS and isinstance(x, Tensor))
    return next((tuple(x.shape) for x in tensors), None)


def _carried(
    key: str, value: Any, state: Mapping[str, Any], axes: tuple[Axis, ...], fibers: Fibers, parameter: str
) -> Any:
    what = f"the optimizer's '{key}' of {parameter}"
    if key in NUMBERS:
        if isinstance(value, Tensor) and value.numel() == 1:
            finite(value, what, COLD)
            return value.clone()
        if isinstance(value, (int, float)):
            return value
        raise UserError(f"{what} is {_kind(value)}: expected one number")
    if value is None:  # it has not been needed so far
        return None
    shape = tuple(sum(segment.length for segment in axis) for axis in axes)
    if type(value) not in (Tensor, nn.Parameter) or not (value.is_floating_point() or value.is_complex()):
        raise UserError(f"{what} is {_kind(value)}: expected a tensor of floating-point numbers")
    if tuple(value.shape) != shape:
        raise UserError(
            f"{what} has shape {tuple(value.shape)}, the parameter {shape}: "
            "expected state of this policy, a number for each of the parameter's"
        )
    finite(value, what, COLD)
    if key in SQUARES and (torch.view_as_real(value) if value.is_complex() else value).lt(0).any():
        raise UserError(f"{what} is below 0 in places: expected squares, or sizes")
    carried = update if key == "momentum_buffer" and "square_avg" in state else BUFFERS[key]
    mapped = carried(value, axes, fibers)
    finite(mapped, f"{what}, summed over fibers,", f"{value.dtype} cannot hold it, so keep state in float32")
    return mapped


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {type(value).__name__} of {value.dtype}, of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
