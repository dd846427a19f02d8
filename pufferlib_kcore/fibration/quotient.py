"""Quotients: parameters, gradients and optimizer state carried between a network and its base.

Everything here reads one table: for each axis of each parameter, which neurons its positions belong to.
No layer types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.errors import UserError


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


@dataclass(frozen=True)
class Merge:
    """How the n neurons of a space make one of each fiber.

    labels  (n,) int64, 0..k-1
    gain    (n,) a neuron's activation is this many times its fiber's
    pick    (n,) a fiber's row is the sum of its neurons' rows times this; over a fiber, pick * gain sums to 1
    """

    labels: np.ndarray
    gain: np.ndarray
    pick: np.ndarray

    @classmethod
    def mean(cls, labels: np.ndarray, gain: np.ndarray | None = None) -> Merge:
        """The mean of each fiber; with gains, the row whose scaled copies are nearest to its neurons'."""
        gain = np.ones(len(labels)) if gain is None else gain
        squares = np.bincount(labels, gain**2)
        return cls(labels, gain, gain / np.where(squares > 0, squares, 1)[labels])

    @classmethod
    def onto(cls, labels: np.ndarray, kept: np.ndarray, gain: np.ndarray | None = None) -> Merge:
        """Of each fiber the one neuron in `kept`, (k,), whose own gain is 1."""
        pick = np.zeros(len(labels))
        pick[kept] = 1
        return cls(labels, np.ones(len(labels)) if gain is None else gain, pick)

    @property
    def changes(self) -> bool:
        """Whether any neurons merge, or are scaled; else all maps leave the space as it is."""
        return not ((self.labels == np.arange(len(self.labels))) & (self.gain == 1) & (self.pick == 1)).all()

    def sizes(self) -> Merge:
        """For what has no sign: gains and picks without theirs."""
        return Merge(self.labels, np.abs(self.gain), np.abs(self.pick))


Fibers = Mapping[str, "np.ndarray | Merge"]  # space -> its labels, (units,), to be averaged; or how it merges
Tensors = Mapping[str, Tensor]
Map = Callable[[Tensor, "MergeTensors"], Tensor]  # (outer, n, ...), merge -> (outer, k, ...) or back


class MergeTensors(NamedTuple):
    """A merge as tensors, made to multiply (outer, n, ...)."""

    labels: Tensor
    gain: Tensor
    pick: Tensor


def folded(x: Tensor, merge: MergeTensors) -> Tensor:
    """Sum over each fiber, neurons counted by their gains.  (outer, n, ...) -> (outer, k, ...)"""
    return _total(x * merge.gain, merge.labels)


def picked(x: Tensor, merge: MergeTensors) -> Tensor:
    """Each fiber's own row.  (outer, n, ...) -> (outer, k, ...)"""
    return _total(x * merge.pick, merge.labels)


def repeat(x: Tensor, merge: MergeTensors) -> Tensor:
    """Give every neuron its fiber's entry.  (outer, k, ...) -> (outer, n, ...)"""
    return x[:, merge.labels] * merge.gain


def share(x: Tensor, merge: MergeTensors) -> Tensor:
    """Give every neuron its share of its fiber's entry.  (outer, k, ...) -> (outer, n, ...)"""
    return x[:, merge.labels] * merge.pick


def _total(x: Tensor, labels: Tensor) -> Tensor:
    fibers = int(labels.max()) + 1
    return x.new_zeros(x.shape[0], fibers, *x.shape[2:]).index_add_(1, labels, x)


COLLAPSE: dict[str, Map] = {"out": picked, "in": folded}
FOLD: dict[str, Map] = {"in": folded}
DUAL: dict[str, Map] = {"out": folded, "in": picked}  # the transpose of a lift
PICK: dict[str, Map] = {"out": picked, "in": picked}


def carry(
    tensor: Tensor, axes: tuple[Axis, ...], fibers: Fibers, maps: Mapping[str, Map], name: str = "a tensor"
) -> Tensor:
    """Send each axis of a tensor through its role's map, as `wide`; the result has the tensor's dtype.

    name  for errors
    Raises UserError where whole numbers, or truth values, are to become what is none.
    """
    x = wide(tensor)
    for dim, axis in enumerate(axes):
        if any(segment.role in maps and segment.space in fibers for segment in axis):
            x = _carry_axis(x.movedim(dim, 0), axis, fibers, maps).movedim(0, dim)
    carried = x.to(tensor.dtype).contiguous()
    if not (tensor.is_floating_point() or tensor.is_complex()) and (carried != x).any():
        spaces = dict.fromkeys(s.space for axis in axes for s in axis if s.role in maps and s.space in fibers)
        raise UserError(
            f"{name} holds {tensor.dtype}, which cannot hold what its neurons are merged to: make it "
            f"floating-point, or leave what it touches whole with ignore={list(spaces)}"
        )
    return carried


