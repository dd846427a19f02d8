"""Movement: neurons move as their values do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import FIRST_INPUT, axis_of, varies
from pufferlib_kcore.graph.operations import rule
from pufferlib_kcore.graph.rules.constants import constant
from pufferlib_kcore.graph.rules.elementwise import together
from pufferlib_kcore.graph.rules.reductions import mixing
from pufferlib_kcore.graph.tracing import Trace


@rule(
    *"""
    float double half bfloat16 to type type_as clone detach contiguous cpu cuda data alias positive
    as_tensor asarray tensor requires_grad
    """.split(),
    moves=True,
)
@rule("long", "int", "conj", "resolve_conj", "resolve_neg")
def same(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return trace.nobody(out)[0] if trace.view(x, out, range(x.ndim)) else trace.neurons(x)


@rule("view", "reshape", moves=True, takes_shape=True)
@rule(*"flatten unflatten ravel squeeze view_as reshape_as".split(), moves=True, takes_sizes=True)
def in_order(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if trace.is_table(x):
        return views_of(trace, out, x, lambda ids: ids.reshape(out.shape))
    return trace.neurons(x).reshape(out.shape)


@rule(
    *"permute transpose swapaxes swapdims movedim moveaxis t T mT unsqueeze".split(),
    moves=True,
    takes_sizes=True,
)
@rule("adjoint", "H", "mH")
def permuted(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    axes = torch.empty(tuple(range(2, 2 + x.ndim)))  # told apart by their sizes; 1 is a new one
    dims = [size - 2 if size > 1 else None for size in trace.func(axes, *args, **kwargs).shape]
    return trace.nobody(out) if trace.view(x, out, dims) else moved(trace, out, x, *args, **kwargs)


@rule("expand", "broadcast_to", moves=True, takes_shape=True)
@rule("expand_as", moves=True, takes_sizes=True)
def repeated(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    added = out.ndim - x.ndim
    dims = [d - added if d >= added and x.shape[d - added] == out.shape[d] else None for d in range(out.ndim)]
    return trace.nobody(out) if trace.view(x, out, dims) else moved(trace, out, x, *args, **kwargs)


@rule(
    *"chunk split split_with_sizes tensor_split unbind narrow select getitem index_select".split(),
    moves=True,
    takes_sizes=True,
)
def selected(trace: Trace, out: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Parts of a tensor; of a parameter with several axes a view, whose whole axes rules may name."""
    if trace.is_table(x):
        where, named = (
            each_tensor(args, Tensor.cpu),
            {k: each_tensor(v, Tensor.cpu) for k, v in kwargs.items()},
        )
        return views_of(trace, out, x, lambda ids: trace.func(ids, *where, **named))
    return moved(trace, out, x, *args, **kwargs)


def views_of(trace: Trace, out: Any, x: Tensor, function: Callable[[Tensor], Any]) -> list[Tensor]:
    """Views of a parameter: an axis is named where it runs along one of the parameter's from end to end."""
    dims = [[None] * y.ndim for y in tensors_in(out)]  # type: list[list[int | None]]
    for dim, size in enumerate(x.shape):
        along = torch.arange(size).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
        for found, ids in zip(dims, tensors_in(function(along.expand(x.shape))), strict=True):
            if size > 1 and len(where := varies(ids)) == 1:
                (at,) = where
                whole = torch.equal(ids.movedim(at, -1).reshape(-1, ids.shape[at])[0], torch.arange(size))
                found[at] = dim if whole else None
    for y, found in zip(tensors_in(out), dims, strict=True):
        trace.view(x, y, found)
    return trace.nobody(out)


