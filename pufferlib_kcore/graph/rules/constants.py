"""Constants: tensors of one value all over, random numbers, and results that no neuron's value is in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import free
from pufferlib_kcore.graph.operations import describe, rule
from pufferlib_kcore.graph.tracing import Trace


def constant(trace: Trace) -> int:
    """The number of elements that hold one value, of their own among those that are free."""
    return int(trace.uniform(torch.zeros(())))


@rule(
    *"""
    zeros ones full empty new_zeros new_ones new_full new_empty new zeros_like ones_like full_like empty_like
    zero
    """.split(),
    uniform=True,
    takes_sizes=True,
)
@rule("fill", "scalar_tensor", uniform=True)
def uniform(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """One value all over, whatever was there; or none yet."""
    if trace.operation == "zero" and free(trace.neurons(args[0])).all():  # as new(..).zero_() goes
        return trace.neurons(args[0])
    if trace.operation in ("fill", "full", "new_full", "full_like"):
        for value in tensors_in((args[1:], kwargs)):
            trace.keep_whole(value, "fills a tensor with it")
    return trace.uniform(out, args, kwargs)


@rule("is_all_true", "is_any_true", "new_tensor", "nested_tensor_from_mask_left_aligned")
@rule("rand_like", "randn_like", "randint_like", random=True)
def unaffected(trace: Trace, out: Tensor, *args: Any, **kwargs: Any) -> list[Tensor]:
    """Nobody's value is in the result, or the question does not count how many neurons agree."""
    return trace.nobody(out)


describe("randn", "randint", random=True, takes_sizes=True)
describe("randperm", "exponential", "geometric", "cauchy", "log_normal", "random", "uniform", random=True)
describe("arange", "linspace", "eye", "resize", "as_strided", takes_sizes=True)
