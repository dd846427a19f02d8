"""Rules: what each operation does to neurons. A new kind of layer is one more function here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.fibration.recurrent import CELLS, Cell
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import FIRST_INPUT, axis_of, free, may_differ, varies
from pufferlib_kcore.graph.sizes import learn_sizes
from pufferlib_kcore.graph.trace import UNIFORM, Trace, rule

# Layers: parameters that write and read neurons ------------------------------------------------------


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    return convolved(trace, out, x, weight, bias, groups, reads=1, writes=0)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    return convolved(trace, out, x, weight, bias, groups, reads=0, writes=1)


def convolved(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    reads: int,
    writes: int,
) -> Tensor:
    """A convolution, or its transpose, whose weight's axes `reads` and `writes` hold channels.

    Depthwise, it is a scale of each channel, which becomes one with its input's. With other groups it is left
    whole: each row reads other channels, so that a merge would have to be of equal parts in each group.
    """
    channel = 1 - weight.ndim  # counted from the end: a batch axis may be missing
    below = trace.along(x, channel)
    if groups == 1:
        trace.read(weight, reads, below)
        units = trace.write((weight, writes), (bias, 0), kind="cnn")
    elif groups == len(weight) == out.shape[channel] == x.shape[channel]:
        units = trace.write((weight, 0), (bias, 0), kind="cnn")
        trace.unite(below, units)
        trace.nonhomogeneous.append(units)  # it scales by channel and by filter
        learn_sizes((groups,), units)
    else:
        units = torch.zeros(out.shape[channel], dtype=torch.int64)
        written = [(p, 0) for p in (weight, bias) if p is not None and p.shape[0] == len(units)]
        if written:
            units = trace.write(*written, kind="cnn")
        for neurons in (trace.neurons(x), units):
            trace.protect(neurons, f"{trace.here()} has groups")
    return trace.spread(units, out, channel)


@rule("batch_norm", "instance_norm")
def channel_norm(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    eps: float = 1e-5,
    **kwargs: Any,
) -> Tensor:
    """Every channel by itself. Its scale, shift and running statistics are merged with it, each its mean.

    So a merge is exact where all of them agree, whether the module is in training or not; two channels whose
    normalized weights agree, and only those, stay two. They are compared by `normalized`.
    """
    units = trace.along(x, 1)
    kept = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    given = {key: t for key, t in kept.items() if t is not None}
    if given:
        names = tuple(trace.name(t) or "" for t in given.values())
        columns = Columns(names, partial(normalized, tuple(given), eps))
        own = trace.write(*((t, 0) for t in given.values()), kind="cnn", columns=[columns])
        trace.unite(units, own)
        units = torch.maximum(units, own)
    return trace.spread(units, out, 1)


def normalized(keys: Sequence[str], eps: float, *values: np.ndarray) -> np.ndarray:
    """What a batch norm keeps of each channel, so that it can stand beside the channel's weights.

    Of order 1 whatever the channel's size, and zero where all channels agree, so that it does not outweigh
    them: scale, shift, mean / deviation and log deviation, each less its mean over channels.

    keys    what the values are: "weight", "bias", "running_mean", "running_var"
    values  (units, d) each -> (units, D)
    """
    kept = dict(zip(keys, values, strict=True))
    if "running_var" in kept:
        deviation = np.sqrt(kept["running_var"] + eps)
        kept |= {"running_mean": kept["running_mean"] / deviation, "running_var": np.log(deviation)}
    return np.hstack([value - value.mean(axis=0) for value in kept.values()])


@rule("embedding")
def embedding(
    trace: Trace,
    out: Tensor,
    index: Tensor,
    weight: Tensor,
    padding_idx: Any = None,
    max_norm: float | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    trace.keep_whole(index, "looks rows up by it")
    if max_norm is not None:
        trace.keep_whole(weight, "bounds the norm of its rows")
    return trace.spread(trace.write((weight, 1), kind="linear"), out, -1)


@rule("embedding_bag")
def bag(
    trace: Trace,
    out: Tensor,
    index: Tensor,
    weight: Tensor,
    offsets: Any = None,
    max_norm: float | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Sums, means or maxima of rows, each of their entries by itself."""
    for x in tensors_in((offsets, args, kwargs)):
        trace.keep_whole(x, "weighs rows by it")
    return embedding(trace, out, index, weight, None, max_norm)


PACKED = "cannot be traced: packed sequences are not followed"
PADDED = "give it a padded tensor"


@rule("pack_padded_sequence", "pad_packed_sequence")
def packing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    return trace.refuse((args, kwargs), out, PACKED, PADDED)