@rule(
    *"""
    broadcast_tensors repeat tile repeat_interleave cat concat concatenate stack hstack vstack dstack
    roll flip rot90 diagonal pixel_shuffle pixel_unshuffle channel_shuffle
    """.split(),
    moves=True,
    takes_sizes=True,
)
@rule("unfold", takes_sizes=True)
def moved(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> Any:
    def shadow(x: Tensor) -> Tensor:
        return trace.neurons(x).double()  # exact up to 2^53, and every kind of move knows it

    first = len(args) if trace.operation == "broadcast_tensors" else 1  # others take indices and sizes, too
    args = tuple(each_tensor(value, shadow if i < first else Tensor.cpu) for i, value in enumerate(args))
    kwargs = {
        key: each_tensor(value, shadow if key in ("tensors", "input") else Tensor.cpu)
        for key, value in kwargs.items()
    }
    neurons = [ids.long() for ids in tensors_in(trace.func(*args, **kwargs))]
    trace.selections += neurons
    return neurons


def each_tensor(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A value, the tensors in its tuples and lists replaced."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(each_tensor(v, function) for v in value) if type(value) in (tuple, list) else value


@rule("setitem", takes_sizes=True)
def assigned(trace: Trace, out: Any, x: Tensor, index: Any, value: Any) -> Tensor:
    """x, some of whose elements are another's now."""
    before, index = trace.neurons(x), each_tensor(index, Tensor.cpu)
    after = before.clone()
    if isinstance(value, Tensor):
        after[index] = trace.neurons(value)
        trace.selections.append(trace.neurons(value))
    else:
        after[index] = constant(trace) if isinstance(value, (bool, int, float)) else 0
    trace.selections += [before, after]
    return after


@rule(*"index_add index_copy index_fill index_reduce scatter scatter_add scatter_reduce gather".split())
def indexed(
    trace: Trace, out: Tensor, x: Tensor, dim: int, index: Tensor, *args: Any, **kwargs: Any
) -> Tensor | list[Tensor]:
    """Along an axis of rows, such as a graph's nodes, every neuron goes by itself, if all go the same way."""
    neurons = [trace.neurons(y) for y in (x, *tensors_in((args, kwargs))) if y.ndim == out.ndim]
    along = set().union(*(varies(ids) for ids in neurons if (ids > 0).any()))
    own = index.ndim == out.ndim  # a place of its own for every element
    if dim % max(out.ndim, 1) in along or own and not all(alike_along(index, d, out) for d in along):
        return mixing(trace, out, x, index, *args, **kwargs)
    trace.keep_whole(index, "indexes by it")
    if trace.operation != "gather" and not list(tensors_in((args, kwargs))):  # one value in some places
        changed = trace.func(torch.zeros(out.shape), dim, index.cpu(), 1.0) != 0
        return torch.where(changed, constant(trace), trace.neurons(x))
    if not along:
        return trace.nobody(out)
    given = neurons[:1] if trace.operation == "gather" else neurons
    return reduce(partial(together, trace), (line(ids, dim, out) for ids in given))


def alike_along(index: Tensor, dim: int, out: Tensor) -> bool:
    """Whether an index is as long as `out` along an axis, and says the same all along it."""
    return index.shape[dim] == out.shape[dim] and not (index != index.narrow(dim, 0, 1)).any()


def line(neurons: Tensor, dim: int, out: Tensor) -> Tensor:
    """Neurons that are the same all along an axis, made as long as `out` is there; inputs are nobody's."""
    first = neurons.narrow(dim, 0, min(1, neurons.shape[dim]))
    size = [out.shape[d] if d == dim % out.ndim else n for d, n in enumerate(neurons.shape)]
    whole = torch.where(first <= FIRST_INPUT, 0, first).expand(size)
    return whole[tuple(map(slice, out.shape))]


@rule("fold", takes_sizes=True)
def folded(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Every channel's patches summed where they overlap."""
    patches = trace.neurons(x).unflatten(-2, (out.shape[-3], -1))
    along = axis_of(patches, -3)
    if along is None:
        return mixing(trace, out, x)[0]
    return trace.spread(along, out, -3)
