"""Resizing: a policy with parameters of given shapes, as those of a checkpoint are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.rebuild import rebuild, solve_widths
from pufferlib_kcore.graph.states import cut_states
from pufferlib_kcore.graph.traced import trace
from pufferlib_kcore.graph.verification import resized as table_of
from pufferlib_kcore.graph.verification import used_otherwise


def resize(
    policy: nn.Module, shapes: Mapping[str, Sequence[int]], example_inputs: Any, method: str = "forward"
) -> nn.Module:
    """A policy of the same class whose parameters have these shapes, their values to be loaded.

    shapes  name in the state_dict -> shape, as of a collapsed policy
    Raises UserError where no widths of the policy's spaces give these shapes, or its code fixes others.
    """
    network = trace(policy, example_inputs, method=method).network
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    widths = {space.name: space.units for space in network.spaces} | solve_widths(network, wanted)
    units = {space.name: np.arange(widths[space.name]) % space.units for space in network.spaces}
    named = tensors_of(policy)
    maps = {"out": quotient.repeat, "in": quotient.repeat}
    resized = rebuild(policy, network, quotient.carry_all(named, network.table, units, maps), widths)
    found = {name: tuple(tensor.shape) for name, tensor in resized.state_dict().items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{name} should have shape {wanted.get(name)}, and {type(policy).__name__} can only give it "
                f"{found.get(name)}: these shapes come from another policy or other arguments"
            )
    given = cut_states(network.example.inputs, network.state_inputs, units, quotient.repeat)
    difference = used_otherwise(resized, table_of(network.table, widths), network.example.at(given))
    if isinstance(difference, str):
        raise UserError(
            f"{type(policy).__name__} with these shapes {difference}: they come from another policy or other "
            "arguments, or its code fixes a size"
        )
    return resized
