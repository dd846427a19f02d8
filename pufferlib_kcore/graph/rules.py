"""Rules: what each operation does to neurons. A new kind of layer is one more function here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.fibration.recurrent import CELLS, Cell
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.sizes import learn_sizes
from pufferlib_kcore.graph.trace import Trace, rule

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
        trace.bent.append(units)  # twice as large a channel, with a filter twice as large, is four times so
        learn_sizes((groups,), units)
    else:
        units = torch.zeros(out.shape[channel], dtype=torch.int64, device=x.device)
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
    trace.hold(index, "looks rows up by it")
    if max_norm is not None:
        trace.hold(weight, "bounds the norm of its rows")
    return trace.spread(trace.write((weight, 1), kind="linear"), out, -1)


PACKED = "cannot be traced: packed sequences are not followed"
PADDED = "give it a padded tensor"


@rule("pack_padded_sequence", "pad_packed_sequence")
def packing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    return trace.leave((args, kwargs), out, PACKED, PADDED)


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
        return tuple(trace.leave(given, out, PACKED, PADDED))
    per_layer = 4 if biased else 2
    if bidirectional:
        why = "cannot be traced: it runs in both directions"
        return tuple(trace.leave(given, out, why, "build it of two that run in one"))
    if len(weights) != layers * per_layer:
        why = "cannot be traced: its hidden state is projected (proj_size)"
        return tuple(trace.leave(given, out, why, "put a linear layer behind it instead"))
    if not all(trace.name(weight) for weight in weights):
        return tuple(trace.leave(given, out, "cannot be traced: its weights are computed", "give it its own"))
    below, written = trace.along(x, -1), []
    for layer in range(layers):
        parameters = weights[layer * per_layer : (layer + 1) * per_layer]
        below = write_cell(trace, below, *parameters, cell=cell, layer=layer if layers > 1 else None)
        written.append(below)
    trace.same_width.append(written)
    state = torch.stack([units.expand(out[1].shape[1:]) for units in written])  # (layers, [batch,] units)
    for h in tensors_in(hx):
        give_state(trace, h, state)
    trace.state_outputs |= {id(h) for h in out[1:]}
    return trace.spread(below, out[0], -1), *[state] * (len(out) - 1)


def single(
    trace: Trace, out: Any, x: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, *biases: Tensor, cell: Cell
) -> tuple[Tensor, ...]:
    """A recurrent cell that runs for one step.  out: the new state, one tensor or two"""
    if not all(trace.name(p) for p in (w_ih, w_hh, *biases)):
        why = "cannot be traced: its weights are computed"
        return tuple(trace.leave((x, hx, w_ih, w_hh, biases), out, why, "give it its own"))
    units = write_cell(trace, trace.along(x, -1), w_ih, w_hh, *biases, cell=cell)
    states = list(tensors_in(out))
    for h in tensors_in(hx):
        give_state(trace, h, units.expand(h.shape))
    trace.state_outputs |= {id(h) for h in states}
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


def give_state(trace: Trace, h: Tensor, units: Tensor) -> None:
    """A state handed to recurrent units: neurons of ours, an input of the policy, or a constant."""
    neurons = trace.neurons(h)
    if (neurons < 0).all() and len(neurons.unique()) == 1:
        trace.state_inputs[-1 - int(neurons.flatten()[0])] = units
    elif (neurons > 0).any() or (h != h.flatten()[0]).any():
        trace.unite(neurons.expand(units.shape), units)


# Arithmetic: the same function of every neuron -------------------------------------------------------

ELEMENTWISE = """
    relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid logsigmoid softplus softsign threshold
    hardtanh hardsigmoid hardswish hardshrink softshrink tanhshrink dropout alpha_dropout feature_dropout
    dropout1d dropout2d dropout3d
    exp exp2 expm1 log log2 log1p sqrt rsqrt square abs neg negative pos sign sin cos tan asin acos atan sinh
    cosh erf reciprocal floor ceil round trunc frac clamp clip clamp_min clamp_max nan_to_num
    subtract multiply divide true_divide floor_divide float_power fmod remainder maximum minimum fmax fmin
    atan2 where lerp addcmul addcdiv masked_fill
    eq ne lt le gt ge isnan isinf isfinite logical_and logical_or logical_xor logical_not invert bitwise_not
