"""Lift: a larger policy of the same class that computes what a policy does; tried before it is handed out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.network import Network, network_of
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.graph.recording import unchanged


def lift(
    policy: nn.Module,
    example_inputs: tuple,
    fibers: Mapping[str, np.ndarray],
    *,
    method: str = "forward",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A larger policy of the same class that computes exactly what this one does; the argument is untouched.

    fibers     space -> for each neuron of the larger policy, the unit that it copies; others stay as they are
    generator  divide weights unevenly among copies, differently in every row; None divides them evenly
    Raises UserError for labels that do not cover a space or belong to none, and where the larger policy does
    not use its parameters as this one does, or computes something else on the example inputs.
    """
    network = network_of(policy, example_inputs, method)
    units = {space.name: space.units for space in network.spaces if not space.whole}
    for name, labels in fibers.items():
        if name not in units:
            raise UserError(f"fibers name '{name}', which is not a space that can grow: {sorted(units)}")
        if set(np.unique(labels)) != set(range(units[name])):
            raise UserError(f"fibers of {name} must name each of its {units[name]} units, from 0 on")
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    lifted = quotient.lift(tensors, network.table, fibers, generator)
    copied = {space.name: fibers.get(space.name, np.arange(space.units)) for space in network.spaces}
    larger = rebuild(policy, network, lifted, {name: len(labels) for name, labels in copied.items()})
    inputs = fitted(example_inputs, network, copied)
    difference = differently_used(larger, network, copied, inputs, method)
    if difference is None:
        recurrent = any(network[name].kind == "lstm" for name in fibers)
        difference = differently_answered(policy, larger, example_inputs, inputs, method, recurrent)
    if difference is not None:
        raise UserError(
            f"the lifted {type(policy).__name__} {difference}: its code fixes a size, or computes with one; "
            f"lift other spaces than {', '.join(fibers)}"
        )
    return larger


def fitted(inputs: tuple, network: Network, units: Mapping[str, np.ndarray]) -> tuple:
    """The inputs for a policy of other widths.  units: space -> which of its units the recurrent state has"""
    inputs = copy.deepcopy(inputs)
    for i, x in enumerate(tensors_in(inputs)):
        if i in network.state_inputs:
            x.data = x[..., torch.as_tensor(units[network.state_inputs[i]], device=x.device)]
    return inputs


def differently_used(
    made: nn.Module, network: Network, units: Mapping[str, np.ndarray], inputs: tuple, method: str
) -> str | None:
    """What a policy of other widths does otherwise than that of the network; None where it is its like.

    units   space -> for each of its units that unit of the network's which it stands for
    inputs  for `made`
    """
    widths = {name: len(ids) for name, ids in units.items()}
    try:
        found = network_of(made, inputs, method)
    except Exception as error:
        return f"does not run ({error})"
    for name, axes in network.table.items():
        expected = [tuple(replace(s, units=widths.get(s.space or "", s.units)) for s in a) for a in axes]
        if any(s.space and widths[s.space] == 1 < s.units for axis in axes for s in axis):
            continue  # one unit left may lie on any axis, in any order
        for axis, now in zip(expected, found.table.get(name, ((),) * len(axes)), strict=True):
            if now != axis and all(s.units > 1 for s in axis):
                return f"uses {name} otherwise"
    for space in found.spaces:
        if space.whole and space.name in units and not network[space.name].whole:
            return f"could not merge {space.name} again ({space.whole})"
    return None


def differently_answered(
    policy: nn.Module, larger: nn.Module, inputs: tuple, fitting: tuple, method: str, recurrent: bool
) -> str | None:
    """What the second policy answers otherwise, by more than rounding; None where it does not.

    fitting    the inputs of `larger`
    recurrent  whether its recurrent state has another width, which it may answer with
    """
    expected, found = answers(policy, inputs, method), answers(larger, fitting, method)
    if len(expected) != len(found):
        return f"answers with {len(found)} tensors instead of {len(expected)}"
    for i, (x, y) in enumerate(zip(expected, found, strict=True)):
        if x.shape != y.shape:
            if not recurrent or x.shape[:-1] != y.shape[:-1]:
                return f"answers with a tensor of shape {tuple(y.shape)} instead of {tuple(x.shape)}"
            continue
        if not (x.is_floating_point() or x.is_complex()) or not x.numel():
            continue
        tolerance = torch.finfo(x.dtype).eps ** (1 / 3)  # far above rounding, below what a size would change
        finite = x[torch.isfinite(x)].abs()
        size = float(finite.max()) if finite.numel() else 0.0
        error = float(torch.where(x == y, 0, x - y).abs().max())
        if error <= tolerance * max(size, tolerance) or not torch.equal(
            x, answers(policy, inputs, method, 1)[i]
        ):
            continue  # rounding, or chance
        return f"answers with numbers that are off by {error:.2g}, of a size of {size:.2g}"
    return None


def answers(policy: nn.Module, inputs: tuple, method: str, seed: int = 0) -> list[Tensor]:
    """The tensors that a policy answers with, from this seed on; neither it nor its inputs change."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), unchanged(policy):
        torch.default_generator.manual_seed(seed)
        return list(tensors_in(getattr(policy, method)(*copy.deepcopy(inputs))))
