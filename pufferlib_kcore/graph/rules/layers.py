"""Layers: convolutions, batch norms, embeddings and attention, whose parameters write and read neurons."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.operations import rule
from pufferlib_kcore.graph.sizes import learn_sizes
from pufferlib_kcore.graph.tracing import Trace


@rule(
    *(f"conv{transposed}{d}d" for transposed in ("", "_transpose") for d in (1, 2, 3)),
    homogeneous=True,
    weighs=True,
    takes_sizes=True,
)
def convolution(
    trace: Trace,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """A convolution, or its transpose: they keep the channels that they read on another axis of the weight.

    Depthwise, it is a scale of each channel, which becomes one with its input's. With other groups it is left
    whole: each row reads other channels, so that a merge would have to be of equal parts in each group.

    args  stride, padding, dilation or output padding, then groups
    """
    groups = args[3] if len(args) > 3 else kwargs.get("groups", 1)
    reads, writes = (0, 1) if trace.operation.startswith("conv_transpose") else (1, 0)
    channel = 1 - weight.ndim  # counted from the end: a batch axis may be missing
    below = trace.along(x, channel)
    if groups == 1:
        trace.read(weight, reads, below)
        units = trace.write((weight, writes), (bias, 0), kind="cnn")
    elif groups == len(weight) == out.shape[channel] == x.shape[channel]:
        units = trace.write((weight, 0), (bias, 0), kind="cnn")
        trace.unite(below, units)
        trace.nonhomogeneous.append(units)  # g times as large a channel and its filter: g^2 times the result
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


@rule("multi_head_attention_forward")
def attention(
    trace: Trace,
    out: tuple[Tensor, ...],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    """Left whole: it cuts its heads at fixed places.

    args  width, heads, in_weight, in_bias, bias_k, bias_v, add_zero_attn, dropout_p, out_weight, out_bias, ..
    """
    in_weight, (out_weight, out_bias) = args[2], args[8:10]
    projections = [in_weight] if in_weight is not None else [kwargs[f"{p}_proj_weight"] for p in "qkv"]
    written = [trace.write((weight, 0), kind="linear") for weight in projections]
    units = trace.write((out_weight, 0), (out_bias, 0), kind="linear")
    for neurons in (*map(trace.neurons, (query, key, value)), *written, units):
        trace.protect(neurons, f"{trace.here()} cuts heads at fixed places")
    return trace.spread(units, out[0], -1), *trace.nobody(out[1:])
