"""Symmetry breaking: of neurons that compute the same one suffices; the others are made fresh, to learn."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.fibration.coloring import cut, inner_products
from pufferlib_kcore.fibration.quotient import (
    Fibers,
    Map,
    Merge,
    MergeTensors,
    Table,
    carry_all,
    folded,
    share,
)
from pufferlib_kcore.fibration.refinement import Rows, color_spaces
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.graph.running import chance_kept


@dataclass(frozen=True)
class Candidate:
    """A neuron that could be recycled."""

    space: str
    unit: int
    kept: int | None  # the neuron that takes over what it passes on; None: nobody, it is lost
    distance: float  # of its folded row to that neuron's, in parts of their sizes; 0 for one that is exact


def candidates(
    network: Network,
    tensors: Mapping[str, Tensor],
    merges: Mapping[str, Merge],
    seen: Mapping[str, np.ndarray] | None = None,
) -> list[Candidate]:
    """All neurons but one of each fiber, those nearest to the one that is kept first.

    merges  how each space merges; kept is the neuron nearest to its fiber's mean, the first of several
    seen    what neurons are compared by in place of what they receive: {space: (units, D)}
    The distance of rows a and b is |a - b|^2 / 2 |a| |b|, that is 1 - cos for rows of one size; a row that is
    to be g times as large is divided by g first. A neuron of gain 0, which nothing wakes, is at distance 0.
    """
    found = []
    for space in network.spaces:
        merge = merges[space.name]
        if space.whole or merge.labels.max() + 1 == space.units:
            continue
        asleep = merge.gain == 0
        rows = _rows(space, tensors, network.table, merges) if seen is None else seen[space.name]
        rows = rows / np.where(asleep, 1, merge.gain)[:, None]
        awake = np.where(asleep, 0.0, 1.0)
        weights = awake / np.maximum(np.bincount(merge.labels, awake), 1)[merge.labels]
        mean = np.zeros((merge.labels.max() + 1, rows.shape[1]))
        np.add.at(mean, merge.labels, rows * weights[:, None])
        off = ((rows - mean[merge.labels]) ** 2).sum(1)
        order = np.lexsort((np.arange(space.units), off, asleep, merge.labels))
        _, first = np.unique(merge.labels[order], return_index=True)
        kept = order[first][merge.labels]
        for unit in np.flatnonzero(kept != np.arange(space.units)):
            apart = 0.0 if asleep[unit] else _distance(rows[unit], rows[kept[unit]])
            found.append(Candidate(space.name, int(unit), int(kept[unit]), apart))
    return sorted(found, key=lambda one: one.distance)


def by_weights(
    network: Network, tensors: Mapping[str, Tensor], thresholds: Mapping[str, float], by_size: bool
) -> dict[str, Merge]:
    """Fibers of neurons that compute the same, as `color_spaces` has it, at whatever widths they come to.

    Nothing is rebuilt, so layers of one recurrent module need not be of one width, as those of a collapse.
    """
    return color_spaces(network.spaces, tensors, network.table, thresholds, by_size=by_size)


def by_activations(
    network: Network, h: Mapping[str, Tensor], thresholds: Mapping[str, float]
) -> tuple[dict[str, Merge], dict[str, np.ndarray]]:
    """Fibers of neurons that answer alike on recorded states.  h: {space: (N, units)}

    Average linkage of |a - b|^2 / 2 |a| |b|, a and b what two neurons answered; all silent ones are one.
    -> merges, and the rows (units, N) that they are of
    """
    merges, seen = {}, {}
    for space in network.spaces:
        labels = np.arange(space.units)
        if not space.whole and space.name in h:
            rows = h[space.name].double().reshape(-1, space.units).T.numpy(force=True).copy()
            norms = np.linalg.norm(rows, axis=1)
            labels = cut(inner_products(rows), norms, norms, thresholds[space.name], by_size=True)
            seen[space.name] = rows
        merges[space.name] = Merge.mean(labels.astype(np.int64))
    return merges, seen


def _rows(space: Any, tensors: Mapping[str, Tensor], table: Table, merges: Fibers) -> np.ndarray:
    """All that each unit receives, folded by the fibers it reads.  -> (units, D)"""
    every = []
    for producer in space.producers:
        rows = Rows(space, producer, tensors, table, (), True).side_by_side(merges)
        every.append(
            rows.reshape(producer.gates, space.units, -1).transpose(1, 0, 2).reshape(space.units, -1)
        )
    return np.hstack(every)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    apart = float(((a - b) ** 2).sum())
    return 0.0 if apart == 0 else apart / (2 * sizes) if sizes else 1.0


def recycle(
    policy: nn.Module,
    table: Table,
    merges: Mapping[str, Merge],
    chosen: Sequence[Candidate],
    fresh: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Make neurons fresh, in place.

    What others read of a recycled neuron j they read of the one that is kept, k, from now on:

        w[:, k] += (g_j / g_k) w[:, j],    w[:, j] = 0,    w[j, :] = fresh[j, :]

    with gains g (1 but for scaled copies). Where h_j = (g_j / g_k) h_k the policy computes what it did.

    fresh      parameter or buffer name -> values as its initialiser draws them, of the same shape
    optimizer  what it keeps of these weights, in tensors of their shape, is set to 0
    """
    onto = _onto(merges, chosen)
    tensors = tensors_of(policy)
    table = {
        name: axes
        for name, axes in table.items()
        if any(segment.space in onto for axis in axes for segment in axis)
    }
    moved = carry_all(tensors, table, onto, {"in": _concentrated})
    stays = carry_all({name: torch.ones_like(tensors[name]) for name in table}, table, onto, {"out": _kept})
    with torch.no_grad():
        for name in table:
            tensors[name].copy_(torch.where(stays[name].bool(), moved[name], fresh[name].to(moved[name])))
        silent = carry_all(tensors, table, onto, {"in": _kept})
        for name in table:
            tensors[name].copy_(silent[name])
    if optimizer is not None:
        _forget(optimizer, {n: tensors[n] for n in table}, table, onto)