def stacked(
    trace: Trace,
    out: tuple[Tensor, ...],
    x: Tensor,
    hx: Tensor | tuple[Tensor, ...],
    weights: Sequence[Tensor],
    biased: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    cell: Cell,
) -> tuple[Tensor, ...]:
    """A recurrent module of several layers.  out: (sequence, *last states)"""
    given = (x, hx, weights, biased)
    if not isinstance(biased, bool):  # another signature
        return tuple(trace.refuse(given, out, PACKED, PADDED))
    per_layer = 4 if biased else 2
    if bidirectional:
        why = "cannot be traced: it runs in both directions"
        return tuple(trace.refuse(given, out, why, "build it of two that run in one"))
    if len(weights) != layers * per_layer:
        why = "cannot be traced: its hidden state is projected (proj_size)"
        return tuple(trace.refuse(given, out, why, "put a linear layer behind it instead"))
    if not all(trace.name(weight) for weight in weights):
        return tuple(
            trace.refuse(given, out, "cannot be traced: its weights are computed", "give it its own")
        )
    below, written = trace.along(x, -1), []
    for layer in range(layers):
        parameters = weights[layer * per_layer : (layer + 1) * per_layer]
        below = write_cell(trace, below, *parameters, cell=cell, layer=layer if layers > 1 else None)
        written.append(below)
    trace.same_width.append(written)
    state = torch.stack([units.expand(out[1].shape[1:]) for units in written])  # (layers, [batch,] units)
    for h in tensors_in(hx):
        trace.start(h, state)
    trace.hand_on(*out[1:])
    return trace.spread(below, out[0], -1), *[state] * (len(out) - 1)


def single(
    trace: Trace, out: Any, x: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, *biases: Tensor, cell: Cell
) -> tuple[Tensor, ...]:
    """A recurrent cell that runs for one step.  out: the new state, one tensor or two"""
    if not all(trace.name(p) for p in (w_ih, w_hh, *biases)):
        why = "cannot be traced: its weights are computed"
        return tuple(trace.refuse((x, hx, w_ih, w_hh, biases), out, why, "give it its own"))
    units = write_cell(trace, trace.along(x, -1), w_ih, w_hh, *biases, cell=cell)
    states = list(tensors_in(out))
    for h in tensors_in(hx):
        trace.start(h, units.expand(h.shape))
    trace.hand_on(*states)
    return tuple(units.expand(h.shape) for h in states)


for name, cell in CELLS.items():
    rule(name)(partial(stacked, cell=cell))
    rule(f"{name}_cell")(partial(single, cell=cell))


def write_cell(
    trace: Trace,
    below: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *biases: Tensor,
    cell: Cell,
    layer: int | None = None,
) -> Tensor:
    """One layer of recurrent units that read neurons `below` and themselves.  -> (units,)"""
    names = [trace.name(p) or "" for p in (w_ih, w_hh, *biases)]
    columns = [Columns((names[0],)), Columns((names[1],))]
    if biases:
        columns.append(Columns((names[2], names[3]), cell.biases))
    units = trace.write(
        *((p, 0) for p in (w_ih, w_hh, *biases)),
        kind="lstm",
        gates=cell.gates,
        step=cell.step,
        columns=columns,
        name=None if layer is None else f"{names[0].rpartition('.')[0]}.l{layer}".lstrip("."),
    )
    trace.read(w_ih, 1, below)
    trace.read(w_hh, 1, units)
    return units


# Arithmetic: the same function of every neuron -------------------------------------------------------

ELEMENTWISE = """
    where relu relu6 leaky_relu elu selu celu gelu silu mish logsigmoid softsign hardtanh hardswish tanhshrink
    threshold dropout alpha_dropout feature_dropout feature_alpha_dropout dropout1d dropout2d dropout3d rrelu
    absolute negative subtract multiply divide floor_divide fix
    greater greater_equal less less_equal not_equal isclose invert
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh complex polar real imag special_expit
""".split()  # and all that torch's own list has as pointwise
OPERATORS = "add sub mul div truediv floordiv mod pow and or xor lshift rshift".split()


