"""Quotients: parameters, gradients and optimizer state carried between a network and its base.

Everything here reads one table: for each axis of each parameter, which neurons its positions belong to.
No layer types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A stretch of one axis: `outer` groups of `units` neurons of `inner` neighbouring positions each.

    LSTM gates: outer=4. A channel flattened before a linear layer: inner=H*W. Protected: space=None.
    """

    space: str | None
    role: str = ""  # "out": the parameter writes this space; "in": it reads it; "": neither
    outer: int = 1
    units: int = 1
    inner: int = 1

    @property
    def length(self) -> int:
        return self.outer * self.units * self.inner


Axis = tuple[Segment, ...]
Table = Mapping[str, tuple[Axis, ...]]  # parameter name -> its axes
Fibers = Mapping[str, np.ndarray]  # space -> int64 labels, (units,)
Tensors = Mapping[str, Tensor]
Map = Callable[[Tensor, Tensor], Tensor]  # (outer, n, ...), labels (n,) -> (outer, k, ...) or back


def total(x: Tensor, labels: Tensor) -> Tensor:
    """Sum over each fiber.  (outer, n, ...) -> (outer, k, ...)"""
    fibers = int(labels.max()) + 1
    return x.new_zeros(x.shape[0], fibers, *x.shape[2:]).index_add_(1, labels, x)


def mean(x: Tensor, labels: Tensor) -> Tensor:
    """Mean over each fiber.  (outer, n, ...) -> (outer, k, ...)"""
    return total(x, labels) / _like(x, labels.bincount())


def repeat(x: Tensor, labels: Tensor) -> Tensor:
    """Give every neuron its fiber's entry.  (outer, k, ...) -> (outer, n, ...)"""
    return x[:, labels]


def share(x: Tensor, labels: Tensor) -> Tensor:
    """Give every neuron an equal share of its fiber's entry.  (outer, k, ...) -> (outer, n, ...)"""
    return x[:, labels] / _like(x, labels.bincount()[labels])


def _like(x: Tensor, sizes: Tensor) -> Tensor:
    return sizes.to(x).reshape(1, -1, *[1] * (x.ndim - 2))


COLLAPSE: dict[str, Map] = {"out": mean, "in": total}
FOLD: dict[str, Map] = {"in": total}
DUAL: dict[str, Map] = {"out": total, "in": mean}  # the transpose of a lift
AVERAGE: dict[str, Map] = {"out": mean, "in": mean}


def carry(tensor: Tensor, axes: tuple[Axis, ...], fibers: Fibers, maps: Mapping[str, Map]) -> Tensor:
    """Send each axis of a tensor through its role's map, in float64; the result has the tensor's dtype."""
    x = tensor.detach().double()
    for dim, axis in enumerate(axes):
        if any(segment.role in maps and segment.space in fibers for segment in axis):
            x = _carry_axis(x.movedim(dim, 0), axis, fibers, maps).movedim(0, dim)
    return x.to(tensor.dtype).contiguous()


def _carry_axis(x: Tensor, axis: Axis, fibers: Fibers, maps: Mapping[str, Map]) -> Tensor:
    parts = []
    for segment, part in zip(axis, x.split([s.length for s in axis]), strict=True):
        if segment.space and segment.role in maps and segment.space in fibers:
            labels = torch.as_tensor(fibers[segment.space], device=x.device)
            grouped = part.reshape(segment.outer, segment.units, segment.inner, *x.shape[1:])
            part = maps[segment.role](grouped, labels).flatten(0, 2)
        parts.append(part)
    return torch.cat(parts)


def collapse(tensors: Tensors, table: Table, fibers: Fibers) -> dict[str, Tensor]:
    """The base of a network: mean over the fibers a parameter writes, sum over those it reads."""
    return {name: carry(tensors[name], axes, fibers, COLLAPSE) for name, axes in table.items()}


def dual(gradients: Tensors, table: Table, fibers: Fibers) -> dict[str, Tensor]:
    """Gradients of the base: sum over the fibers a parameter writes, mean over those it reads."""
    return {name: carry(gradients[name], axes, fibers, DUAL) for name, axes in table.items()}


def lift(
    tensors: Tensors, table: Table, fibers: Fibers, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """A larger network that computes what a base computes: collapse(lift(base)) == base.

    tensors, table  of the base;  fibers  space -> labels of the larger network's neurons, (n,) in 0..k-1
    generator       divide in-weights unevenly among a fiber's neurons, differently in every row;
                    None divides them evenly
    """
    divide = share if generator is None else _share_unevenly(generator)
    repeated = {name: carry(tensors[name], axes, fibers, {"out": repeat}) for name, axes in table.items()}
    return {name: carry(repeated[name], axes, fibers, {"in": divide}) for name, axes in table.items()}


def _share_unevenly(generator: torch.Generator) -> Map:
    def divide(x: Tensor, labels: Tensor) -> Tensor:
        even = share(x, labels)
        noise = torch.randn(even.shape, generator=generator, dtype=x.dtype).to(x) * x.abs().mean()
        return even + noise - mean(noise, labels)[:, labels]  # the noise sums to zero over each fiber

    return divide