def _onto(merges: Mapping[str, Merge], chosen: Sequence[Candidate]) -> dict[str, Merge]:
    """Merges of the chosen neurons alone, each onto the one that is kept."""
    by_space: dict[str, list[Candidate]] = {}
    for one in chosen:
        by_space.setdefault(one.space, []).append(one)
    onto = {}
    for space, own in by_space.items():
        theirs = merges[space].gain
        heads, gain, pick = np.arange(len(theirs)), np.ones(len(theirs)), np.ones(len(theirs))
        for one in own:
            pick[one.unit] = 0
            if one.kept is None:
                gain[one.unit] = 0
            else:
                heads[one.unit] = one.kept
                gain[one.unit] = theirs[one.unit] / (theirs[one.kept] or 1)
        labels = np.unique(heads, return_inverse=True)[1].astype(np.int64)
        onto[space] = Merge(labels, gain, pick)
    return onto


def _concentrated(x: Tensor, merge: MergeTensors) -> Tensor:
    """All of a fiber at the neuron that is kept.  (outer, n, ...) -> (outer, n, ...)"""
    return share(folded(x, merge), merge)


def _kept(x: Tensor, merge: MergeTensors) -> Tensor:
    """Zero, but for neurons that are kept.  (outer, n, ...) -> (outer, n, ...)"""
    return x * merge.pick


FORGET: dict[str, Map] = {"out": _kept, "in": _kept}


def _forget(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], table: Table, onto: Fibers
) -> None:
    names = {id(parameter): name for name, parameter in parameters.items()}
    for parameter, state in optimizer.state.items():
        if (name := names.get(id(parameter))) is None:
            continue
        for moment in state.values():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moment.copy_(carry_all({name: moment}, {name: table[name]}, onto, FORGET)[name])


def drawn(policy: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameters and buffers as the policy's layers draw them: each by its own `reset_parameters`.

    What no layer draws is normal, with the mean and deviation that it has.
    """
    copied = copy_of(policy)
    own: set[int] = set()
    with chance_kept(policy, seed):
        for module in reversed(list(copied.modules())):  # a whole has the last word on its parts
            reset: Callable[[], Any] | None = getattr(module, "reset_parameters", None)
            if callable(reset) and _takes_nothing(reset):
                reset()
                own |= {id(x) for x in [*module.parameters(), *module.buffers()]}
        return {
            name: x.detach() if id(x) in own or not x.is_floating_point() else _alike(x.detach())
            for name, x in tensors_of(copied).items()
        }


def _takes_nothing(reset: Callable[..., Any]) -> bool:
    try:
        inspect.signature(reset).bind()
    except TypeError:
        return False
    return True


def _alike(x: Tensor) -> Tensor:
    """Normal, of the same mean and deviation."""
    spread = float(x.std()) if x.numel() > 1 else 0.0
    return float(x.mean()) + spread * torch.randn_like(x) if x.numel() else x
