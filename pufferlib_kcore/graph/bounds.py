"""Bounds: what a change of a policy in place may do to its actions and values on recorded states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.activations import all_activations
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.faithfulness import Answers, Divergence, divergence
from pufferlib_kcore.graph.nested import arguments, tensors_in
from pufferlib_kcore.graph.traced import Traced

Item = TypeVar("Item")
ROUNDING = 1e-10  # of either, above a bound of 0: what float32 does to a policy that computes the same


@dataclass
class Bounds:
    """How far a policy may be moved at once.

    probe    recorded inputs, tuples like those that the policy was traced on
    actions  path of the actions in what the policy returns
    max_kl   nats, the mean KL of the policy before to the one after; None: any
    max_value_error  squared error of its values, in parts of their variance; None: any
    Raises UserError for a bound below 0.
    """

    traced: Traced
    probe: Inputs
    actions: str | int = 0
    max_kl: float | None = None
    max_value_error: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_kl", "max_value_error"):
            bound = getattr(self, name)
            if bound is not None and not bound >= 0:
                raise UserError(f"{name} is {bound}: expected 0 or more")

    def check(self) -> None:
        """Raise UserError where what is bounded cannot be measured: before anything is changed."""
        with self._fits():
            answers = Answers(self.traced.policy, self._inputs(), self.traced.network, self.actions)
        answers.bound_by(self.max_kl)
        if self.max_value_error is not None and not answers.has_values:
            raise UserError(
                f"max_value_error is {self.max_value_error}, and the policy returns no values: say where "
                "they are (value=...), or leave it out"
            )

    def off(self, other: nn.Module, before: nn.Module | None = None) -> Divergence:
        """How far another policy is from the traced one, or from what that was before."""
        old = self.traced if before is None else replace(self.traced, policy=before)
        with self._fits():
            return divergence(old, other, self._inputs(), actions=self.actions)

    def bear(self, off: Divergence) -> bool:
        within = self.max_kl is None or off.kl <= self.max_kl + ROUNDING
        values = self.max_value_error is None or off.value_error <= self.max_value_error + ROUNDING
        return within and values

    def most(
        self, items: Sequence[Item], cost: Callable[[Sequence[Item]], Divergence]
    ) -> tuple[Sequence[Item], Divergence]:
        """As many of the items, from the first on, as the bounds bear, by bisection; and what they cost."""
        off = cost(items)
        if self.bear(off):
            return items, off
        some, low, high = cost([]), 0, len(items)  # `low` are within, `high` are not
        while high - low > 1:
            middle = (low + high) // 2
            off = cost(items[:middle])
            low, high, some = (middle, high, off) if self.bear(off) else (low, middle, some)
        return items[:low], some

    def activations(self) -> dict[str, Tensor]:
        """What the units of each space answer on the probe.  {space: (N, units)}"""
        with self._fits():
            return all_activations(self.traced.policy, self.traced.network, self._inputs())

    def _inputs(self) -> list[tuple]:
        return [arguments(one) for one in self.probe]

    @contextmanager
    def _fits(self) -> Iterator[None]:
        """Raise UserError where the policy does not run on the probe, as on another environment's states."""
        try:
            yield
        except (UserError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            name = type(self.traced.policy).__name__
            ours, theirs = _shapes(self._inputs()), _shapes(self.traced.example.inputs)
            said = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{name} does not run on the probe, of shapes {ours}, as it did on {theirs} when it was "
                f"traced: expected states of the same environment ({said})"
            ) from error


def _shapes(inputs: object) -> str:
    return ", ".join(str(tuple(x.shape)) for x in tensors_in(inputs)) or "none"
