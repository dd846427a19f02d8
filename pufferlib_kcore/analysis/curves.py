"""Curves: a run's returns over its agent steps, whether or not an episode finished in each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError


@dataclass(frozen=True)
class Curve:
    """What a log tells over time, one entry an epoch."""

    epochs: np.ndarray  # (n,) int64, rising
    steps: np.ndarray  # (n,) int64, agent steps at the end of the epoch
    returns: np.ndarray  # (n,) mean return of the episodes that finished in it, nan where none did
    episodes: np.ndarray  # (n,) how many did; 1 where the log does not say

    @classmethod
    def from_records(cls, records: Sequence[dict[str, Any]]) -> "Curve":
        """The curve of records as logs.parse gives them.  Raises UserError where there are none."""
        if not records:
            raise UserError("a run has no record to draw, expected one epoch at least; train it further")
        records = sorted(records, key=lambda record: record["epoch"])
        returns = column(records, "episode_return")
        episodes = np.nan_to_num(column(records, "episodes"), nan=1.0)
        return cls(
            epochs=np.array([record["epoch"] for record in records], dtype=np.int64),
            steps=np.array([record["agent_steps"] for record in records], dtype=np.int64),
            returns=returns,
            episodes=np.where(np.isnan(returns), 0.0, np.maximum(episodes, 1.0)),
        )

    def smoothed(self, window: int | None = None) -> np.ndarray:
        """(n,) moving mean of the returns over window epochs (default: a twentieth of the run)."""
        return moving_mean(self.returns, self.episodes, window or max(1, len(self.epochs) // 20))

    def final(self, share: float = 0.1) -> float:
        """Mean return of the episodes in the last share of the epochs; nan where none finished."""
        last = max(1, round(share * len(self.epochs)))
        return weighted_mean(self.returns[-last:], self.episodes[-last:])

    def best(self) -> float:
        """Highest smoothed return; nan where no episode finished."""
        smooth = self.smoothed()
        return float(np.nanmax(smooth)) if np.isfinite(smooth).any() else float("nan")

    def steps_at(self, epochs: Any) -> np.ndarray:
        """Agent steps at the end of each epoch asked for: interpolated, in proportion beyond the ends."""
        epochs = np.asarray(epochs, dtype=np.float64)
        known, steps = np.append(0, self.epochs), np.append(0, self.steps)
        beyond = epochs * (self.steps[-1] / max(self.epochs[-1], 1))
        return np.where(epochs > known[-1], beyond, np.interp(epochs, known, steps))


def column(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """(n,) float64: one measure of each record, nan where it is missing or no number."""
    values = (record.get(name) for record in records)
    return np.array([value if isinstance(value, (int, float)) else np.nan for value in values], np.float64)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean of the values that are there; nan where none is.  values, weights: (n,)"""
    there = np.isfinite(values) & (weights > 0)
    return float(np.average(values[there], weights=weights[there])) if there.any() else float("nan")


def moving_mean(values: np.ndarray, weights: np.ndarray, window: int) -> np.ndarray:
    """Weighted mean over a centered window, of the values that are there; nan where it holds none.

    values, weights: (n,) -> (n,).  An even window reaches one entry farther back than ahead.
    """
    weights = np.where(np.isfinite(values), weights, 0.0)
    total = np.append(0.0, np.cumsum(weights))
    summed = np.append(0.0, np.cumsum(weights * np.nan_to_num(values)))
    place = np.arange(len(values))
    start = np.maximum(place - window // 2, 0)
    end = np.minimum(place + (window - 1) // 2 + 1, len(values))
    weight = total[end] - total[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, (summed[end] - summed[start]) / weight, np.nan)
