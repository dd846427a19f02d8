"""Calibration: colors, and a refit, from what a policy computes on recorded inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from pufferlib_kcore.fibration.quotient import PICK, Fibers, Segment, carry
from pufferlib_kcore.fibration.selection import Reader
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.network import Network, Outputs, network_of
from pufferlib_kcore.graph.recording import Call, Recorder
from pufferlib_kcore.graph.states import cut_states

Inputs = Sequence[tuple]  # positional arguments of the method, call by call
RIDGE = 1e-5  # of the refit, in parts of the inputs' mean square


def readers_of(
    policy: nn.Module, network: Network, calibrate: Inputs, method: str
) -> dict[str, list[Reader]]:
    """For each space that recorded layers read, what each of them receives on these inputs."""
    sums: dict[tuple[str, str], _Sums] = {}
    for inputs in calibrate:
        for call in Recorder(policy).run(method, inputs)[1]:
            for weight, x in zip(call.weights, call.inputs, strict=True):
                for segment, part in _parts(network, weight, x):
                    if not network[segment.space or ""].whole:
                        sums.setdefault((segment.space or "", weight), _Sums()).add(part)
    readers = defaultdict(list)
    parameters = dict(policy.named_parameters())
    for (space, weight), seen in sums.items():
        rows = parameters[weight].detach().double().flatten(1)
        reads = torch.cat([p for s, p in _parts(network, weight, rows) if s.space == space], 1)
        readers[space].append(Reader(seen.covariance(), torch.einsum("rpu,rpv->uv", reads, reads)))
    return dict(readers)


def _parts(network: Network, weight: str, x: Tensor) -> Iterator[tuple[Segment, Tensor]]:
    """What a weight's columns read of each space: (N, columns) -> (N, places, units) for each segment."""
    axis = network.table[weight][1]
    window = x.shape[1] // sum(s.length for s in axis)
    for segment, part in zip(axis, x.split([s.length * window for s in axis], 1), strict=True):
        if segment.space and segment.role == "in":
            part = part.reshape(len(x), segment.outer, segment.units, segment.inner * window)
            yield segment, part.movedim(2, 3).flatten(1, 2)


class _Sums:
    """Running moments of a space's activations, (N, places, units) at a time."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        x = x.double()
        self.count += len(x)
        self.total = self.total + x.sum(0)
        self.squares = self.squares + torch.einsum("npu,npv->uv", x, x)

    def covariance(self) -> Tensor:
        """(units, units), over inputs at each place, added up over places."""
        return (self.squares - self.total.T @ self.total / self.count) / self.count


def smaller_inputs(
    policy: nn.Module,
    inputs: Inputs,
    network: Network,
    fibers: Fibers,
    method: str,
    outputs: Outputs = None,
) -> list[tuple]:
    """The same inputs for the collapsed policy: recurrent state is cut to its fibers.

    The inputs are all of one structure; where it is not that which the policy was traced on (a state where
    there was none), it is traced again.
    """
    states = network.state_inputs
    if inputs and tuple(x.ndim for x in tensors_in(inputs[0])) != network.inputs:
        states = network_of(policy, inputs[0], method, outputs=outputs).state_inputs
    return [cut_states(one, states, fibers) for one in inputs]


class Targets:
    """What each layer of a policy computes on recorded inputs, for smaller policies to be fitted to."""

    def __init__(self, policy: nn.Module, calibrate: Inputs, method: str):
        self.policy, self.calibrate, self.method = policy, calibrate, method
        self.calls = [_targets_only(Recorder(policy).run(method, inputs)[1]) for inputs in calibrate]
        self.keys = list(dict.fromkeys(call.weights for calls in self.calls for call in calls))


def refit(smaller: nn.Module, network: Network, fibers: Fibers, targets: Targets) -> None:
    """Fit each layer that reads merged units, from the inputs on, to the original's.  Edits `smaller`

    Ridge least squares, towards the weights that it has: the collapsed layer, reading what the collapsed
    policy gives it (its own last state: what the original's units were), is to compute what the original's
    picked units compute before their nonlinearity.
    """
    named = dict(smaller.named_parameters())
    cut = smaller_inputs(targets.policy, targets.calibrate, network, fibers, targets.method)
    for key in targets.keys:
        if not any(s.space in fibers for weight in key for s in network.table[weight][1]):
            continue
        fit = _Fit([named[weight] for weight in key])
        biases: list[nn.Parameter] = []
        for inputs, calls in zip(cut, targets.calls, strict=True):
            theirs = [call for call in calls if call.weights == key]
            ours = Recorder(smaller, key).run_for(targets.method, inputs, len(theirs)) if theirs else []
            for their, our in zip(theirs, ours, strict=True):
                x, biases = list(our.inputs), [named[bias] for bias in our.biases]
                if our.state is not None:
                    x[our.state] = _picked(their.inputs[0], network.table[key[our.state]][1], fibers)
                wanted = _picked(their.targets, network.table[key[0]][0], fibers)
                fit.add(x, wanted - sum(bias.detach() for bias in biases), bool(biases))
        fit.solve(biases)


def _targets_only(calls: Sequence[Call]) -> list[Call]:
    """Without the inputs, but for a recurrent layer's own state."""
    return [replace(c, inputs=() if c.state is None else (c.inputs[c.state],)) for c in calls]


def _picked(x: Tensor, axis: tuple[Segment, ...], fibers: Fibers) -> Tensor:
    """Columns that are a space's, cut to its fibers.  (N, columns) -> (N, fewer)"""
    return carry(x, (*_whole(x.shape[:1]), axis), fibers, PICK)


def _whole(shape: Sequence[int]) -> Iterator[tuple[Segment]]:
    return ((Segment(None, units=size),) for size in shape)


class _Fit:
    """Normal equations of a correction to some matrices that add up to one target."""

    def __init__(self, weights: Sequence[Tensor]):
        self.weights = weights
        size = sum(prod(weight.shape[1:]) for weight in weights) + 1
        self.gram = torch.zeros(size, size, dtype=torch.float64)
        self.errors = torch.zeros(size, len(weights[0]), dtype=torch.float64)

    def add(self, inputs: Sequence[Tensor], targets: Tensor, biased: bool) -> None:
        """inputs: (N, columns) for each matrix;  targets: (N, rows), biases taken off"""
        x = torch.cat([x.double() for x in inputs], 1)
        now = torch.cat([weight.detach().double().flatten(1) for weight in self.weights], 1)
        x, error = torch.cat([x, x.new_full((len(x), 1), float(biased))], 1), targets.double() - x @ now.T
        self.gram += x.T @ x
        self.errors += x.T @ error

    def solve(self, biases: Sequence[Tensor]) -> None:
        """Add the correction to the matrices and to the first bias."""
        square = float(self.gram.diagonal()[:-1].mean())
        ridge = torch.full((len(self.gram),), max(RIDGE * square, 1e-12), dtype=torch.float64)
        ridge[-1] = max(1e-9 * float(self.gram[-1, -1]), 1e-12)
        correction = torch.linalg.solve(self.gram + torch.diag(ridge), self.errors).T
        columns = [prod(weight.shape[1:]) for weight in self.weights]
        for weight, part in zip(self.weights, correction[:, :-1].split(columns, 1), strict=True):
            weight.data += part.reshape(weight.shape).to(weight.dtype)
        for bias in biases[:1]:
            bias.data += correction[:, -1].to(bias.dtype)
