"""Matching: which neurons of one policy are which of another's, so that both lie in one basin if any.

A permutation of a space's neurons, in all that writes and reads them, changes nothing that a policy computes.
It works on the spaces and the table of a traced policy, so that convolutions, recurrent layers and shared
trunks come with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import Axis, Table
from pufferlib_kcore.graph.activations import all_activations
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.traced import Traced

Permutations = Mapping[str, np.ndarray]  # space -> (units,): place i is taken by the other's neuron [i]


def permuted(tensors: Mapping[str, Tensor], table: Table, which: Permutations) -> dict[str, Tensor]:
    """Parameters whose neurons stand in another order; the network that has them computes the same."""
    return {name: _permuted(tensors[name], axes, which) for name, axes in table.items()}


def weight_matching(
    traced: Traced, other: nn.Module, *, seed: int = 0, sweeps: int = 100
) -> dict[str, np.ndarray]:
    """The order of another policy's neurons in which its weights lie nearest to a policy's.

        max_P sum over parameters <W, P W' P^T>

    space by space in random order, each solved exactly while the others stand still, until none changes
    (Ainsworth et al., 2023, "Git re-basin: merging models modulo permutation symmetries", 2209.04836). A step
    that does not bring the weights nearer is not taken, so that they are never farther than unmatched.
    Raises UserError where the other policy's parameters have other shapes.
    """
    table, ours = traced.network.table, traced.tensors()
    theirs = tensors_of(other)
    for name in table:
        if name not in theirs or theirs[name].shape != ours[name].shape:
            has = tuple(theirs[name].shape) if name in theirs else "none"
            raise UserError(f"{name} is {tuple(ours[name].shape)} in one policy and {has} in the other")
    mine = {name: ours[name].detach().double() for name in table}
    stack = {name: theirs[name].detach().double() for name in table}
    units = {space.name: space.units for space in traced.network.spaces if not space.whole}
    found = {name: np.arange(n) for name, n in units.items()}
    rng = np.random.default_rng(seed)
    best = agreement(mine, permuted(stack, table, found))
    for _ in range(sweeps):
        changed = False
        for name in rng.permutation(list(units)):
            gain = gains(mine, stack, table, found, str(name), units[str(name)])
            order = linear_sum_assignment(gain, maximize=True)[1]
            tried = {**found, str(name): order}
            now = agreement(mine, permuted(stack, table, tried))
            if now > best + 1e-12 * max(1.0, abs(best)):
                found, best, changed = tried, now, True
        if not changed:
            break
    return found


def activation_matching(traced: Traced, other: nn.Module, inputs: Inputs) -> dict[str, np.ndarray]:
    """The order of another policy's neurons in which they answer most like a policy's, on the same inputs.

        max_P sum_i corr(h_i, h'_P(i))

    for each space by itself (Li et al., 2016, "Convergent learning", 1511.07543). Where weight matching sees
    little, as where layers are scaled otherwise, this may see more; it may also be farther in weights than
    unmatched. Spaces whose activations no layer reads stay as they are. It may follow weight matching: of
    `matched(traced, other, weight_matching(..))`.
    """
    ours = all_activations(traced.policy, traced.network, inputs)
    theirs = all_activations(other, traced.network, inputs)
    found = {space.name: np.arange(space.units) for space in traced.network.spaces if not space.whole}
    for name in found.keys() & ours.keys():
        gain = correlations(ours[name], theirs[name])
        found[name] = linear_sum_assignment(gain, maximize=True)[1]
    return found


def correlations(x: Tensor, y: Tensor) -> np.ndarray:
    """Of each column with each of the other's, 0 of a constant one.  (N, n), (N, m) -> (n, m)"""
    parts = []
    for z in (x.double(), y.double()):
        z = z - z.mean(0)
        norm = z.norm(dim=0)
        parts.append(z / torch.where(norm > 0, norm, 1.0))
    return (parts[0].T @ parts[1]).numpy(force=True)


def matched(traced: Traced, other: nn.Module, which: Permutations) -> nn.Module:
    """A copy of the other policy with its neurons in that order; it computes what the other does."""
    made = copy_of(other)
    tensors = tensors_of(made)
    with torch.no_grad():
        for name, x in permuted(tensors_of(other), traced.network.table, which).items():
            tensors[name].copy_(x)
    return made


def distance(one: nn.Module, other: nn.Module) -> float:
    """|theta - theta'|_2, over all parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((a.detach() - b.detach()).double().square().sum()) for a, b in pairs) ** 0.5


def gains(
    mine: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    table: Table,
    which: Permutations,
    space: str,
    units: int,
) -> np.ndarray:
    """(units, units): what it is worth that place i of a space is taken by the other's neuron j."""
    total = np.zeros((units, units))
    for name, axes in table.items():
        for dim, axis in enumerate(axes):
            if not any(segment.space == space for segment in axis):
                continue
            others = tuple(a if d != dim else () for d, a in enumerate(axes))
            b = _permuted(theirs[name], others, which)
            for x, y in zip(_parts(mine[name], dim, axis, space), _parts(b, dim, axis, space), strict=True):
                total += (x @ y.T).numpy(force=True)
    return total


def agreement(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """sum over parameters <W, W'>"""
    return sum(float((x * theirs[name]).sum()) for name, x in mine.items())


def _parts(x: Tensor, dim: int, axis: Axis, space: str) -> list[Tensor]:
    """What stands on an axis for a space: (units, all else) of each of its stretches."""
    parts = []
    for segment, part in zip(axis, x.movedim(dim, 0).split([s.length for s in axis]), strict=True):
        if segment.space == space:
            grouped = part.reshape(segment.outer, segment.units, -1)
            parts.append(grouped.movedim(1, 0).flatten(1))
    return parts


def _permuted(x: Tensor, axes: tuple[Axis, ...], which: Permutations) -> Tensor:
    for dim, axis in enumerate(axes):
        if not any(segment.space in which for segment in axis):
            continue
        moved, parts = x.movedim(dim, 0), []
        for segment, part in zip(axis, moved.split([s.length for s in axis]), strict=True):
            if segment.space is not None and segment.space in which:
                order = torch.as_tensor(which[segment.space], device=x.device)
                grouped = part.reshape(segment.outer, segment.units, segment.inner, *moved.shape[1:])
                part = grouped[:, order].flatten(0, 2)
            parts.append(part)
        x = torch.cat(parts).movedim(0, dim)
    return x
