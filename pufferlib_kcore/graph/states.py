"""States: where recurrent units lie in what a policy takes and returns, and these tensors cut to fibers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pufferlib_kcore.fibration.quotient import Axis, Fibers, Map, MergeTensors, Segment, carry, picked, repeat
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import tensors_in


@dataclass(frozen=True)
class State:
    """Axes are counted from the end, so that a batch may have any size, or be missing."""

    dim: int  # the axis of units: those of one layer, or [h | c], or of several cores side by side
    axes: tuple[Axis, ...]  # which units lie there; one for each index of the axis of layers
    layers: int | None = None  # that axis; None where all indices of other axes have the same units

    def spaces(self) -> set[str]:
        """The spaces that its units belong to."""
        return {s.space for axis in self.axes for s in axis if s.space}


def alike(x: Tensor, merge: MergeTensors) -> Tensor:
    """Every unit as the one of its fiber.  (outer, n, ...) -> (outer, n, ...)"""
    return repeat(picked(x, merge), merge)


def cut(x: Tensor, state: State, fibers: Fibers, to: Map = picked) -> Tensor:
    """A state of the original as the collapsed policy takes it: one unit of each fiber.

    to  `alike`: as one that its lift may have instead, all units of a fiber equal
    """
    parts = [x] if state.layers is None else list(x.split(1, state.layers))
    return torch.cat(
        [
            carry(
                part, (*_whole(part.shape[: state.dim]), axis, *_after(part, state.dim)), fibers, {"out": to}
            )
            for part, axis in zip(parts, state.axes, strict=True)
        ],
        state.layers or 0,
    )


def cut_states(inputs: tuple, states: Mapping[int, State], fibers: Fibers, to: Map = picked) -> tuple:
    """Inputs of the original as the collapsed policy takes them; the argument is untouched.

    states  which of the tensors in the inputs are recurrent state
    """
    inputs = copy_of(inputs)
    for i, x in enumerate(tensors_in(inputs)):
        if i in states:
            x.data = cut(x, states[i], fibers, to)
    return inputs


def _whole(shape: torch.Size) -> list[Axis]:
    return [(Segment(None, units=size),) for size in shape]


def _after(x: Tensor, dim: int) -> list[Axis]:
    return _whole(x.shape[x.ndim + dim + 1 :])
