"""Products: linear layers, matmul, einsum, of parameters and of what the policy computes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.graph.macs import lettered
from pufferlib_kcore.graph.neurons import axis_of, free, varies
from pufferlib_kcore.graph.operations import rule
from pufferlib_kcore.graph.rules.elementwise import alike
from pufferlib_kcore.graph.tracing import Trace

Letters = Sequence[Hashable]  # one for each axis, as in einsum


@dataclass(frozen=True)
class Factor:
    """One tensor of a product, its axes lettered."""

    tensor: Tensor
    letters: Letters

    def at(self, letter: Hashable) -> tuple[Tensor, int]:
        return self.tensor, list(self.letters).index(letter)


def product(trace: Trace, out: Tensor, kept: Letters, *factors: Factor) -> Tensor:
    """The neurons of out[kept] = sum over the letters that are not kept of the product of all factors.

    An axis of a parameter that is summed over reads the neurons that others bring to it; where several are,
    all but one act as a scale does. Of those that are kept, one writes neurons where nobody brings any, and
    the others are places of these neurons, as those of a convolution are. Neurons that are summed over with
    no parameter count one by one, and are protected; so are those that meet in pairs.
    """
    weights = [f for f in factors if trace.is_named(f.tensor)]
    values = [f for f in factors if not trace.is_named(f.tensor)]
    brought = [_brought(trace, f, kept) for f in values]
    for letter in dict.fromkeys(letter for f in factors for letter in f.letters if letter not in kept):
        met = [neurons for value in brought for where, neurons in value if where == letter]
        readers = sorted(
            (f.at(letter) for f in weights if letter in f.letters), key=lambda at: _rank(trace, *at)
        )
        if not readers:
            for neurons in met:
                trace.protect(neurons, f"{trace.here()} sums over its neurons, with no parameter")
            continue
        parameter, dim = readers.pop()
        strangers = sum(letter in f.letters for f in values) - len(met)
        met += [torch.zeros(1, dtype=torch.int64)] * strangers
        met += [trace.write(at, kind="linear") for at in readers]
        trace.read(parameter, dim, _united(trace, met, parameter.shape[dim]))
    living = [(where, neurons) for value in brought for where, neurons in value if where in kept]
    letters = list(dict(living)) or _free(trace, weights, values, kept)[:1]
    if len(letters) != 1:
        for _, neurons in living:
            trace.protect(neurons, f"{trace.here()} pairs each with each of others")
        return trace.nobody(out)[0]
    (letter,) = letters
    met = [neurons for _, neurons in living]
    met += [trace.write(at, kind="linear") for at in _places(trace, weights, letter)]
    dim = list(kept).index(letter)
    return trace.spread(_united(trace, met, out.shape[dim]), out, dim)


def _brought(trace: Trace, f: Factor, kept: Letters) -> list[tuple[Hashable, Tensor]]:
    """The letter along which a computed factor's neurons differ, and its neurons, (size,); at most one."""
    neurons = trace.neurons(f.tensor)
    if free(neurons).all():  # one value all over: what sums over it may sum over any neurons
        along_each = [None if d in varies(neurons) else axis_of(neurons, d) for d in range(neurons.ndim)]
        return [
            (letter, ids)
            for letter, ids in zip(f.letters, along_each, strict=True)
            if letter not in kept and ids is not None
        ]
    if not (neurons > 0).any():
        return []
    along = varies(neurons)
    if not along and (neurons > 0).any():  # a single neuron: summed over, if one axis can be
        along = {d for d, size in enumerate(neurons.shape) if size == 1}
        along = set(sorted(along, key=lambda d: f.letters[d] in kept)[:1])
    ids = axis_of(neurons, *along) if len(along) == 1 else None
    if ids is None:
        trace.protect(neurons, f"{trace.here()} mixes it with others")
    return [] if ids is None else [(f.letters[d], ids) for d in along]


def _rank(trace: Trace, parameter: Tensor, dim: int) -> tuple[int, int]:
    """Of parameters summed over together the last reads: one that does so already, or has most axes."""
    place = trace.axis(parameter, dim)
    use = trace.uses.get(place) if place else None
    own = sum(trace.axis(parameter, d) is not None for d in range(parameter.ndim))
    return ["out", None, "in"].index(use.role if use else None), own


