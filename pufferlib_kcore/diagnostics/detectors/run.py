"""Run: a run's metrics as detectors ask about them, and the numbers that decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.diagnostics.signals import early, filled, noise, smooth
from pufferlib_kcore.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """All of the detectors' numbers. `benchmarks/detection` chooses them, on runs that it does not report."""

    shortest: int = 8  # epochs below which only what is not finite is judged
    width: int = 5  # epochs of a running median
    rows: int = 3  # in a row, for which something must hold
    skill: float = 0.1  # part of the best return's gain over blind, below which nothing was learned
    skilled: float = 0.3  # times |blind| above blind, from which on something was learned
    fall: float = 0.3  # part of the gain that is lost where a return has fallen
    sure: float = 0.05  # relative entropy below which actions are decided
    alike: float = 0.02  # action diversity [nats, or deviations] below which all states are one
    apart: float = 0.15  # approx_kl [nats], a running median, above which updates are too large
    leap: float = 1.0  # approx_kl [nats] of a single epoch above which it was
    clipped: float = 0.6  # share of ratios outside the clip, a running median, above which they are, too
    still: float = 1e-7  # approx_kl below which nothing moves
    gradient: float = 30.0  # times its running median above which a gradient's norm is too large
    vanished: float = 1e-6  # of a gradient's norm, of its early median, below which it is gone
    scale: float = 10.0  # times the largest return so far above which values are out of scale
    growth: float = 20.0  # of the value loss, over the largest until `width` epochs before
    explains: float = 0.8  # explained variance above which a larger loss is of larger returns
    dead: float = 0.9  # share of dead units with which nothing is represented
    rank: float = 0.25  # of its best effective rank, below which a representation has collapsed
    same: float = 0.1  # of its best action diversity, below which it tells states apart no more
    sank: float = 0.7  # of the first task's best return, below which later ones reach less
    gap: float = 0.3  # part of the return's range between evaluation and training
    steep: float = 0.6  # part of the gain that is lost within few epochs where a task changed
    surprise: float = 4.0  # times the usual value loss shortly before, where a task changed
    patience: float = 3.0  # times as long as the first task took, after which its return should be back


@dataclass(frozen=True, kw_only=True)
class Seen:
    """onset, told: places in the records"""

    severity: str
    onset: int
    told: int
    confidence: float
    evidence: dict[str, float]
    advice: str


@dataclass(frozen=True)
class Run:
    """A run's metrics, and what detectors ask of them again and again."""

    records: Records
    references: References | None
    t: Thresholds

    def __len__(self) -> int:
        return len(self.records)

    def says(self, *names: str) -> str | None:
        """Why it cannot be judged: no such metric, or too few epochs."""
        missing = [name for name in names if name not in self.records]
        if missing:
            return f"there is no {missing[0]}"
        return f"{len(self)} epochs are too few" if len(self) < self.t.shortest else None

    @cached_property
    def returns(self) -> np.ndarray:
        return smooth(self.records["episode_return"], self.t.width)

    @cached_property
    def noise(self) -> float:
        return noise(self.records["episode_return"])

    @cached_property
    def blind(self) -> float:
        """The return without skill: of the references, else of the run's first epochs, or its worst tenth."""
        if self.references is not None:
            return self.references.blind
        first, known = early(self.records["episode_return"]), self.returns[np.isfinite(self.returns)]
        return min(first, float(np.percentile(known, 10))) if len(known) else first

    @cached_property
    def best(self) -> np.ndarray:
        """The best running median so far; at least the return without skill."""
        return np.maximum.accumulate(np.maximum(filled(self.returns), self.blind))

    @cached_property
    def gain(self) -> np.ndarray:
        """What was gained over the return without skill, at best, so far; never nothing."""
        least = max(1e-9, 3 * self.noise, 0.02 * abs(self.blind))
        return np.maximum(self.best - self.blind, least)

    @cached_property
    def optimal(self) -> np.ndarray:
        """Where the return is, but for t.skill of the way from chance, the best that is known to be possible.

        (epochs,) of bool; nowhere where nobody knows that.
        """
        known = self.references
        if known is None or known.best is None:
            return np.zeros(len(self), bool)
        way = known.best - min(known.uniform, known.best)
        return self.returns >= known.best - np.maximum(self.t.skill * way, 2 * self.noise)

    def fallen(self, part: float) -> np.ndarray:
        """Where so large a part of the gain is lost.  (epochs,) of bool"""
        return self.best - self.returns > np.maximum(part * self.gain, 2 * self.noise)

    @property
    def unskilled(self) -> np.ndarray:
        """Where the return is not above what needs no look at the observations."""
        margin = self.t.skill * max(abs(self.blind), float(self.gain[-1]))
        return self.returns <= self.blind + max(margin, self.noise)


Answer = Seen | str | None
DETECTORS: Registry[Callable[[Run], Answer]] = Registry("detector")


def beyond(value: float, threshold: float) -> float:
    """0.5 at the threshold, towards 1 far beyond it."""
    if not math.isfinite(value):
        return 1.0
    return 1 - 0.5 * min(1.0, threshold / value) if value > 0 else 0.5
