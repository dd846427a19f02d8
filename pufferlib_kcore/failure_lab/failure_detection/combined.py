"""Combined: several detectors told the same updates, and the project's measured ones asked about them all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pufferlib_kcore.diagnostics.findings import SEVERITIES, Diagnosis
from pufferlib_kcore.diagnostics.findings import diagnose as ask
from pufferlib_kcore.diagnostics.records import NUMBERS, Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.failure_detection.detector import FailureDetector
from pufferlib_kcore.failure_lab.failure_detection.updates import FailureReport, Update

LAST = ("step", "global_step", "agent_steps")  # of which the last of an episode counts; of others the mean
APART = ("reward", "episode_reward", "action", "episode")  # that become something else


class CombinedFailureDetector:
    """Detectors, and the rows of a run's records: one an episode where updates tell theirs, else one each.

    Raises UserError for what is no detector.
    """

    def __init__(self, detectors: Sequence[FailureDetector]):
        for one in detectors:
            if not isinstance(one, FailureDetector):
                name = one.__name__ if isinstance(one, type) else type(one).__name__
                raise UserError(f"{name} is no detector: expected such as RewardHackingDetector()")
        self.detectors = list(detectors)
        self.reset()

    def reset(self) -> None:
        """Forget all updates."""
        for one in self.detectors:
            one.reset()
        self._rows: list[dict[str, float]] = []
        self._open: list[Update] = []

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Take a dict of metrics.  Raises UserError naming a known metric that is no number"""
        update = Update.of(metrics)
        for one in self.detectors:
            one.take(update)
        if self._open and (update.episode is None or update.episode != self._open[-1].episode):
            self._rows.append(_row(self._open))
            self._open = []
        self._open.append(update)

    def detect_all(self) -> list[FailureReport]:
        """What all detectors say now, the most severe first."""
        found = [report for one in self.detectors for report in one.detect()]
        return sorted(found, key=lambda one: -SEVERITIES.index(one.severity))

    def records(self) -> Records:
        """The updates as a run's metrics, as the project's detectors read them.

        A row is an episode's: numbers are means over its updates, `episode_return` the sum of its rewards
        unless it is told, `true_return` minus its mean burnout unless it is told, `value_loss` the loss,
        `diagnosis/..` what q_values, actions and entropies say. Raises UserError where there is no update.
        """
        if not self._open:
            raise UserError("there are no updates to diagnose: call update(metrics) first")
        return Records.of([*self._rows, _row(self._open)])

    def diagnose(self, references: References | None = None) -> Diagnosis:
        """What the measured detectors of `pufferlib_kcore.diagnostics` say about the same updates.

        references: mean returns of the uniform and the best constant policy, which decide what is a failure.
        Raises UserError where there is no update, or none that tells something known.
        """
        return ask(self.records(), references)


def _row(updates: Sequence[Update]) -> dict[str, float]:
    raw: dict[str, list[float]] = {}
    for update in updates:
        for name, value in update.raw.items():
            if isinstance(value, NUMBERS) and not isinstance(value, bool) and name not in APART:
                raw.setdefault(str(name), []).append(float(value))
    row = {name: values[-1] if name in LAST else float(np.mean(values)) for name, values in raw.items()}
    numbers = {
        name: [one.numbers[name] for one in updates if name in one.numbers]
        for name in ("reward", "return", "true", "burnout", "entropy")
    }
    if numbers["return"]:
        row["episode_return"] = numbers["return"][-1]
    elif numbers["reward"]:
        row["episode_return"] = sum(numbers["reward"])
    if numbers["true"]:
        row["true_return"] = numbers["true"][-1]
    elif numbers["burnout"]:
        row["true_return"] = -float(np.mean(numbers["burnout"]))
    if "loss" in row:
        row.setdefault("value_loss", row["loss"])
    for name in (name for one in updates for name in one.odd):
        row[name] = math.nan
    return {**row, **_policy(updates, numbers["entropy"])}


def _policy(updates: Sequence[Update], entropies: Sequence[float]) -> dict[str, float]:
    """What is said of values, actions and entropy, as a look at a policy names it."""
    found: dict[str, float] = {}
    values = [float(one.q_values.max()) for one in updates if one.q_values is not None and len(one.q_values)]
    if values:
        found |= {
            "diagnosis/value_mean": float(np.mean(values)),
            "diagnosis/value_std": float(np.std(values)),
        }
    actions = [one.action for one in updates if one.action is not None]
    if len(actions) > 1:
        found["diagnosis/dominance"] = max(Counter(actions).values()) / len(actions)
    if entropies:
        found["entropy"] = float(np.mean(entropies))
        sizes = {
            len(x) for one in updates for x in (one.q_values, one.shares) if x is not None and len(x) > 1
        }
        if len(sizes) == 1:
            found["diagnosis/relative_entropy"] = found["entropy"] / math.log(sizes.pop())
    return found
