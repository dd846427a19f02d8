"""Activations: what the units of each space compute on recorded inputs, as those read it that read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.graph.recording import Call, recorded


@dataclass(frozen=True)
class Reading:
    """What a layer reads of one space in one call."""

    space: str
    weight: str  # the layer's
    stretch: int  # of the weight's columns that read spaces
    x: Tensor  # (N, places, units)


def activations(policy: nn.Module, network: Network, inputs: Inputs) -> Iterator[dict[str, Tensor]]:
    """The activations of each space, call by call: {space: (N, units)}, in what the policy computes in.

    Those that a layer reads, after nonlinearities, pools and norms: of the layers that `recorded` sees, the
    first that does not write the space itself (else a recurrent layer, which reads its own last state). So of
    a recurrent space what it hands on, at every step. A row for each state, step and place: a convolution
    reads window by window, ROWS places of one call at most, and a linear layer what was flattened before it
    place by place. Spaces that no recorded layer reads, such as outputs, are not among them.

    Raises UserError for NaN and infinity.
    """
    for calls in recorded(policy, network.example.method, inputs):
        yield read_in(network, calls)


def read_in(network: Network, calls: Sequence[Call]) -> dict[str, Tensor]:
    """The same of the calls of one run."""
    found: dict[str, dict[str, list[Reading]]] = defaultdict(lambda: defaultdict(list))
    for read in readings(network, calls):
        found[read.space][read.weight].append(read)
    return {
        space: torch.cat([read.x.flatten(0, 1) for read in _first(network, space, by_weight)])
        for space, by_weight in found.items()
    }


def all_activations(policy: nn.Module, network: Network, inputs: Inputs) -> dict[str, Tensor]:
    """The same of all calls, one after another.  -> {space: (N, units)}"""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for found in activations(policy, network, inputs):
        for space, x in found.items():
            parts[space].append(x)
    return {space: torch.cat(xs) for space, xs in parts.items()}


def readings(network: Network, calls: Sequence[Call]) -> Iterator[Reading]:
    """What recorded layers read of spaces, in the order of their calls."""
    for call in calls:
        for weight, x in zip(call.weights, call.inputs, strict=True):
            for stretch, (space, part) in enumerate(columns_read(network, weight, x)):
                yield Reading(space, weight, stretch, part)


def columns_read(network: Network, weight: str, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight's columns, or what they read, space by space.  (N, columns) -> (N, places, units) each"""
    axis = network.table[weight][1]
    window = x.shape[1] // sum(s.length for s in axis)
    for segment, part in zip(axis, x.split([s.length * window for s in axis], 1), strict=True):
        if segment.space and segment.role == "in":
            part = part.reshape(len(x), segment.outer, segment.units, segment.inner * window)
            yield segment.space, part.movedim(2, 3).flatten(1, 2)


def _first(network: Network, space: str, by_weight: dict[str, list[Reading]]) -> list[Reading]:
    """The readings of the first weight that does not write the space, of its first stretch."""
    others = [weight for weight in by_weight if not _writes(network, weight, space)]
    reads = by_weight[(others or list(by_weight))[0]]
    return [read for read in reads if read.stretch == reads[0].stretch]


def _writes(network: Network, weight: str, space: str) -> bool:
    return any(s.space == space and s.role == "out" for axis in network.table[weight] for s in axis)
