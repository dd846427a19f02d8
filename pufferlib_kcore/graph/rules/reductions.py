"""Reductions: what goes over several neurons or places, and makes of them a result of its own."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import free, varies
from pufferlib_kcore.graph.operations import rule
from pufferlib_kcore.graph.rules.elementwise import elementwise, together
from pufferlib_kcore.graph.tracing import Trace


def pools(*kinds: str) -> list[str]:
    """Their names, over one, two and three axes of places."""
    return [f"{kind}_pool{d}d" for kind in kinds for d in (1, 2, 3)]


@rule(*pools("max", "adaptive_max"), selects=True)
@rule(*pools("avg", "adaptive_avg"), homogeneous=True, keeps_sign=True)
@rule(*pools("lp"))
@rule("pad", "interpolate", takes_sizes=True)
def within_channels(trace: Trace, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Every channel by itself, over the last axes; a border of constants is the same for all of them."""
    if trace.operation == "pad":
        widths = args[0] if args else kwargs["pad"]  # before and after, the last axis first
        axes = [-1 - i for i in range(len(widths) // 2) if any(widths[2 * i : 2 * i + 2])]
    else:
        places = x.ndim - 2 if trace.operation == "interpolate" else int(trace.operation[-2])
        axes = list(range(-places, 0))
    neurons = not_free(reduced(trace, x, axes))
    return tuple(neurons.expand(y.shape) for y in tensors_in(out))


COUNTING = "prod std var logsumexp median nansum nanmean nanmedian count_nonzero".split()
TOTALS = "sum prod logsumexp nansum count_nonzero".split()  # which tell how many there are of one value
MOMENTS = "var_mean std_mean".split()
EXTREMES = "amax amin max min aminmax any all".split()  # what several that are equal do not change


@rule("sum", "mean", keeps_sign=True)
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
            trace.mark_indices(results[1], before)
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


@rule(
    *"""
    softmax log_softmax local_response_norm cosine_similarity scaled_dot_product_attention norm linalg_norm
    linalg_vector_norm argmax argmin argsort sort kthvalue mode quantile nanquantile nonzero diff weight_norm
    tril triu masked_select gumbel_softmax softmin pairwise_distance take take_along_dim msort bucketize
    searchsorted mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss kl_div binary_cross_entropy
    binary_cross_entropy_with_logits gaussian_nll_loss cosine_embedding_loss
    """.split()
)
@rule(*"layer_norm group_norm rms_norm normalize topk one_hot".split(), takes_sizes=True)
@rule(*"normal bernoulli multinomial poisson".split(), random=True)
def mixing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Each result depends on how many neurons there are, or on their places."""
    for x in tensors_in((args, kwargs)):
        trace.keep_whole(x, "mixes its neurons")
    return trace.nobody(out)
