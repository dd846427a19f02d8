"""Neurons: the whole numbers that stand for them in a trace, one for each element of a tensor, on the CPU.

> 0             a neuron
0               nobody's: an element of its own, which stays where it is
FIRST_INPUT < n < 0
                free: one value all over, made while the policy ran, such as zeros to start from;
                it fits any neurons
<= FIRST_INPUT  an element of the policy's inputs
"""

from __future__ import annotations

import torch
from torch import Tensor

FREE = -1
FIRST_INPUT = -(1 << 40)


def free(neurons: Tensor) -> Tensor:
    """Which elements fit any neurons.  -> bool, the shape of neurons"""
    return (neurons < 0) & (neurons > FIRST_INPUT)


def numbered_inputs(x: Tensor, before: int) -> Tensor:
    """Every element of an input by itself, `before` of them having been numbered.  -> int64, x's shape"""
    count = torch.arange(x.numel())
    return (FIRST_INPUT - before - count).reshape(x.shape)


def axis_of(neurons: Tensor, dim: int) -> Tensor | None:
    """The neurons along one axis, None where they differ over the others.  (.., size, ..) -> (size,)

    Elements of inputs are nobody's here.
    """
    flat = neurons.movedim(dim, -1).reshape(-1, neurons.shape[dim])
    flat = torch.where(flat <= FIRST_INPUT, 0, flat)
    if not len(flat):
        return None
    fits = free(flat)
    found = torch.where(fits, FIRST_INPUT * 2, flat).amax(0) if flat.numel() else flat[0]
    if not ((flat == found) | fits).all():
        return None
    return torch.where(fits.all(0), flat[0], found)


def varies(neurons: Tensor) -> set[int]:
    """The axes along which neurons differ."""
    return {dim for dim in range(neurons.ndim) if (neurons != neurons.narrow(dim, 0, 1)).any()}


def uneven(neurons: Tensor, dims: set[int]) -> bool:
    """Whether neighbours along one of these axes are free, but of different values."""
    ids = torch.where(free(neurons), neurons, 0)
    for dim in dims:
        one, two = (ids.narrow(dim, start, ids.shape[dim] - 1) for start in (0, 1))
        if ((one < 0) & (two < 0) & (one != two)).any():
            return True
    return False


def may_differ(neurons: Tensor) -> set[int]:
    """The axes along which values may differ: nobody's do along every one."""
    long = {dim for dim, size in enumerate(neurons.shape) if size > 1}
    return long if (neurons == 0).any() else varies(neurons)