@rule(*ELEMENTWISE, *(prefix + name for name in OPERATORS for prefix in ("", "r", "i")))
def elementwise(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return alike(trace, out, list(tensors_in((args, kwargs))))


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


@rule(
    *"""
    float double half bfloat16 long int to type type_as clone detach contiguous cpu cuda data alias positive
    as_tensor asarray tensor requires_grad as_subclass conj resolve_conj resolve_neg
    """.split()
)
def same(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return trace.nobody(out)[0] if trace.view(x, out, range(x.ndim)) else trace.neurons(x)


# Movement: neurons move as their values do -----------------------------------------------------------


@rule(*"view reshape flatten unflatten ravel squeeze view_as reshape_as".split())
def in_order(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    if trace.is_table(x):
        return views_of(trace, out, x, lambda ids: ids.reshape(out.shape))
    return trace.neurons(x).reshape(out.shape)


@rule(*"permute transpose swapaxes swapdims movedim moveaxis adjoint t T mT H mH unsqueeze".split())
def permuted(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    axes = torch.empty(tuple(range(2, 2 + x.ndim)))  # told apart by their sizes; 1 is a new one
    dims = [size - 2 if size > 1 else None for size in trace.func(axes, *args, **kwargs).shape]
    return trace.nobody(out) if trace.view(x, out, dims) else moved(trace, out, x, *args, **kwargs)


@rule("expand", "expand_as", "broadcast_to")
def repeated(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    added = out.ndim - x.ndim
    dims = [d - added if d >= added and x.shape[d - added] == out.shape[d] else None for d in range(out.ndim)]
    return trace.nobody(out) if trace.view(x, out, dims) else moved(trace, out, x, *args, **kwargs)


@rule(
    *"""
    chunk split split_with_sizes tensor_split unbind narrow select getitem index_select
    """.split()
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
    roll flip rot90 unfold diagonal pixel_shuffle pixel_unshuffle channel_shuffle
    """.split()
)
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


def constant(trace: Trace) -> int:
    """The number of elements that hold one value, of their own among those that are free."""
    return int(trace.uniform(torch.zeros(())))


@rule("setitem")
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


@rule("fold")
def folded(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Every channel's patches summed where they overlap."""
    patches = trace.neurons(x).unflatten(-2, (out.shape[-3], -1))
    along = axis_of(patches, -3)
    if along is None:
        return mixing(trace, out, x)[0]
    return trace.spread(along, out, -3)


@rule("copy")
def copied(trace: Trace, out: Tensor, x: Tensor, source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """x holds what the source holds; a parameter or buffer keeps its own neurons, united with these."""
    neurons = trace.neurons(source).expand(out.shape)
    return alike(trace, out, [x], neurons) if trace.is_named(x) else neurons


# Reductions ------------------------------------------------------------------------------------------


POOLS = [
    f"{pool}_pool{d}d" for pool in ("max", "avg", "lp", "adaptive_max", "adaptive_avg") for d in (1, 2, 3)
]


@rule(*POOLS, "pad", "interpolate")
def within_channels(trace: Trace, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Every channel by itself, over the last axes; a border of constants is the same for all of them."""
    if trace.operation == "pad":
        places = len(args[0] if args else kwargs["pad"]) // 2
    else:
        places = x.ndim - 2 if trace.operation == "interpolate" else int(trace.operation[-2])
    neurons = not_free(reduced(trace, x, range(-places, 0)))
    return tuple(neurons.expand(y.shape) for y in tensors_in(out))


COUNTING = "sum mean prod std var logsumexp median nansum nanmean nanmedian count_nonzero".split()
TOTALS = "sum prod logsumexp nansum count_nonzero".split()  # which tell how many there are of one value
MOMENTS = "var_mean std_mean".split()
EXTREMES = "amax amin max min aminmax any all".split()  # what several that are equal do not change


@rule(*COUNTING, *MOMENTS, *EXTREMES)
def reduction(
    trace: Trace, out: Any, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any
) -> Tensor | tuple[Tensor, ...]:
    dim = kwargs.get("axis", kwargs.get("other", dim))
    if isinstance(dim, Tensor):  # max(a, b)
        return elementwise(trace, out, x, dim)
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    before = trace.neurons(x)
    neurons = reduced(trace, x, dims, counts=trace.operation not in EXTREMES)
    if trace.operation in TOTALS:
        trace.count_free(before, dims)
    results = list(tensors_in(out))
    if trace.operation not in ("aminmax", *MOMENTS) and len(results) > 1:  # values, and their places
        if any((before != before.narrow(d, 0, 1)).any() for d in dims):
            trace.tell_places(results[1], before)
        return neurons.reshape(results[0].shape), *trace.nobody(results[1:])
    return tuple(neurons.reshape(y.shape) for y in results)


def reduced(trace: Trace, x: Tensor, dims: Iterable[int], counts: bool = True) -> Tensor:
    """The neurons of x with these axes cut to one entry.

    Where they go over different neurons: if results differ from place to place, as the smaller one of two
    critics does, those compared or added up can only merge alike. Else one result is of them all: nobody's,
    and they are protected if it `counts` how many of them are equal.
    """
    neurons = trace.neurons(x)
    dims = sorted({dim % x.ndim for dim in dims}) if x.ndim else []
    left = [dim for dim in range(x.ndim) if dim not in dims]
    slices = neurons.permute(*dims, *left).reshape(-1, *(neurons.shape[dim] for dim in left))
    shape = [1 if dim in dims else size for dim, size in enumerate(neurons.shape)]
    if len(slices) and (slices == slices[:1]).all():
        return slices[0].reshape(shape)
    if (slices > 0).any() and any(varies(one) for one in slices) and not meet_themselves(trace, slices):
        return reduce(partial(together, trace), slices).reshape(shape)
    if counts or any(varies(one) for one in slices):
        trace.protect(neurons, f"{trace.here()} goes over its neurons")
    trace.compared.append(neurons)
    return torch.zeros(shape, dtype=torch.int64)


def meet_themselves(trace: Trace, slices: Tensor) -> bool:
    """Whether neurons of one population are met by others of the same."""
    seen: dict[int, Tensor] = {}
    for one in slices:
        for p in {trace.population(n) for n in one[one > 0].unique()}:
            first, units = trace.populations[p].first, trace.populations[p].units
            own = torch.where((one >= first) & (one < first + units), one, 0)
            if not torch.equal(seen.setdefault(p, own), own):
                return True
    return False


@rule(*"cumsum cumprod logcumsumexp cummax cummin".split())
def running(trace: Trace, out: Any, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Along an axis of steps every neuron goes by itself; along one of neurons their places matter."""
    neurons, axis = trace.neurons(x), kwargs.get("axis", dim)
    if (neurons != neurons.narrow(axis, 0, 1)).any():
        return mixing(trace, out, x)
    return tuple(not_free(neurons) for _ in tensors_in(out))


def not_free(neurons: Tensor) -> Tensor:
    """Neurons as they are; of one value all over the operation may have made several."""
    return torch.where(free(neurons), 0, neurons)


@rule(*UNIFORM)
def uniform(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """One value all over, whatever was there; or none yet."""
    if trace.operation == "zero" and free(trace.neurons(args[0])).all():  # as new(..).zero_() goes
        return trace.neurons(args[0])
    if trace.operation in ("fill", "full", "new_full", "full_like"):
        for value in tensors_in((args[1:], kwargs)):
            trace.keep_whole(value, "fills a tensor with it")
    return trace.uniform(out, args, kwargs)


@rule(
    *"""
    is_all_true is_any_true rand_like randn_like randint_like new_tensor nested_tensor_from_mask_left_aligned
    """.split()
)
def unaffected(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Nobody's value is in the result, or the question does not count how many neurons agree."""
    return trace.nobody(out)


@rule("multi_head_attention_forward")
def attention(
    trace: Trace,
    out: tuple[Tensor, ...],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    """Left whole: it cuts its heads at fixed places."""
    out_weight, out_bias = args[5:7]  # after in_bias, bias_k, bias_v, add_zero_attn, dropout_p
    projections = [in_weight] if in_weight is not None else [kwargs[f"{p}_proj_weight"] for p in "qkv"]
    written = [trace.write((weight, 0), kind="linear") for weight in projections]
    units = trace.write((out_weight, 0), (out_bias, 0), kind="linear")
    for neurons in (*map(trace.neurons, (query, key, value)), *written, units):
        trace.protect(neurons, f"{trace.here()} cuts heads at fixed places")
    return trace.spread(units, out[0], -1), *trace.nobody(out[1:])


@rule(
    *"""
    softmax log_softmax layer_norm group_norm rms_norm local_response_norm normalize cosine_similarity
    scaled_dot_product_attention norm linalg_norm linalg_vector_norm
    argmax argmin argsort sort topk kthvalue mode quantile nanquantile multinomial normal bernoulli poisson
    one_hot nonzero diff weight_norm tril triu masked_select gumbel_softmax softmin pairwise_distance
    take take_along_dim msort bucketize searchsorted mse_loss l1_loss smooth_l1_loss huber_loss
    cross_entropy nll_loss kl_div binary_cross_entropy binary_cross_entropy_with_logits gaussian_nll_loss
    cosine_embedding_loss
    """.split()
)
def mixing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Each result depends on how many neurons there are, or on their places."""
    for x in tensors_in((args, kwargs)):
        trace.keep_whole(x, "mixes its neurons")
    return trace.nobody(out)