def _free(trace: Trace, weights: Sequence[Factor], values: Sequence[Factor], kept: Letters) -> list[Hashable]:
    """Letters along which parameters can write neurons, those first that read what the policy computes."""
    computed = {letter for f in values for letter in f.letters}
    reading = sorted(weights, key=lambda f: not computed - set(kept) & set(f.letters))
    letters = dict.fromkeys(letter for f in reading for letter in f.letters)
    return [k for k in letters if k in kept and k not in computed and _places(trace, weights, k)]


def _places(trace: Trace, weights: Sequence[Factor], letter: Hashable) -> list[tuple[Tensor, int]]:
    """The axes of parameters that have this letter."""
    places = [f.at(letter) for f in weights if letter in f.letters]
    return [at for at in places if trace.axis(*at)]


def _united(trace: Trace, met: Sequence[Tensor], size: int) -> Tensor:
    """Neurons that are multiplied one by one.  (size,) or (1,) each -> (size,)"""
    one = torch.zeros(size, dtype=torch.int64) if not met else met[0].expand(size)
    for other in met[1:]:
        trace.unite(one, other.expand(size))
        trace.nonhomogeneous.append(one)
        one = torch.maximum(one, other.expand(size))
    return one


# What comes down to a product ------------------------------------------------------------------------


@rule("linear", homogeneous=True, weighs=True)
def linear(trace: Trace, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if trace.is_named(weight) and weight.ndim == 2:
        trace.read(weight, 1, trace.along(x, -1))
        return trace.spread(trace.write((weight, 0), (bias, 0), kind="linear"), out, -1)
    writes = ["o"] if weight.ndim == 2 else []
    batch = range(1 - x.ndim, 0)
    neurons = product(trace, out, [*batch, *writes], Factor(x, [*batch, "i"]), Factor(weight, [*writes, "i"]))
    return alike(trace, out, [] if bias is None else [bias], neurons)


@rule("bilinear")
def bilinear(
    trace: Trace, out: Tensor, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    batch = range(1 - x.ndim, 0)
    factors = Factor(weight, "oij"), Factor(x, [*batch, "i"]), Factor(y, [*batch, "j"])
    neurons = product(trace, out, [*batch, "o"], *factors)
    return alike(trace, out, [] if bias is None else [bias], neurons)


@rule("matmul", "mm", "mv", "bmm", "dot", "vdot", "inner")
def matmul(trace: Trace, out: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor:
    rows, columns = ["r"] if a.ndim > 1 else [], ["c"] if b.ndim > 1 else []
    left, right = range(2 - a.ndim, 0), range(2 - b.ndim, 0)
    kept = [*max(left, right, key=len), *rows, *columns]
    return product(trace, out, kept, Factor(a, [*left, *rows, "k"]), Factor(b, [*right, "k", *columns]))


@rule("rmatmul")
def matmul_from_the_right(trace: Trace, out: Tensor, b: Tensor, a: Tensor) -> Tensor:
    return matmul(trace, out, a, b)


@rule("addmm", "addmv", "baddbmm")
def added(trace: Trace, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor:
    return alike(trace, out, [bias], matmul(trace, out, a, b))


@rule("outer", "ger")
def outer(trace: Trace, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return product(trace, out, "ab", Factor(a, "a"), Factor(b, "b"))


@rule("einsum")
def einsum(trace: Trace, out: Tensor, equation: str, *operands: Any) -> Tensor:
    tensors = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    given, arrow, kept = equation.replace(" ", "").partition("->")
    terms = given.split(",")
    if any(len(set(letters)) < len(letters) for letters in (term.replace(".", "") for term in terms)):
        cure = "take the diagonal beforehand"
        return trace.refuse(tensors, out, "cannot be traced: a letter comes twice in one term", cure)[0]
    if not arrow:
        once = sorted(c for c in set(given) - set(".,") if given.count(c) == 1)
        kept = "..." * ("..." in given) + "".join(once)
    factors = [Factor(x, lettered(term, x.ndim)) for term, x in zip(terms, tensors, strict=True)]
    return product(trace, out, lettered(kept, out.ndim), *factors)