""".split()
OPERATORS = "add sub mul div truediv floordiv mod pow and or xor".split()


@rule(*ELEMENTWISE, *(prefix + name for name in OPERATORS for prefix in ("", "r", "i")))
def elementwise(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return alike(trace, out, list(tensors_in((args, kwargs))))


def alike(trace: Trace, out: Tensor, tensors: Sequence[Tensor], *neurons: Tensor) -> Tensor:
    """The neurons of the same function, at every entry, of tensors, and of neurons found before."""

    def aligned(ids: Tensor) -> Tensor:
        return ids.reshape((1,) * (out.ndim - ids.ndim) + tuple(ids.shape))

    tables = [x for x in tensors if trace.is_table(x)]
    others = [x for x in tensors if not trace.is_table(x) and not trace.is_constant(x)]
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
    shared_a = {dim for dim, size in enumerate(shape) if a.shape[dim] != size}  # one entry serves all of b
    shared_b = {dim for dim, size in enumerate(shape) if b.shape[dim] != size}
    along_a, along_b = varies(a), varies(b)
    a, b = a.expand(shape), b.expand(shape)
    if not ((a > 0).any() or (b > 0).any()):  # inputs and constants
        return (
            a if shared_b and not shared_a else b if shared_a and not shared_b else torch.where(a == b, a, 0)
        )
    a_is_free = along_a and along_a <= shared_b  # what meets each neuron of a is the same for all of them
    b_is_free = along_b and along_b <= shared_a
    if a_is_free and b_is_free:
        trace.protect(torch.stack([a, b]), f"{trace.here()} pairs each with each of others")
        return torch.zeros_like(a)
    if a_is_free or b_is_free:
        return a if a_is_free else b
    trace.unite(a, b)
    return torch.maximum(a, b)


def varies(neurons: Tensor) -> set[int]:
    """The axes along which neurons differ."""
    return {dim for dim in range(neurons.ndim) if (neurons != neurons.narrow(dim, 0, 1)).any()}


@rule(*"float double half bfloat16 long to type type_as clone detach contiguous cpu cuda data alias".split())
def same(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return trace.nobody(out)[0] if trace.view(x, out, range(x.ndim)) else trace.neurons(x)


# Movement: neurons move as their values do -----------------------------------------------------------


@rule(*"view reshape flatten unflatten ravel squeeze view_as reshape_as".split())
def in_order(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return trace.neurons(x).reshape(out.shape)


@rule(*"permute transpose swapaxes swapdims movedim moveaxis t T mT unsqueeze".split())
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
    broadcast_tensors repeat tile repeat_interleave cat concat concatenate stack hstack vstack
    chunk split tensor_split unbind narrow select getitem index_select roll flip unfold
    """.split()
)
def moved(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> Any:
    def shadow(value: Any) -> Any:
        if isinstance(value, Tensor):
            return trace.neurons(value)
        return type(value)(shadow(v) for v in value) if isinstance(value, (tuple, list)) else value

    first = len(args) if trace.operation == "broadcast_tensors" else 1  # others take indices and sizes, too
    args = tuple(shadow(value) if i < first else value for i, value in enumerate(args))
    kwargs = {key: shadow(v) if key in ("tensors", "input") else v for key, v in kwargs.items()}
    neurons = trace.func(*args, **kwargs)
    trace.taken += tensors_in(neurons)
    return neurons


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
    neurons = reduced(trace, x, range(-places, 0))
    return tuple(neurons.expand(y.shape) for y in tensors_in(out))


@rule("sum", "mean", "prod", "std", "var", "logsumexp", "median", "amax", "amin", "max", "min")
def reduction(
    trace: Trace, out: Any, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any
) -> Tensor | tuple[Tensor, ...]:
    if isinstance(dim, Tensor):  # max(a, b)
        return elementwise(trace, out, x, dim)
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    neurons = reduced(trace, x, dims, counts=trace.operation not in ("amax", "amin", "max", "min"))
    return tuple(neurons.reshape(y.shape) for y in tensors_in(out))


def reduced(trace: Trace, x: Tensor, dims: Iterable[int], counts: bool = True) -> Tensor:
    """The neurons of x with these axes cut to one entry. None where the axes go over different neurons,

    which are protected if the result `counts` how many of them are equal.
    """
    neurons = trace.neurons(x)
    for dim in dims:
        first = neurons.narrow(dim, 0, 1)
        if (neurons != first).any():
            if counts:
                trace.protect(neurons, f"{trace.here()} goes over its neurons")
            first = torch.zeros_like(first)
        neurons = first
    return neurons


@rule(
    *"""
    any all is_all_true is_any_true zeros_like ones_like full_like empty_like rand_like randn_like new_zeros
    new_ones new_full new_empty new_tensor nested_tensor_from_mask_left_aligned
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
    scaled_dot_product_attention
    cumsum argmax argmin sort topk multinomial normal bernoulli gather one_hot
    """.split()
)
def mixing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Each result depends on how many neurons there are, or on their places."""
    for x in tensors_in((args, kwargs)):
        trace.hold(x, "mixes its neurons")
    return trace.nobody(out)
