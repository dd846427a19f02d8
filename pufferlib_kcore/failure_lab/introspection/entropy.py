"""Entropy: how open a policy's actions were over a training, and what kind of a course that is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pufferlib_kcore.diagnostics.policies import trend
from pufferlib_kcore.diagnostics.signals import since, smooth
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import pictures

KINDS = ("collapsed", "always low", "increasing", "decreasing", "stable", "unknown")
POINTS = 100  # parts of a course whose medians make its trend


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What tells kinds of a course apart, in parts of log(n_actions); in nats where that is not known."""

    low: float = 0.1  # entropy below which actions are decided
    high: float = 0.2  # from which on they were open
    change: float = 0.1  # that a trend makes over the whole course
    sure: float = 3.0  # standard errors of Kendall's tau from which on there is a trend
    fewest: int = 10  # entropies that a course needs


@dataclass(frozen=True, kw_only=True)
class Course:
    """What an entropy did. Numbers are nats of running medians; nan where the course is unknown."""

    kind: str  # one of KINDS
    now: float
    peak: float  # the largest
    slope: float  # Theil's, over one update
    since: float | None  # the episode from which on it is low to the end


class EntropyTracker:
    """Entropies of a policy, one an update, and the kind of their course.

    Of running medians over `window` updates (a quarter of them at most), in this order:
      collapsed     below `low` now, and once above `high`
      always low    below `low` now, and never above `high`
      increasing    Theil's slope times the number of updates is more than `change`, and Kendall's tau more
                    than `sure` standard errors, sqrt(2 (2 n + 5) / (9 n (n - 1))) each
      decreasing    the same, downwards
      stable        neither
      unknown       fewer than `fewest` entropies
    with the numbers of Rules times log(n_actions). A negative entropy is one of continuous actions, of which
    no number is low: such a course has a trend alone.
    """

    def __init__(self, window: int = 100, n_actions: int | None = None, rules: Rules | None = None):
        if window < 1:
            raise UserError(f"window={window}: expected at least 1 update")
        if n_actions is not None and n_actions < 2:
            raise UserError(f"n_actions={n_actions}: one action has no entropy; expected at least 2")
        self.window, self.n_actions, self.rules = window, n_actions, rules or Rules()
        self.episodes: list[float] = []
        self.entropies: list[float] = []  # nan where an agent has none

    @property
    def scale(self) -> float:
        """log(n_actions), or 1 nat."""
        return math.log(self.n_actions) if self.n_actions else 1.0

    def update(self, entropy: Any, episode: float | None = None) -> None:
        """Add one.  entropy: a number [nats], or None of an agent that has none; episode: None for the next

        Raises UserError for what is no number, and for more than n_actions can have.
        """
        try:
            value = math.nan if entropy is None else float(entropy)
        except (TypeError, ValueError) as error:
            raise UserError(f"an entropy is {entropy!r}: expected a number of nats") from error
        if self.n_actions and value > 1.001 * self.scale:
            raise UserError(
                f"an entropy is {value:.4g}; {self.n_actions} actions have at most {self.scale:.4g} nats: "
                "is it in bits, or are there more actions?"
            )
        self.episodes.append((self.episodes[-1] + 1 if self.episodes else 0) if episode is None else episode)
        self.entropies.append(value if math.isfinite(value) else math.nan)

    def course(self) -> Course:
        """What the entropy did until now."""
        x, episodes = self._known()
        if len(x) < self.rules.fewest:
            return Course(kind="unknown", now=math.nan, peak=math.nan, slope=math.nan, since=None)
        medians = self._medians(x)
        parts = np.array([np.median(part) for part in np.array_split(x, min(POINTS, len(x)))])
        slope, tau = trend(parts)
        n = len(parts)
        error = (2 * (2 * n + 5) / (9 * n * (n - 1))) ** 0.5
        slope *= n / len(x)
        low, high, change = (
            self.scale * part for part in (self.rules.low, self.rules.high, self.rules.change)
        )
        now, peak = float(medians[-1]), float(medians.max())
        where = since(medians < low) if x.min() >= 0 else None
        if where is not None:
            kind = "collapsed" if peak > high else "always low"
        elif abs(slope) * len(x) > change and abs(tau) > self.rules.sure * error:
            kind = "increasing" if slope > 0 else "decreasing"
        else:
            kind = "stable"
        began = None if where is None else float(episodes[len(x) - len(medians) + where])
        return Course(kind=kind, now=now, peak=peak, slope=slope, since=began)

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.course().kind

    def to_plain(self) -> dict[str, Any]:
        """Everything as JSON has it: the course, and columns `episodes` and `entropies`."""

        def plain(x: float) -> float | None:
            return x if math.isfinite(x) else None

        course = {k: plain(v) if isinstance(v, float) else v for k, v in asdict(self.course()).items()}
        own = {"n_actions": self.n_actions, "window": self.window}
        return {
            **course,
            **own,
            "episodes": [float(one) for one in self.episodes],
            "entropies": [plain(one) for one in self.entropies],
        }

    def plot(self, save_path: str | Path | None = None) -> Figure:
        """Entropies as dots, their running median as a line, and what is low.

        Raises UserError where nothing was tracked.
        """
        x, episodes = self._known()
        if not len(x):
            raise UserError("no entropy was tracked: call update(entropy, episode) first")
        course, medians = self.course(), self._medians(x)
        began = "" if course.since is None else f" since episode {course.since:g}"
        figure, (axis,) = pictures.panels(1, f"entropy: {course.kind}{began}")
        axis.plot(episodes, x, ".", color=pictures.BLUE, alpha=0.35, markersize=4, markeredgewidth=0)
        axis.plot(episodes[-len(medians) :], medians, color=pictures.BLUE, lw=2, label="running median")
        if x.min() >= 0:
            low = self.rules.low * self.scale
            axis.axhline(low, color=pictures.RED, ls="--", lw=1, label=f"low: {low:.3g}")
        if self.n_actions:
            most = f"log {self.n_actions}"
            axis.axhline(self.scale, color=pictures.GREY, ls=":", lw=1, label=most)
        if x.min() >= 0:
            axis.set_ylim(bottom=0)
        axis.set(xlabel="episode", ylabel="entropy of the policy [nats]")
        axis.legend(frameon=False, fontsize=8)
        return pictures.saved(figure, save_path)

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """Entropies that are numbers, and their episodes."""
        x, episodes = np.array(self.entropies, float), np.array(self.episodes, float)
        known = np.isfinite(x)
        return x[known], episodes[known]

    def _medians(self, x: np.ndarray) -> np.ndarray:
        """Of whole windows alone: of those that end at each of the last entropies."""
        width = min(self.window, max(1, len(x) // 4))
        return smooth(x, width)[width - 1 :]
