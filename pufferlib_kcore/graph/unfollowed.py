"""Unfollowed: what runs below the operations that tracing follows, as scripts, vmap and extensions do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.shadows import Shadow
from pufferlib_kcore.graph.tracing import Trace

HIDDEN = "runs where tracing cannot look (TorchScript, vmap or an extension)"


class Unfollowed(TorchDispatchMode):
    """Sees each of torch's own operations; leaves whole what those touch that no followed one has called.

    is_followed  whether an operation is running that tracing follows
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler on the first operation, seconds for nothing

    def __init__(self, trace: Trace, is_followed: Callable[[], bool]):
        super().__init__()
        self.trace, self.is_followed = trace, is_followed

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            out = func(*args, **(kwargs or {}))
            if not self.is_followed():
                self.trace.begin(func)
                leave_whole(self.trace, tensors_in((args, kwargs)), tensors_in(out))
        return out


def leave_whole(trace: Trace, given: Iterable[Tensor], results: Iterable[Tensor]) -> None:
    """What code that tracing cannot look into read stays whole, and what it made is nobody's."""
    given, trace.macs = list(given), None
    for x in given:
        trace.use_indices(x)
        trace.keep_whole(x, HIDDEN)
    named = {name for x in given if (name := trace.parameter(x))}
    trace.hidden |= named
    trace.touched |= named
    sources = frozenset().union(*map(trace.sources, given))
    for x in results:
        shadow = Shadow(torch.zeros(x.shape, dtype=torch.int64), sources)
        trace.overwrite(x, shadow, in_place=any(x is y for y in given))


def is_wrapped(x: Tensor) -> bool:
    """Whether vmap or its like holds a tensor."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def unwrapped(x: Tensor) -> Tensor:
    """The tensor itself, out of what vmap and its like wrap it in."""
    while is_wrapped(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x
