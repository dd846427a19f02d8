"""MACs: how many multiply-accumulates an operation took, from the shapes that it ran on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

from torch import Tensor

from pufferlib_kcore.fibration.recurrent import CELLS
from pufferlib_kcore.graph.nested import tensors_in

Count = Callable[..., int | None]  # (result, *arguments, **keywords) -> MACs; None where they cannot be told
MACS: dict[str, Count] = {}  # operation -> its count; what is not here, and is known, takes none


def counts(*operations: str) -> Callable[[Count], Count]:
    """Say how operations are counted, by their bare names as in `rule`."""

    def register(function: Count) -> Count:
        MACS.update(dict.fromkeys(operations, function))
        return function

    return register


def plus(a: int | None, b: int | None) -> int | None:
    """The sum of two counts; None where either is not known."""
    return None if a is None or b is None else a + b


@counts("linear")
def linear(out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    return out.numel() * weight.shape[-1]


@counts("bilinear")
def bilinear(out: Tensor, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    return out.numel() * prod(weight.shape[1:])


def convolution(out: Tensor, input: Tensor, weight: Tensor, *args: Any, transposed: bool, **kw: Any) -> int:
    """Every place of the result (transposed: of the input) meets the whole weight once, with any groups."""
    places = (input if transposed else out).numel() // max(weight.shape[0], 1)
    return places * weight.numel()


for axes in (1, 2, 3):
    counts(f"conv{axes}d")(partial(convolution, transposed=False))
    counts(f"conv_transpose{axes}d")(partial(convolution, transposed=True))


@counts("matmul", "imatmul", "mm", "mv", "bmm", "dot", "vdot", "inner")
def product(out: Tensor, *args: Any, **kwargs: Any) -> int:
    """(.., r, k) times (.., k, c)"""
    return out.numel() * list(tensors_in((args, kwargs)))[0].shape[-1]


@counts("rmatmul", "addmm", "addmv", "baddbmm")
def second_product(out: Tensor, *args: Any, **kwargs: Any) -> int:
    """The same, of the second tensor with another: the first is added, or stands on the right."""
    return out.numel() * list(tensors_in((args, kwargs)))[1].shape[-1]


@counts("einsum")
def einsum(out: Tensor, equation: str, *operands: Any) -> int:
    """From the left, two at a time, as torch contracts them: what one of them alone has is summed before."""
    tensors = list(tensors_in(operands))
    given, _, kept = equation.replace(" ", "").partition("->")
    terms = [lettered(term, x.ndim) for term, x in zip(given.split(","), tensors, strict=True)]
    if "->" in equation:
        wanted = set(lettered(kept, out.ndim))
    else:
        every = [letter for term in terms for letter in term]
        wanted = {c for c in every if not isinstance(c, str) or every.count(c) == 1}
    sizes: dict[Any, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        sizes |= {c: max(n, sizes.get(c, 1)) for c, n in zip(term, x.shape, strict=True)}
    total, so_far = 0, set(terms[0])
    for i, term in enumerate(terms[1:], 1):
        later = wanted.union(*terms[i + 1 :])
        summed = {c for c in so_far & set(term) if c not in later and sizes[c] > 1}
        so_far = summed | {c for c in so_far | set(term) if c in later}
        total += prod(sizes[c] for c in so_far) if summed else 0
        so_far -= summed
    return total


def lettered(term: str, axes: int) -> Sequence[Any]:
    """The letters of so many axes: those of an ellipsis are numbered from its end."""
    before, _, after = term.partition("...")
    return [*before, *range(len(before) + len(after) - axes, 0), *after]


def recurrent(out: Any, input: Tensor, *args: Any, **kwargs: Any) -> int:
    """Every step of every sequence meets each matrix of the module once: layers, directions, projections."""
    listed = next((a for a in args if isinstance(a, list)), None)  # of a module; a cell's stand by themselves
    weights = args[1:] if listed is None else listed
    matrices = sum(x.numel() for x in tensors_in(weights) if x.ndim == 2)
    return input.numel() // max(input.shape[-1], 1) * matrices


for kind in CELLS:
    counts(kind, f"{kind}_cell")(recurrent)


@counts("scaled_dot_product_attention")
def scaled_dot_product(out: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any) -> int:
    """(.., length, width) each: a score for each pair, and a sum of values for each query."""
    return (query.numel() + out.numel()) * key.shape[-2]


@counts("multi_head_attention_forward")
def attention(
    out: tuple[Tensor, ...],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    *args: Any,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    **kwargs: Any,
) -> int | None:
    """Three projections, scores and sums of values, and the projection of the result."""
    if static_k is not None or static_v is not None:
        return None
    projections = (query.numel() + key.numel() + value.numel()) * width
    keys = key.shape[0] + (bias_k is not None) + add_zero_attn
    return projections + query.numel() * (2 * keys + width)
