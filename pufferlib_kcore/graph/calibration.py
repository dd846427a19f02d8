"""Calibration: colors, and a refit, from what a policy computes on recorded inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from pufferlib_kcore.fibration.quotient import PICK, Fibers, Segment, carry
from pufferlib_kcore.fibration.refinement import reads
from pufferlib_kcore.fibration.selection import Reader
from pufferlib_kcore.graph.activations import columns_read, readings
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.network import Network, network_of
from pufferlib_kcore.graph.recording import Call, Recorder, recorded
from pufferlib_kcore.graph.states import cut_states

RIDGE = 1e-5  # of the refit, in parts of the inputs' variance
LEAST = 1e-11  # the same, in parts of what the normal equations hold
ROUNDINGS = 4  # a unit that deviates by no more of them from its mean, in its dtype, is constant


def readers_of(policy: nn.Module, network: Network, calibrate: Inputs) -> dict[str, list[Reader]]:
    """For each space that may merge and recorded layers read, what each of them receives on these inputs.

    Where all that reads a space has a bias, which makes up for constants, covariances are about the mean;
    else about 0, so that a constant is something to be made up, too.
    """
    moments: dict[tuple[str, int], _Moments] = defaultdict(_Moments)  # of each stretch of a weight's columns
    biased: dict[str, bool] = {}
    for calls in recorded(policy, network.example.method, calibrate):
        biased |= {weight: bool(call.biases) for call in calls for weight in call.weights}
        for read in readings(network, calls):
            if not network[read.space].whole:
                moments[read.weight, read.stretch].add(read.x)
    readers = defaultdict(list)
    parameters = dict(policy.named_parameters())
    for (weight, stretch), seen in moments.items():
        columns = list(columns_read(network, weight, parameters[weight].detach().double().flatten(1)))
        space, matrix = columns[stretch]
        centered = all(biased.get(name) for name in network.table if space in reads([name], network.table))
        metric = torch.einsum("rpu,rpv->uv", matrix, matrix)
        covariance = seen.products(centered) / seen.count
        readers[space].append(Reader(covariance.cpu(), metric.cpu(), seen.rounding().cpu()))
    return dict(readers)


class _Moments:
    """Running means of x and y, (N, places, units) each, and the sum of their products about these.

    Means of parts are joined, so that nothing large and constant has to cancel (Chan et al., 1979, "Updating
    formulae and a pairwise algorithm for computing sample variances"); and all is counted from the first of
    them, so that constants are 0 exactly.
    """

    def __init__(self) -> None:
        self.count, self.eps = 0, 0.0

    def add(self, *xs: Tensor) -> None:
        """x and y, or x alone, which is y as well."""
        if not self.count:
            self.first = [x[0].double() for x in xs]
            self.mean = [torch.zeros_like(first) for first in self.first]
            self.scatter = self.mean[0].new_zeros(xs[0].shape[-1], xs[-1].shape[-1])
            self.eps = torch.finfo(xs[0].dtype).eps
        part = len(xs[0]) / (self.count + len(xs[0]))
        own = [x - first for x, first in zip(xs, self.first, strict=True)]  # in float64
        means = [x.mean(0) for x in own]
        apart = [mean - before for mean, before in zip(means, self.mean, strict=True)]
        own = [x.sub_(mean) for x, mean in zip(own, means, strict=True)]
        self.scatter += torch.einsum("npu,npv->uv", own[0], own[-1])
        self.scatter += self.count * part * apart[0].T @ apart[-1]
        self.mean = [before + part * off for before, off in zip(self.mean, apart, strict=True)]
        self.count += len(xs[0])

    def means(self) -> list[Tensor]:
        """Of x and y, (places, units) each."""
        return [first + mean for first, mean in zip(self.first, self.mean, strict=True)]

    def products(self, centered: bool = False) -> Tensor:
        """The sum of products about the means, or about 0.  -> (units, units)"""
        means = self.means()
        return self.scatter if centered else self.scatter + self.count * means[0].T @ means[-1]

    def rounding(self) -> Tensor:
        """The variance that rounding alone gives an x that is constant.  -> (units,)"""
        return (ROUNDINGS * self.eps) ** 2 * self.products().diagonal() / self.count


def smaller_inputs(policy: nn.Module, network: Network, inputs: Inputs, fibers: Fibers) -> list[tuple]:
    """The same inputs for the collapsed policy: recurrent state is cut to its fibers.

    The inputs are all of one structure; where it is not that which the policy was traced on (a state where
    there was none), it is traced again.
    """
    example, states = network.example, network.state_inputs
    if inputs and axes_in(inputs[0]) != axes_in(example.inputs):
        states = network_of(policy, example.at(inputs[0])).state_inputs
    return [cut_states(one, states, fibers) for one in inputs]


def axes_in(inputs: tuple) -> list[int]:
    """How many axes each tensor in the inputs has."""
    return [x.ndim for x in tensors_in(inputs)]


class Targets:
    """What each layer of a policy computes on recorded inputs, for smaller policies to be fitted to."""

    def __init__(self, policy: nn.Module, network: Network, calibrate: Inputs):
        self.policy, self.network, self.calibrate = policy, network, calibrate
        self.calls = [_targets_only(calls) for calls in recorded(policy, network.example.method, calibrate)]
        self.keys = list(dict.fromkeys(call.weights for calls in self.calls for call in calls))


def refit(smaller: nn.Module, fibers: Fibers, targets: Targets) -> None:
    """Fit each layer that reads merged units, from the inputs on, to the original's.  Edits `smaller`

    Ridge least squares, towards the weights that it has: the collapsed layer, reading what the collapsed
    policy gives it (its own last state: what the original's units were), is to compute what the original's
    picked units compute before their nonlinearity.
    """
    named, table = dict(smaller.named_parameters()), targets.network.table
    cut = smaller_inputs(targets.policy, targets.network, targets.calibrate, fibers)
    method = targets.network.example.method
    for key in targets.keys:
        if not any(s.space in fibers for weight in key for s in table[weight][1]):
            continue
        fit = _Fit([named[weight] for weight in key])
        biases: list[nn.Parameter] = []
        for inputs, calls in zip(cut, targets.calls, strict=True):
            theirs = [call for call in calls if call.weights == key]
            ours = Recorder(smaller, key).run_for(method, inputs, len(theirs)) if theirs else []
            for their, our in zip(theirs, ours, strict=True):
                x, biases = list(our.inputs), [named[bias] for bias in our.biases]
                if our.state is not None:
                    x[our.state] = _picked(their.inputs[0], table[key[our.state]][1], fibers)
                wanted = _picked(their.targets, table[key[0]][0], fibers)
                fit.add(x, wanted - sum(bias.detach() for bias in biases))
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
    """A least-squares correction to some matrices that add up to one target."""

    def __init__(self, weights: Sequence[Tensor]):
        self.weights, self.moments = weights, _Moments()

    def matrix(self) -> Tensor:
        """The matrices side by side.  -> (rows, columns) float64"""
        return torch.cat([weight.detach().double().flatten(1) for weight in self.weights], 1)

    def add(self, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """inputs: (N, columns) for each matrix;  targets: (N, rows), biases taken off"""
        x = torch.cat(list(inputs), 1)
        error = targets.double() - x.double() @ self.matrix().T
        self.moments.add(x[:, None], torch.cat([x.double(), error], 1)[:, None])

    def solve(self, biases: Sequence[Tensor]) -> None:
        """Correct the matrices, and then the first bias, which takes all of the mean error that is left.

        Columns that are constant are left to it; without a bias the matrices have to take the mean as well.
        """
        if not self.moments.count:
            return
        before, products = self.matrix(), self.moments.products(centered=bool(biases))
        gram, errors = products.split([len(products), len(before)], 1)
        sizes = (
            RIDGE * self.moments.products(centered=True).diagonal(),
            self.moments.rounding() * self.moments.count,
            LEAST * gram.diagonal(),
        )
        ridge = max(float(size.mean()) for size in sizes) or 1.0
        correction = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), errors).T
        columns = [prod(weight.shape[1:]) for weight in self.weights]
        for weight, part in zip(self.weights, correction.split(columns, 1), strict=True):
            weight.data += part.reshape(weight.shape).to(weight.dtype)
        _, means = self.moments.means()
        x, error = means.split([len(products), len(before)], 1)
        for bias in biases[:1]:
            bias.data += (error - x @ (self.matrix() - before).T)[0].to(bias.dtype)
