"""References: what a task pays without skill, which decides whether a return is a failure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class References:
    """Mean episode returns."""

    uniform: float  # of actions drawn alike
    constant: float  # of the best action, always
    best: float | None = None  # that is known to be possible

    @property
    def blind(self) -> float:
        """What does not ask for looking at a single observation."""
        return max(self.uniform, self.constant)
