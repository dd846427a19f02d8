"""Shadows: what is known of each tensor of a run, also of those that lie in the same memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shadow:
    """What is known of a tensor."""

    neurons: Tensor  # int64, the tensor's shape: see `neurons`
    sources: frozenset[int] = frozenset()  # the populations it was computed from
    nonnegative: bool = False  # known to be nowhere below 0
    preactivation: bool = False  # as layers wrote it: nothing but views since
    state: bool = False  # what recurrent units hand on to their next call


class Shadows:
    """Tensor -> its shadow."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Shadow]] = {}  # tensors are kept, so that ids stay theirs

    def __contains__(self, x: Tensor) -> bool:
        return id(x) in self._known

    def __getitem__(self, x: Tensor) -> Shadow:
        return self._known[id(x)][1]

    def keep(self, x: Tensor, shadow: Shadow) -> None:
        """This is known of x from now on."""
        self._known[id(x)] = x, shadow

    def write_through(self, x: Tensor, shadow: Shadow) -> None:
        """x was written in place: other tensors that lie in the same memory hold the same neurons now."""
        memory = x.untyped_storage()
        shared = [
            (y, other)
            for y, other in self._known.values()
            if y is not x and y.dtype == x.dtype and y.untyped_storage().data_ptr() == memory.data_ptr()
        ]
        if not shared or not memory.nbytes():
            return
        absent = torch.iinfo(torch.int64).min
        flat = torch.full((memory.nbytes() // x.element_size(),), absent)
        flat.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(shadow.neurons)
        for y, other in shared:
            now = flat.as_strided(y.shape, y.stride(), y.storage_offset())
            if (now != absent).any():
                neurons = torch.where(now == absent, other.neurons, now)
                nonnegative = other.nonnegative and shadow.nonnegative
                sources = other.sources | shadow.sources
                self.keep(y, Shadow(neurons, sources, nonnegative, state=other.state and shadow.state))
