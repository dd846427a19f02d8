"""Merging: a policy of the same class with one neuron for each fiber, checked before it is handed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.graph.colorings import Coloring
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.graph.report import Report
from pufferlib_kcore.graph.states import alike, cut, cut_states
from pufferlib_kcore.graph.verification import answered_otherwise, informative, narrowed, used_otherwise


@dataclass(frozen=True)
class Collapse(Coloring):
    """A collapsed policy, and what became of each space."""

    policy: nn.Module
    report: Report
    network: Network  # of the original

    @property
    def kinds(self) -> dict[str, str]:
        """Space -> "linear", "cnn", "lstm" or "critic"."""
        return {space.name: space.kind for space in self.network.spaces}

    def lifted(self, near: nn.Module | None = None) -> nn.Module:
        """A policy of the original's size that computes what the collapsed one does; nothing is edited.

        near: a policy of that size, such as the original: how what reads a fiber is shared among its neurons
            is free but for its sum, and is chosen so that the lift lies nearest to this one

        W_lifted = diag(gain) E W E^T diag(pick), where E (n, k) gives each neuron its fiber: what writes a
        space is repeated, times each neuron's gain, and what reads it is shared among a fiber's neurons by
        their picks; over a fiber, sum pick * gain = 1. A neuron that was passed over (pick 0) is read by
        nobody. A state that it takes is the collapsed policy's, repeated in the same way.
        """
        copies = {  # a neuron that is passed over has another gain, which only scales bear
            name: merge if self.network[name].scales else replace(merge, gain=np.ones(len(merge.gain)))
            for name, merge in self.merges.items()
        }
        table = narrowed(self.network.table, self.merges)
        tensors = quotient.lift(tensors_of(self.policy), table, copies)
        if near is not None:
            tensors = quotient.nearest_lift(tensors, tensors_of(near), self.network.table, copies)
        return rebuild(self.policy, self.network, tensors, {})


def check(
    policy: nn.Module,
    smaller: nn.Module,
    network: Network,
    merged: Mapping[str, Merge],
) -> Network:
    """The collapsed policy must run, use its parameters as the original does, and lift to the same function.

    Returns its network. Raises UserError naming the spaces, and the line, that keep it from that.
    """

    example, states, told = network.example, network.state_outputs, informative(network)

    def tried(made: nn.Module, merges: Mapping[str, Merge]) -> str | Network:
        table, fibers = narrowed(network.table, merges), {n: m.labels for n, m in merges.items()}
        given = cut_states(example.inputs, network.state_inputs, fibers)
        found = used_otherwise(made, table, example.at(given))
        if isinstance(found, str) or not merges:
            return found
        fault = answered_otherwise(
            made,
            lambda tensors: rebuild(policy, network, quotient.lift(tensors, table, fibers), {}),
            table,
            (
                cut_states(told, network.state_inputs, fibers),
                cut_states(told, network.state_inputs, fibers, alike),
            ),
            lambda i, x, lifted: (x, cut(lifted, states[i], fibers) if i in states else lifted),
            example,
        )
        return fault or found

    found = tried(smaller, merged)
    if isinstance(found, Network):
        return found
    culprits = []
    for name in merged if len(merged) > 1 else ():
        tied = {other for layers in network.same_width if name in layers for other in layers}
        one = {n: merge for n, merge in merged.items() if n == name or n in tied}
        if isinstance(tried(merged_alone(policy, network, one), one), str):
            culprits.append(name)
    raise UserError(
        f"the collapsed {type(smaller).__name__} {found}: leave what that concerns whole with "
        f"ignore={culprits or list(merged)}"
    )


def merged_alone(policy: nn.Module, network: Network, merged: Mapping[str, Merge]) -> nn.Module:
    """The policy with these spaces merged and no others."""
    widths = {name: int(merge.labels.max()) + 1 for name, merge in merged.items()}
    return rebuild(policy, network, quotient.collapse(tensors_of(policy), network.table, merged), widths)
