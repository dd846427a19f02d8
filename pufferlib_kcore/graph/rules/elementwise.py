"""Elementwise operations: the same function of every neuron."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import free, may_differ, varies
from pufferlib_kcore.graph.operations import describe, rule
from pufferlib_kcore.graph.tracing import Trace

ELEMENTWISE = """
    where elu selu celu gelu silu mish logsigmoid softsign hardtanh hardswish tanhshrink threshold
    absolute negative subtract multiply divide floor_divide fix
    greater greater_equal less less_equal not_equal isclose invert
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh complex polar real imag special_expit
""".split()  # and all that torch's own list has as pointwise
DROPOUTS = """
    alpha_dropout feature_dropout feature_alpha_dropout dropout1d dropout2d dropout3d rrelu
""".split()
OPERATORS = "add sub mul div truediv floordiv mod pow or xor lshift rshift".split()


@rule("relu", homogeneous=True, rectifies=True)
@rule("relu6", rectifies=True)
@rule("leaky_relu", homogeneous=True)
@rule("dropout", homogeneous=True, keeps_sign=True, drops=True)
@rule(*DROPOUTS, drops=True)
@rule("rand", random=True, takes_sizes=True)  # torch.rand, and what is on the right of an &
@rule("and", "iand", *ELEMENTWISE, *(prefix + name for name in OPERATORS for prefix in ("", "r", "i")))
def elementwise(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return alike(trace, out, list(tensors_in((args, kwargs))))


describe("isnan", "isinf", "isfinite", "isposinf", "isneginf", tells_if_finite=True)


def alike(trace: Trace, out: Tensor, tensors: Sequence[Tensor], *neurons: Tensor) -> Tensor:
    """The neurons of the same function, at every entry, of tensors, and of neurons found before."""

    def aligned(ids: Tensor) -> Tensor:
        return ids.reshape((1,) * (out.ndim - ids.ndim) + tuple(ids.shape))

    tables = [x for x in tensors if trace.is_table(x)]
    others = [x for x in tensors if not trace.is_table(x)]
    met = [aligned(ids) for ids in (*neurons, *map(trace.neurons, others))]
    along = set().union(*(varies(ids) for ids in met if (ids > 0).any()))
    for table in tables:  # a scale or shift of neurons at several places
        dim = min(along, default=out.ndim) - out.ndim
        if len(along) == 1 and -table.ndim <= dim and table.shape[dim] == out.shape[dim]:
            met.append(trace.spread(trace.write((table, table.ndim + dim), kind="linear"), out, dim))
        else:
            met.append(aligned(trace.neurons(table)))
    return reduce(partial(together, trace), met).expand(out.shape) if met else trace.nobody(out)[0]


@rule("glu")
def gated(trace: Trace, out: Tensor, x: Tensor, dim: int = -1) -> Tensor:
    """One half of the neurons times a function of the other."""
    half, gate = trace.neurons(x).chunk(2, dim)
    return together(trace, half, gate)


@rule("prelu")
def leaky_by_channel(trace: Trace, out: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """A slope of each channel's own, or one for all."""
    one = [] if slope.numel() == 1 else [trace.neurons(slope).reshape(-1, *[1] * (x.ndim - 2))]
    return alike(trace, out, [x], *one)


def together(trace: Trace, a: Tensor, b: Tensor) -> Tensor:
    """The neurons of an elementwise function of two tensors, of as many axes each."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if free(a).all() or free(b).all():  # nothing is asked of neurons, and what a width means may be learned
        a, b = a.expand(shape), b.expand(shape)
        trace.unite(a, b)
        return b if free(a).all() else a
    along_a, along_b = varies(a), varies(b)
    shared_a = shared(a, shape)  # axes along which one entry of a serves all of b
    shared_b = shared(b, shape)
    differs_a, differs_b = may_differ(a), may_differ(b)
    a, b = a.expand(shape), b.expand(shape)
    if not ((a > 0).any() or (b > 0).any()):  # inputs, and what is computed of them alone
        return a if differs_b < differs_a else b if differs_a < differs_b else torch.where(a == b, a, 0)
    a_is_free = along_a and along_a <= shared_b  # what meets each neuron of a is the same for all of them
    b_is_free = along_b and along_b <= shared_a
    if a_is_free and b_is_free:
        trace.protect(torch.stack([a, b]), f"{trace.here()} pairs each with each of others")
        return torch.zeros_like(a)
    if a_is_free or b_is_free:
        return a if a_is_free else b
    trace.unite(a, b)
    return torch.maximum(a, b)


def shared(neurons: Tensor, shape: Sequence[int]) -> set[int]:
    """The axes of a shape along which a tensor of these neurons, broadcast to it, is the same."""
    repeated = {dim for dim, size in enumerate(shape) if neurons.shape[dim] != size}
    if (neurons < 0).all():  # an input, or one value: spread out, maybe, but not along these axes
        repeated |= set(range(neurons.ndim)) - varies(neurons)
    return repeated


@rule("copy")
def copied(trace: Trace, out: Tensor, x: Tensor, source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x holds what the source holds; a parameter or buffer keeps its own neurons, united with these."""
    neurons = trace.neurons(source).expand(out.shape)
    return alike(trace, out, [x], neurons) if trace.is_named(x) else neurons
