"""Lift: a larger policy of the same class that computes what a policy does; tried before it is handed out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.graph.states import cut, cut_states
from pufferlib_kcore.graph.traced import Traced, traced_of
from pufferlib_kcore.graph.verification import answered_otherwise, informative, resized, used_otherwise


def lift(
    policy: nn.Module | Traced,
    example_inputs: Any = None,
    fibers: Mapping[str, np.ndarray] = {},
    *,
    generator: torch.Generator | None = None,
    **how: Any,
) -> nn.Module:
    """A larger policy of the same class that computes exactly what this one does; the argument is untouched.

    policy, example_inputs, how  as `trace` has them; or a Traced alone
    fibers     space -> for each neuron of the larger policy, the unit that it copies; others stay as they are
    generator  divide weights unevenly among copies, differently in every row; None divides them evenly

    W_larger = E W S^T, where E (n, k) gives each neuron its unit, and S^T E = 1 shares its weights.
    Raises UserError for labels that do not cover a space or belong to none, and where the larger policy does
    not use its parameters as this one does, or computes something else on the example inputs.
    """
    traced = traced_of(policy, example_inputs, how)
    policy, network, example = traced.policy, traced.network, traced.example
    units = {space.name: space.units for space in network.spaces if not space.whole}
    for name, labels in fibers.items():
        if name not in units:
            raise UserError(f"fibers name '{name}', which is not a space that can grow: {sorted(units)}")
        if set(np.unique(labels)) != set(range(units[name])):
            raise UserError(f"fibers of {name} must name each of its {units[name]} units, from 0 on")
    widths = {space.name: space.units for space in network.spaces}
    widths |= {name: len(labels) for name, labels in fibers.items()}

    def larger(tensors: Mapping[str, Tensor]) -> nn.Module:
        return rebuild(policy, network, quotient.lift(tensors, network.table, fibers, generator), widths)

    made = larger(tensors_of(policy))
    given = cut_states(example.inputs, network.state_inputs, fibers, quotient.repeat)
    wide = resized(network.table, widths)
    fault: str | Network | None = used_otherwise(made, wide, example.at(given))
    if isinstance(fault, Network):
        stuck = [s for s in fault.spaces if s.whole and s.name in fibers]
        fault = f"could not merge {stuck[0].name} again ({stuck[0].whole})" if stuck else ""
    if not fault:
        states, told = network.state_outputs, informative(network)
        fault = answered_otherwise(
            policy,
            larger,
            network.table,
            (told, cut_states(told, network.state_inputs, fibers, quotient.repeat)),
            lambda i, x, y: (cut(x, states[i], fibers, quotient.repeat) if i in states else x, y),
            example,
        )
    if fault:
        raise UserError(
            f"the lifted {type(policy).__name__} {fault}: its code fixes a size, or computes with one; "
            f"lift other spaces than {', '.join(fibers)}"
        )
    return made
