"""Metrics: an epoch's record by names with a section before a slash, and the shorter keys that files know.

Sections are overview, environment, losses, and whatever an algorithm or a companion brings along. A metric
that is not in the table below goes by its own name wherever it is written or shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Record = Mapping[str, Any]
Reporter = Callable[[Record], None]

LINE = {  # what the plain line shows, in its order: a metric's name and its key
    "overview/epoch": "epoch",
    "overview/agent_steps": "agent_steps",
    "overview/SPS": "SPS",
    "environment/episode_return": "episode_return",
    "environment/episode_length": "episode_length",
    "environment/episodes": "episodes",
    "losses/policy_loss": "policy_loss",
    "losses/value_loss": "value_loss",
    "losses/entropy": "entropy",
    "losses/old_approx_kl": "old_approx_kl",
    "losses/approx_kl": "approx_kl",
    "losses/clipfrac": "clipfrac",
    "losses/explained_variance": "explained_variance",
    "overview/learning_rate": "learning_rate",
    "overview/uptime": "uptime",
}
KEYS = {  # in metrics.jsonl
    **LINE,
    "overview/wall_time": "wall_time",
    "losses/gradient_norm": "gradient_norm",
}


def keyed(record: Record) -> dict[str, Any]:
    """A record as metrics.jsonl holds it: the keys of the table first, in its order."""
    first = {key: record[name] for name, key in KEYS.items() if name in record}
    return {**first, **{name: value for name, value in record.items() if name not in KEYS}}


def known(record: Record) -> dict[str, Any]:
    """The metrics of a record that have a value."""
    return {name: value for name, value in record.items() if value is not None and not math.isnan(value)}


def mean(values: list[float]) -> float:
    """The mean, or nan of nothing."""
    return sum(values) / len(values) if values else math.nan
