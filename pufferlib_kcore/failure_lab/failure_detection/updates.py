"""Updates: what a training says at each of its updates, by our names, and what a detector makes of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from pufferlib_kcore.diagnostics.detectors import Thresholds
from pufferlib_kcore.errors import UserError

ALIASES = {  # our names, and what else is taken for them, the first that is there
    "reward": ("episode_reward",),
    "return": ("episode_return", "episodic_return"),
    "true": ("true_return", "environment/true_return"),
    "burnout": ("final_burnout",),
    "entropy": ("policy_entropy",),
    "loss": ("value_loss", "td_loss"),
    "gradient_norm": ("grad_norm",),
    "q": ("max_q", "mean_q", "q_value"),  # where q_values are not there
}
HOLES = ("return", "true", "episode_reward")  # nan where no episode has ended: says nothing


@dataclass(frozen=True, kw_only=True)
class Limits:
    """All of the detectors' numbers: the published ones, unless it says otherwise."""

    window: int = 100  # updates looked at
    reward: float = 0.5  # above which a reward is high; of rewards of about 0 to 1
    burnout: float = 0.6  # above which what it is paid for does harm
    fine: float = 0.5  # burnout below which an outcome is good, if it is paid
    hacked: float = 0.3  # share of updates that are both, above which that is no accident
    against: float = -0.3  # correlation of reward and outcome below which the reward is wrong
    fewest: int = 50  # updates for reward hacking and nonstationarity
    entropy: float = 0.1  # nats, mean of the last `recent`, below which a policy is decided
    recent: int = 20  # entropies, and episode returns
    few: int = 10  # entropies or losses; and updates of a part whose trend is told
    dominant: float = 0.95  # share of one action
    alone: float = 0.99  # above which it is the only one
    actions: int = 100  # for a share
    short: float = 0.1  # of |reference|, by which a return is below it; ours
    variance: float = 2.0  # of rewards
    turns: int = 3  # of their trend
    clear: float = 2.0  # standard errors by which parts differ where there is a trend; ours
    q: float = 1000.0  # |Q|, where the true scale is not known
    scale: float = Thresholds.scale  # times the true scale, where that is known; ours
    values: int = 20  # |Q|s that are needed, half of them early and half late
    growth: float = 2.0  # (late - early) / early
    loss: float = 1000.0  # mean of the last `few`


LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    """One failure, when it was seen, by what numbers, and what to try."""

    failure_type: str  # as `diagnostics.detectors.DETECTORS` names them
    severity: str  # low, medium, high, critical
    timestamp: datetime  # with its time zone, UTC
    step: int
    episode: int
    signal_values: Mapping[str, float]
    description: str
    recommended_fix: str

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it; numbers that are not finite are text."""
        values = {
            name: value if math.isfinite(value) else str(value) for name, value in self.signal_values.items()
        }
        return {**asdict(self), "timestamp": self.timestamp.isoformat(), "signal_values": values}

    def __str__(self) -> str:
        """`[high] policy_collapse: ..`"""
        return f"[{self.severity}] {self.failure_type}: {self.description}"


@dataclass(frozen=True, kw_only=True)
class Update:
    """One update, read. numbers: finite ones by our names; odd: names of what is NaN or infinite."""

    numbers: Mapping[str, float]
    odd: tuple[str, ...]
    action: int | None
    q_values: np.ndarray | None  # (actions,), finite ones alone
    shares: np.ndarray | None  # (actions,) action_distribution
    step: int | None
    episode: int | None
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> Update:
        """Read a dict of metrics; unknown names are ignored, and None is what is not there.

        Raises UserError naming a known metric that is no number.
        """
        if not isinstance(metrics, Mapping):
            raise UserError(
                f"metrics are a {type(metrics).__name__}: expected a dict such as {{'reward': 1.0}}"
            )
        numbers, odd = {}, []
        for ours, others in ALIASES.items():
            name = next((name for name in (ours, *others) if metrics.get(name) is not None), None)
            if name is None:
                continue
            value = _number(name, metrics[name])
            if math.isfinite(value):
                numbers[ours] = value
            elif not {ours, name} & set(HOLES):
                odd.append(name)
        q_values, shares = (_vector(name, metrics.get(name)) for name in ("q_values", "action_distribution"))
        if q_values is not None:
            if not np.isfinite(q_values).all():
                odd.append("q_values")
            q_values = q_values[np.isfinite(q_values)]
            if len(q_values):
                numbers["q"] = float(q_values[np.abs(q_values).argmax()])
        if shares is not None and "entropy" not in numbers and np.isfinite(shares).all():
            p = shares[shares > 0]
            numbers["entropy"] = float(-(p * np.log(p)).sum())
        whole = (_whole(name, metrics.get(name)) for name in ("action", "step", "episode"))
        action, step, episode = whole
        return cls(
            numbers=numbers,
            odd=tuple(odd),
            action=action,
            q_values=q_values,
            shares=shares,
            step=step,
            episode=episode,
            raw=dict(metrics),
        )


class Returns:
    """Returns of the last episodes: those told, else the rewards of updates with one episode's number, added.

    The episode that is going on is not among them.
    """

    def __init__(self, window: int):
        self.told: deque[float] = deque(maxlen=window)
        self.summed: deque[float] = deque(maxlen=window)
        self._episode: int | None = None
        self._sum = 0.0

    def add(self, update: Update) -> None:
        if "return" in update.numbers:
            self.told.append(update.numbers["return"])
        if update.episode is None or "reward" not in update.numbers:
            return
        if self._episode is not None and update.episode != self._episode:
            self.summed.append(self._sum)
            self._sum = 0.0
        self._episode = update.episode
        self._sum += update.numbers["reward"]

    def recent(self, count: int) -> float | None:
        """The mean of the last so many; None where there is none."""
        known = list(self.told or self.summed)[-count:]
        return float(np.mean(known)) if known else None


def _number(name: str, value: Any) -> float:
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's, of many numbers
        raise UserError(f"the metric {name!r} is {value!r}: expected a number") from error


def _vector(name: str, value: Any) -> np.ndarray | None:
    try:
        return None if value is None else np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise UserError(f"the metric {name!r} is {value!r}: expected numbers") from error


def _whole(name: str, value: Any) -> int | None:
    """None of what is no whole number, as continuous actions are."""
    if value is None or np.size(value) != 1:
        return None
    number = _number(name, value)
    return int(number) if number.is_integer() else None
