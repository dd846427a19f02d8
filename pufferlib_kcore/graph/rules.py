"""Rules: what each operation does to neurons. A new kind of layer is one more function here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.fibration.recurrent import CELLS, Cell
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.trace import Trace, rule

# Layers: parameters that write and read neurons ------------------------------------------------------


@rule("linear")
def linear(trace: Trace, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    trace.read(weight, 1, trace.along(x, -1))
    return trace.spread(trace.write((weight, 0), (bias, 0), kind="linear"), out, -1)


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    groups: int = 1,
) -> Tensor:
    channel = 1 - weight.ndim  # counted from the end: a batch axis may be missing
    units = trace.write((weight, 0), (bias, 0), kind="cnn")
    if weight.shape[1] == x.shape[channel]:
        trace.read(weight, 1, trace.along(x, channel))
    elif weight.shape[1] == 1 and len(weight) == x.shape[channel]:  # depthwise: each channel by itself
        trace.unite(trace.along(x, channel), units)
    else:
        for neurons in (trace.neurons(x), units):
            trace.protect(neurons, f"{trace.here()} has groups")
    return trace.spread(units, out, channel)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    channel = 1 - weight.ndim
    units = trace.write((weight, 1), (bias, 0), kind="cnn")
    if len(units) == out.shape[channel]:
        trace.read(weight, 0, trace.along(x, channel))
        return trace.spread(units, out, channel)
    for neurons in (trace.neurons(x), units):
        trace.protect(neurons, f"{trace.here()} has groups")
    return torch.zeros(out.shape, dtype=torch.int64, device=out.device)


@rule("embedding")
def embedding(trace: Trace, out: Tensor, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return trace.spread(trace.write((weight, 1), kind="linear"), out, -1)


@rule("bilinear")
def bilinear(
    trace: Trace, out: Tensor, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    trace.read(weight, 1, trace.along(x, -1))
    trace.read(weight, 2, trace.along(y, -1))
    return trace.spread(trace.write((weight, 0), (bias, 0), kind="linear"), out, -1)


@rule("batch_norm")
def batch_norm(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """Scale, shift and statistics of a channel are columns of its row, beside those of what it normalizes.

    So channels merge where these are equal, too; two that only their product makes equal do not.
    """
    own = [p for p in (weight, bias, running_mean, running_var) if p is not None]
    if own:
        trace.unite(trace.along(x, 1), trace.write(*((p, 0) for p in own), kind="linear"))
    return trace.neurons(x)


# Products: parameters and activations multiplied and summed by index --------------------------------


@rule("einsum")
def einsum(trace: Trace, out: Tensor, equation: str, *operands: Any) -> Tensor:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms, spare = left.split(","), [c for c in map(chr, range(65, 91)) if c not in equation]
    lead = max((x.ndim - len(t) + 3 for t, x in zip(terms, operands, strict=True) if "..." in t), default=0)
    filled = [
        t.replace("...", "".join(spare[lead - (x.ndim - len(t) + 3) : lead]))
        for t, x in zip(terms, operands, strict=True)
    ]
    if not arrow:
        raise trace.refuse("write the result's indices after an arrow, as in 'bi,oi->bo'")
    return contract(trace, out, filled, right.replace("...", "".join(spare[:lead])), operands)


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(trace: Trace, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    lead = "ABCDEFGH"[: max(a.ndim, b.ndim, 2) - 2]
    first = (lead + "ij")[-a.ndim :] if a.ndim > 1 else "j"
    second = (lead + "jk")[-b.ndim :] if b.ndim > 1 else "j"
    result = lead + "i" * (a.ndim > 1) + "k" * (b.ndim > 1)
    return contract(trace, out, [first, second], result, (a, b))


def contract(
    trace: Trace, out: Tensor, terms: Sequence[str], result: str, operands: Sequence[Tensor]
) -> Tensor:
    """Sums of products over the indices that the result lacks.

    An index that a parameter shares with an activation is read there; one that only parameters and the
    result have is written. A sum over neurons in which no single parameter takes part counts them.
    """
    named = [trace.name(x) is not None and x.ndim > 1 for x in operands]
    met: list[Tensor] = []
    for index in dict.fromkeys("".join(terms)):
        places = [
            (x, own, t.index(index)) for x, own, t in zip(operands, named, terms, strict=True) if index in t
        ]
        neurons = [
            trace.along(x, dim) for x, own, dim in places if not own and dim in varies(trace.neurons(x))
        ]
        parameters = [(x, dim) for x, own, dim in places if own]
        if index not in result:
            if len(parameters) == 1 and len(neurons) == 1:
                trace.read(*parameters[0], neurons[0])
            elif neurons:
                trace.protect(torch.cat(neurons), f"{trace.here()} sums products of its neurons")
            continue
        if len(parameters) == 1:
            neurons.append(trace.write(parameters[0], kind="linear"))
        elif parameters and neurons:
            trace.protect(torch.cat(neurons), f"{trace.here()} multiplies it with several parameters")
        if neurons:
            shape = [1] * out.ndim
            shape[result.index(index)] = -1
            met.append(reduce(partial(together, trace), (n.reshape(shape) for n in neurons)))
    if not met:
        return torch.zeros(out.shape, dtype=torch.int64, device=out.device)
    return reduce(partial(together, trace), met).expand(out.shape)


# Recurrent layers ------------------------------------------------------------------------------------


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
    if not isinstance(biased, bool):  # another signature
        raise trace.refuse("packed sequences are not followed; give it a padded tensor")
    if bidirectional:
        raise trace.refuse("it runs in both directions, and its layers are not colored")
    per_layer = 4 if biased else 2
    if len(weights) != layers * per_layer:
        raise trace.refuse("its hidden state is projected (proj_size), which is not colored")
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
    met: list[Tensor] = []
    for x in tensors_in((args, kwargs)):
        ids = trace.neurons(x)
        if ids.any() or (x != x.flatten()[:1]).any():  # else a constant, the same for every neuron
            met.append(ids.reshape((1,) * (out.ndim - ids.ndim) + tuple(ids.shape)))
    return reduce(partial(together, trace), met).expand(out.shape)


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
    return trace.neurons(x)


# Movement: neurons move as their values do -----------------------------------------------------------


@rule(*"view reshape flatten unflatten ravel squeeze unsqueeze view_as reshape_as".split())
def in_order(trace: Trace, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return trace.neurons(x).reshape(out.shape)


@rule(
    *"""
    permute transpose swapaxes swapdims movedim moveaxis t T mT expand expand_as broadcast_to
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


@rule("sum", "mean", "prod", "logsumexp", "median", "amax", "amin", "max", "min")
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
    new_ones new_full new_empty new_tensor
    """.split()
)
def unaffected(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Nobody's value is in the result, or the question does not count how many neurons agree."""
    return torch.zeros(out.shape, dtype=torch.int64, device=out.device)


@rule(
    *"""
    softmax log_softmax layer_norm group_norm rms_norm instance_norm local_response_norm normalize
    scaled_dot_product_attention multi_head_attention_forward cumsum argmax argmin sort topk multinomial
    normal bernoulli gather one_hot
    """.split()
)
def mixing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Each result depends on how many neurons there are, or on their places."""
    for x in tensors_in((args, kwargs)):
        trace.protect(trace.neurons(x), f"{trace.here()} mixes its neurons")
    return tuple(torch.zeros(y.shape, dtype=torch.int64, device=y.device) for y in tensors_in(out))
