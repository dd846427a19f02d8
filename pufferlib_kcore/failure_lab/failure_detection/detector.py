"""Detector: what is told a training's updates one by one, and says what failed by its rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pufferlib_kcore.diagnostics.findings import SEVERITIES
from pufferlib_kcore.failure_lab.failure_detection.updates import LIMITS, FailureReport, Limits, Update


class Said(NamedTuple):
    """What a rule found."""

    severity: str
    values: dict[str, float]
    description: str
    fix: str


class FailureDetector(ABC):
    """What detectors share: `update` with each of a training's metrics, then `detect`.

    A detector of one's own has a failure_type, `keep` and `rules`.  limits: all numbers at once
    """

    failure_type = ""

    def __init__(self, limits: Limits = LIMITS):
        self.limits = limits
        self.reset()

    def reset(self) -> None:
        """Forget all updates."""
        self.step, self.episode = 0, 0

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Take a dict of metrics.  Raises UserError naming a known metric that is no number"""
        self.take(Update.of(metrics))

    def take(self, update: Update) -> None:
        """The same of an update that is read already."""
        self.step = self.step + 1 if update.step is None else update.step
        self.episode = self.episode if update.episode is None else update.episode
        self.keep(update)

    def detect(self) -> list[FailureReport]:
        """What holds now by any rule, the most severe first; empty where nothing failed."""
        now = datetime.now(timezone.utc)
        found = [
            FailureReport(
                failure_type=self.failure_type,
                severity=said.severity,
                timestamp=now,
                step=self.step,
                episode=self.episode,
                signal_values={name: float(value) for name, value in said.values.items()},
                description=said.description,
                recommended_fix=said.fix,
            )
            for said in self.rules()
        ]
        return sorted(found, key=lambda one: -SEVERITIES.index(one.severity))

    @abstractmethod
    def keep(self, update: Update) -> None:
        """Remember what rules need of an update."""

    @abstractmethod
    def rules(self) -> Iterator[Said]:
        """What each rule finds in what was kept."""

    def _last(self, length: int | None = None) -> deque:
        return deque(maxlen=length or self.limits.window)
