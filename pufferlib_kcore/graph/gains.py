"""Gains and signs: where a neuron may be g times as large as another, and what is nowhere below 0.

A unit w_j = g_j b with g_j > 0 merges exactly with b where every path from it to its readers is positively
homogeneous, f(g x) = g f(x), as its readers' weights then undo g_j. Where only rectifiers read a unit that is
never above 0, nothing comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pufferlib_kcore.graph.neurons import free
from pufferlib_kcore.graph.operations import Operation
from pufferlib_kcore.graph.tracing import Trace


def record_gains(
    trace: Trace, known: Operation, given: Sequence[Tensor], results: Sequence[Tensor], args: tuple
) -> None:
    """Note the neurons that an operation was given, unless it hands their gains on, or weights undo them.

    Whole numbers and truth values are no multiples of what they were made of.
    """
    homogeneous = known.homogeneous and all(x.is_floating_point() or x.is_complex() for x in results)
    if not (
        homogeneous and not joins_constants(trace, given) or known.weighs or adds_neurons(trace, given, args)
    ):
        trace.nonhomogeneous += [trace.neurons(x) for x in given if x in trace.shadows]


def joins_constants(trace: Trace, given: Sequence[Tensor]) -> bool:
    """Whether neurons are given beside a constant other than 0, which does not grow with them."""
    seen = [(x, trace.neurons(x)) for x in given if x in trace.shadows]
    return any((neurons > 0).any() for _, neurons in seen) and any(
        (x[free(neurons).to(x.device)] != 0).any() for x, neurons in seen if free(neurons).any()
    )


def adds_neurons(trace: Trace, given: Sequence[Tensor], args: tuple) -> bool:
    """Whether the operation that is running is a sum of neurons and of nothing else."""
    return (
        trace.operation in ("add", "iadd")
        and len(given) == len(args) == 2
        and not any(trace.is_table(x) for x in given)
        and all(bool((trace.neurons(x) > 0).all()) for x in given)
    )


def record_signs(trace: Trace, known: Operation, given: Sequence[Tensor], args: tuple) -> tuple[bool, bool]:
    """Note parameters that read what may be below 0, and neurons that something else than a rectifier reads.

    -> whether the results are known to be nowhere below 0, and whether they are as layers wrote them
    """
    parameters = {name for x in given if (name := trace.parameter(x))}
    read = [trace.shadow(x) for x in given if not trace.is_named(x)]
    nonnegative, preactivation = all(x.nonnegative for x in read), any(x.preactivation for x in read)
    if read and not nonnegative:
        trace.signed |= parameters
    if known.rectifies:
        return True, False
    if not known.selects:
        trace.unrectified += [x.neurons for x in read if x.preactivation]
        preactivation = bool(trace.written)
    by = args[1] if trace.operation in ("mul", "div", "truediv") and len(args) == 2 else None
    keeps = known.keeps_sign or isinstance(by, (int, float)) and by > 0
    return nonnegative and keeps and not parameters, preactivation
