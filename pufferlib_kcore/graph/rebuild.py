"""Rebuilding: a policy of the same class with parameters of other shapes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor, nn

from pufferlib_kcore.fibration.quotient import Axis
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.graph.sizes import known_sizes, set_attribute


def width(axis: Axis, widths: Mapping[str, int]) -> int:
    """The length of an axis once each space has `widths[space]` units."""
    return sum(s.outer * widths.get(s.space or "", s.units) * s.inner for s in axis)


def parameters_at(policy: nn.Module, network: Network, widths: Mapping[str, int]) -> int:
    """How many parameters the policy has once each space has `widths[space]` units."""
    table = network.table
    return sum(
        prod(width(axis, widths) for axis in table[name]) if name in table else parameter.numel()
        for name, parameter in policy.named_parameters()
    )


def rebuild(
    policy: nn.Module, network: Network, tensors: Mapping[str, Tensor], widths: Mapping[str, int]
) -> nn.Module:
    """A copy of the policy with these parameters, and every number that its modules keep set to fit.

    tensors  parameter or buffer name -> values, of any shape;  widths  space -> units
    """
    rebuilt = copy_of(policy)
    named = dict([*rebuilt.named_parameters(), *rebuilt.named_buffers()])
    for name, tensor in tensors.items():
        named[name].data = tensor.clone()
    for old, new in zip(policy.modules(), rebuilt.modules(), strict=True):
        before, after = _own_tensors(old), _own_tensors(new)
        for attribute, (parameter, dim) in known_sizes(old).items():
            if parameter in before:  # else it is computed, as by weight_norm, and stays
                groups = getattr(old, attribute) // before[parameter].shape[dim]  # 1 but for convolutions
                setattr(new, attribute, groups * after[parameter].shape[dim])
        if isinstance(new, nn.RNNBase):
            new.flatten_parameters()  # one stretch of memory again, as cuDNN wants it
    for kept, axis in network.attributes:
        set_attribute(rebuilt, kept, width(axis, widths))
    return rebuilt


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    return {name: x for name, x in own.items() if x is not None}


def solve_widths(network: Network, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Space -> units, read off the axes that belong to one space alone."""
    widths = {}
    for name, axes in network.table.items():
        for axis, size in zip(axes, shapes.get(name, ()), strict=False):
            if len(axis) == 1 and axis[0].space and axis[0].role == "out":
                widths[axis[0].space] = max(1, size // (axis[0].outer * axis[0].inner))
    return widths
