"""Examples: one call of somebody's policy, on which it is traced, and what in its answer is what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

Inputs = Sequence[tuple]  # positional arguments of the method, call by call
Outputs = Callable[[Any], Any] | None


@dataclass(frozen=True)
class Example:
    """What `trace` is told of a policy, and means there."""

    inputs: tuple
    method: str = "forward"
    value: str | int | None = None
    ignore: tuple[str, ...] = ()
    outputs: Outputs = None

    def at(self, inputs: tuple) -> Example:
        """The same call with other arguments."""
        return replace(self, inputs=inputs)

    def answer(self, policy: nn.Module) -> Any:
        """What a policy returns for it, the tensors named that are hidden in an object."""
        answer = getattr(policy, self.method)(*self.inputs)
        return answer if self.outputs is None else self.outputs(answer)
