"""Verification: what is made of a policy uses its parameters as the policy does, and computes the same.

A policy and its lift compute the same whatever the weights, near copies or not, if tracing has understood
the policy. So each collapse is lifted back to full size, and each lift is tried, with random numbers for
weights: that finds what tracing has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import Merge, Table
from pufferlib_kcore.fibration.recurrent import CELLS
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Example
from pufferlib_kcore.graph.nested import tensors_in, tensors_of
from pufferlib_kcore.graph.network import Network, network_of
from pufferlib_kcore.graph.operations import operation, operation_name
from pufferlib_kcore.graph.running import aside, chance_kept, line_of

TOLERANCE = 5e-3  # of the largest output: far above rounding, below what a wrong width changes
ROUNDED = 16  # and no less than so many times the distance of neighbours in the coarsest dtype computed in


def narrowed(table: Table, merged: Mapping[str, Merge]) -> Table:
    """The table of a collapsed policy: fibers for units."""
    return resized(table, {name: int(merge.labels.max()) + 1 for name, merge in merged.items()})


def resized(table: Table, widths: Mapping[str, int]) -> Table:
    """The same table with other numbers of units."""
    return {
        name: tuple(tuple(replace(s, units=widths.get(s.space or "", s.units)) for s in a) for a in axes)
        for name, axes in table.items()
    }


def used_otherwise(
    made: nn.Module,
    table: Table,
    example: Example,
) -> str | Network:
    """What a policy does otherwise than by this table, in words; its network where nothing is."""
    try:
        found = network_of(made, example)
    except UserError as error:
        if error.__cause__ is None:
            return f"cannot be traced again ({error})"
        where = line_of(error.__cause__) or "no line of its own"
        return f"does not run ({error.__cause__}) at {where}; its code fixes a size"
    for name, axes in table.items():
        if any(s.space and s.units == 1 for axis in axes for s in axis):
            continue  # one unit may lie on any axis, in any order
        for axis, now in zip(axes, found.table.get(name, ((),) * len(axes)), strict=True):
            if now != axis and all(s.units > 1 for s in axis):
                return f"uses {name} otherwise; its code fixes a size"
    return found


def answered_otherwise(
    base: nn.Module,
    lift: Callable[[Mapping[str, Tensor]], nn.Module],
    table: Table,
    inputs: tuple[tuple, tuple],
    fit: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]],
    example: Example,
) -> str | None:
    """What a policy and its lift answer otherwise, in words; None if nothing.

    lift    makes it, of the policy's tensors;  table  of the policy;  inputs  of both
    fit     (place of an output, the policy's, the lift's) -> these as they are to be equal: states differ
    Both get the same random weights, of the size of their own. Randomness within the policy is held still.
    """
    randomized = _randomized(base, table)
    lifted = lift(tensors_of(randomized))
    one, two = _Deterministic(), _Deterministic()
    try:
        ours = _answers(randomized, example.at(inputs[0]), one)
        theirs = _answers(lifted, example.at(inputs[1]), two)
    except Exception as error:
        where = line_of(error) or "no line of its own"
        return f"does not run with other weights ({type(error).__name__}: {error}) at {where}"
    close = partial(_close, tolerance=max(TOLERANCE, ROUNDED * one.eps))
    if len(ours) != len(theirs):
        return f"answers with {len(ours)} tensors instead of {len(theirs)}"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        a, b = fit(i, a, b)
        if a.shape != b.shape:
            return f"answers with shape {tuple(a.shape)} instead of {tuple(b.shape)} (output {i})"
        if a.is_floating_point() or a.is_complex():
            same = close(a, b)
        else:  # such as actions: few numbers, which tell little; so what they were chosen by
            pairs = zip(one.chosen, two.chosen, strict=False)
            same = all(close(x, y) for x, y in pairs if x.shape == y.shape)
        if not same:
            return f"computes output {i} with the number of its units, in a way that tracing does not follow"
    return None


def informative(network: Network) -> tuple:
    """The example inputs; random numbers for nothing but zeros, so that answers depend on all weights.

    States stay as they are, and so does all where the policy's course depends on its inputs.
    """
    inputs, generator = copy_of(network.example.inputs), torch.Generator().manual_seed(0)
    given = [
        x for i, x in enumerate(tensors_in(inputs)) if x.is_floating_point() and i not in network.state_inputs
    ]
    if not network.branches and not any(x.any() for x in given):
        for x in given:
            x.data = torch.rand(x.shape, generator=generator).to(x)
    return inputs


def _randomized(policy: nn.Module, table: Table) -> nn.Module:
    """The policy with random numbers added to what its table names, of the size that its entries have."""
    randomized, generator = copy_of(policy), torch.Generator().manual_seed(0)
    for name, x in randomized.named_parameters():
        if name in table and (x.is_floating_point() or x.is_complex()):
            fan_in = x[0].numel() if x.ndim > 1 else 1
            wide = x.detach().to("cpu", torch.complex128 if x.is_complex() else torch.float64)
            size = max(float(wide.abs().square().mean().sqrt()), 0.1 / max(fan_in, 1) ** 0.5)
            noise = torch.randn(x.shape, generator=generator, dtype=wide.dtype) * size / 2
            x.data = (wide + noise).to(x)
    return randomized


def _answers(policy: nn.Module, example: Example, mode: _Deterministic) -> list[Tensor]:
    with torch.no_grad(), aside(policy), chance_kept(policy, seed=0), mode:
        return list(tensors_in(example.answer(policy)))


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return False
    a, b = a[finite], b[finite]
    size = float(a.abs().max()) if len(a) else 0.0
    return not len(a) or float((a - b).abs().max()) <= tolerance * size + 1e-6


class _Deterministic(TorchFunctionMode):
    """Nothing is dropped, and random numbers are all alike: units that compute the same go on doing so.

    eps     how far apart neighbours are in the coarsest dtype that was computed in
    chosen  what whole numbers and truth values were made of
    """

    def __init__(self) -> None:
        super().__init__()
        self.eps = 0.0
        self.chosen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = operation_name(func), kwargs or {}
        known = operation(name)
        if known.drops:
            return args[0]
        if name in CELLS and isinstance(args[3], bool):  # (x, hx, weights, biased, layers, dropout, ..)
            args = (*args[:5], 0.0, *args[6:])
        out = func(*args, **kwargs)
        floats = [x for x in tensors_in(out) if x.is_floating_point()]
        self.eps = max([self.eps, *(torch.finfo(x.dtype).eps for x in floats)])
        if isinstance(out, Tensor) and not floats and not out.is_complex():
            self.chosen += [x.clone() for x in tensors_in(args) if x.is_floating_point()]
        if func is torch.normal and isinstance(args[0], Tensor):  # a distribution's sample: its mean
            return args[0].expand(out.shape).clone()
        if known.random and isinstance(out, Tensor) and out.is_floating_point():
            return out.fill_(1.0 if name == "bernoulli" else 0.5)
        return out