def wide(x: Tensor) -> Tensor:
    """In float64, or in complex128."""
    return x.detach().to(torch.complex128 if x.is_complex() else torch.float64)


def carry_all(tensors: Tensors, table: Table, fibers: Fibers, maps: Mapping[str, Map]) -> dict[str, Tensor]:
    """Each parameter of a table carried by the same maps."""
    return {name: carry(tensors[name], axes, fibers, maps, name) for name, axes in table.items()}


def _carry_axis(x: Tensor, axis: Axis, fibers: Fibers, maps: Mapping[str, Map]) -> Tensor:
    parts = []
    for segment, part in zip(axis, x.split([s.length for s in axis]), strict=True):
        if segment.space and segment.role in maps and segment.space in fibers:
            grouped = part.reshape(segment.outer, segment.units, segment.inner, *x.shape[1:])
            part = maps[segment.role](grouped, _as_tensors(fibers[segment.space], grouped)).flatten(0, 2)
        parts.append(part)
    return torch.cat(parts)


def _as_tensors(fibers: np.ndarray | Merge, x: Tensor) -> MergeTensors:
    merge = fibers if isinstance(fibers, Merge) else Merge.mean(fibers)
    shape = -1, *[1] * (x.ndim - 2)
    gain, pick = (
        torch.as_tensor(w, dtype=x.dtype, device=x.device).reshape(shape) for w in (merge.gain, merge.pick)
    )
    return MergeTensors(torch.as_tensor(merge.labels, device=x.device), gain, pick)


def collapse(tensors: Tensors, table: Table, fibers: Fibers) -> dict[str, Tensor]:
    """The base of a network: one row of each fiber a parameter writes, sum over those it reads.

    Of W, which writes neurons i of fibers a and reads neurons j of fibers b, with picks p and gains g (of a
    plain mean p_i = 1 / |a| and g_j = 1):

        B[a, b] = sum_{i in a} sum_{j in b} p_i W[i, j] g_j
    """
    return carry_all(tensors, table, fibers, COLLAPSE)


def dual(gradients: Tensors, table: Table, fibers: Fibers) -> dict[str, Tensor]:
    """Gradients of the base: sum over the fibers a parameter writes, one of those it reads.

    The transpose of a lift, <dual(G), B> = <G, lift(B)>: of a lifted network's gradient the base's.

        dual(G)[a, b] = sum_{i in a} sum_{j in b} g_i G[i, j] p_j
    """
    return carry_all(gradients, table, fibers, DUAL)


def lift(
    tensors: Tensors, table: Table, fibers: Fibers, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """A larger network that computes what a base computes: collapse(lift(B)) = B.

        W[i, j] = g_i B[a, b] p_j + N[i, j],  where sum_{j in b} N[i, j] g_j = 0

    tensors, table  of the base;  fibers  space -> labels of the larger network's neurons, (n,) in 0..k-1
    generator       draws N, so that in-weights are split unevenly, differently in every row; None: N = 0
    """
    divide = share if generator is None else _share_unevenly(generator)
    repeated = carry_all(tensors, table, fibers, {"out": repeat})
    return carry_all(repeated, table, fibers, {"in": divide})


def _share_unevenly(generator: torch.Generator) -> Map:
    def divide(x: Tensor, merge: MergeTensors) -> Tensor:
        even = share(x, merge)
        noise = torch.randn(even.shape, generator=generator, dtype=x.dtype).to(x) * x.abs().mean()
        return even + noise - share(folded(noise, merge), merge)  # what is added folds to zero

    return divide


def nearest_lift(even: Tensors, wanted: Tensors, table: Table, fibers: Fibers) -> dict[str, Tensor]:
    """Of all networks that compute what a lifted one does, the nearest to another of its size.

    even: a lift, wanted: the other's parameters. What writes a space is given, up to what its readers share:

        min |X - W|^2  with  sum_{j in b} g_j X[i, j] = sum_{j in b} g_j L[i, j]  for each fiber b and row i,
        X[i, j] = W[i, j] + g_j / (sum_{k in b} g_k^2) sum_{k in b} g_k (L[i, k] - W[i, k])
    """
    mean = {
        name: Merge.mean(merge.labels, merge.gain) if isinstance(merge, Merge) else Merge.mean(merge)
        for name, merge in fibers.items()
    }
    off = {name: even[name] - wanted[name] for name in table}
    moved = carry_all(off, table, mean, {"in": lambda x, merge: share(folded(x, merge), merge)})
    return {name: wanted[name] + moved[name] for name in table}
