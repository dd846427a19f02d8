"""Heatmap: where in two features of its observations an agent was, and what it did, or would do, there."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import pictures
from pufferlib_kcore.failure_lab.introspection.vectors import checked, chooser, two_of, whole

NONE = -1  # in the place of an action that was not told
Bounds = Sequence[float | None]


class StateHeatmap:
    """Visits and actions over bins x bins cells of two features of a vector observation.

    low, high: (2,) ends of the two features; None, or an end that is not finite, is what was recorded so far.
    What is recorded is kept (24 bytes a state), and counted in cells when asked: so no range must be guessed
    before, and visits of an unbounded feature add up to all that was recorded. Ends at quantiles would leave
    out just the rare states in which things go wrong; who wants to look closer gives low and high.
    """

    def __init__(
        self,
        bins: int = 20,
        features: Sequence[int] = (0, 1),
        low: Bounds | None = None,
        high: Bounds | None = None,
        names: Sequence[str] | None = None,
    ):
        if bins < 1:
            raise UserError(f"bins={bins}: expected at least 1")
        self.bins, self.features = bins, checked(features)
        self.low, self.high = _ends(low, "low"), _ends(high, "high")
        if (self.low >= self.high).any():
            raise UserError(f"low={low} is not below high={high}")
        self.names = pictures.feature_names(names, self.features)
        self._points, self._actions, self._width = array("d"), array("q"), 0

    @classmethod
    def of(cls, env: Any, bins: int = 20, features: Sequence[int] = (0, 1)) -> StateHeatmap:
        """With the ends of an environment's observation space, and its `feature_names` where it has them.

        Raises UserError for observations that are no vectors.
        """
        space = env.observation_space
        if len(getattr(space, "shape", None) or ()) != 1 or not hasattr(space, "low"):
            raise UserError(f"observations are {space}: a heatmap needs vectors, a Box of shape (d,)")
        if max(checked(features)) >= space.shape[0]:
            raise UserError(f"features={tuple(features)} of observations of {space.shape[0]} numbers")
        chosen = list(features)
        names = getattr(getattr(env, "unwrapped", env), "feature_names", None)
        return cls(bins, features, space.low[chosen].tolist(), space.high[chosen].tolist(), names)

    def record(self, state: Any, action: Any = None) -> None:
        """Add a state, or many, with what was done there.

        state: (d,) or (N, d), or the two features themselves, (2,); action: None, one, or (N,) whole numbers
        from 0 on. Raises UserError for others.
        """
        points = two_of(state, self.features)
        told = np.full(len(points), NONE) if action is None else whole(action, len(points))
        self._width = max(self._width, np.shape(state)[-1])
        self._points.extend(points.ravel().tolist())
        self._actions.extend(told.tolist())

    def __len__(self) -> int:
        """States recorded."""
        return len(self._actions)

    @property
    def outside(self) -> int:
        """States recorded that are in no cell: beyond low or high, or not finite."""
        return len(self) - int(self.visits.sum())

    @property
    def edges(self) -> np.ndarray:
        """(2, bins + 1).  Raises UserError where nothing tells the range"""
        points = self._recorded()
        points = points[np.isfinite(points).all(1)]
        ends = []
        for i, name in enumerate(self.names):
            low, high = self.low[i], self.high[i]
            if not len(points) and not np.isfinite([low, high]).all():
                raise UserError(f"nothing tells the range of {name}: record states, or give low and high")
            low = low if np.isfinite(low) else min(points[:, i].min(), high)
            high = high if np.isfinite(high) else max(points[:, i].max(), low)
            ends.append((low, high) if low < high else (low - 0.5, high + 0.5))
        return np.stack([np.linspace(low, high, self.bins + 1) for low, high in ends])

    @property
    def visits(self) -> np.ndarray:
        """Visits of each cell.  (bins, bins) int64, [i, j]: i of the first feature, j of the second"""
        return self._count(np.ones(len(self), bool))

    def action_visits(self, n_actions: int | None = None) -> np.ndarray:
        """How often each action was taken in each cell.  (actions, bins, bins) int64

        n_actions: None for as many as were seen.
        """
        actions = np.array(self._actions)
        count = int(actions.max(initial=NONE)) + 1 if n_actions is None else n_actions
        cells = [self._count(actions == action) for action in range(count)]
        return np.stack(cells) if cells else np.zeros((0, self.bins, self.bins), np.int64)

    def action_shares(self, n_actions: int | None = None) -> np.ndarray:
        """The share of each action in each cell; nan where none was taken.  (actions, bins, bins)"""
        counts = self.action_visits(n_actions)
        total = counts.sum(0)
        return np.where(total > 0, counts / np.maximum(total, 1), np.nan)

    def commonest(self) -> np.ma.MaskedArray:
        """The action taken most often in each cell, the first of equals; masked where none.  (bins, bins)"""
        counts = self.action_visits()
        if not len(counts):
            return np.ma.masked_all((self.bins, self.bins), np.int64)
        return np.ma.masked_array(counts.argmax(0), mask=counts.sum(0) == 0)

    def policy_map(self, policy: Any, at: Any = None) -> np.ndarray:
        """What a policy does in the middle of each cell.  (bins, bins)

        policy: observation -> action, or with .act; at: (d,) an observation whose other features are kept,
        needed where there are others. Raises UserError where it is missing, or an action is no number.
        """
        if at is None and (self._width > 2 or set(self.features) != {0, 1}):
            raise UserError("give at=..: an observation, whose other features the map is drawn at")
        base = np.zeros(2, np.float32) if at is None else np.array(at, np.float32)
        if base.ndim != 1 or len(base) <= max(self.features):
            raise UserError(f"at has shape {base.shape}: expected an observation, with {self.features} in it")
        act, middles = chooser(policy), (self.edges[:, 1:] + self.edges[:, :-1]) / 2
        found = np.empty((self.bins, self.bins))
        for i, x in enumerate(middles[0]):
            for j, y in enumerate(middles[1]):
                observation = base.copy()
                observation[list(self.features)] = x, y
                action = np.asarray(act(observation))
                if action.size != 1:
                    raise UserError(f"an action has shape {action.shape}: a map shows single numbers")
                found[i, j] = action.item()
        return found

    def plot(
        self,
        include_actions: bool = False,
        action_names: Sequence[str] | None = None,
        save_path: str | Path | None = None,
    ) -> Figure:
        """Visits; with actions also the commonest one of each cell, and its share. Blank: no visit.

        Raises UserError where nothing was recorded, or no action.
        """
        if not len(self):
            raise UserError("no state was recorded: call record(state, action) first")
        beyond = f", {self.outside:,} outside" if self.outside else ""
        figure, axes = pictures.panels(3 if include_actions else 1, f"{len(self):,} states{beyond}")
        self._draw(axes[0], np.ma.masked_equal(self.visits, 0), "visits", norm=LogNorm(vmin=1))
        if include_actions:
            shares = self.action_shares()
            if not len(shares):
                raise UserError("no action was recorded: call record(state, action)")
            names = pictures.action_names(action_names, len(shares))
            self._draw_actions(axes[1], self.commonest(), names, "commonest action")
            sure = np.ma.masked_invalid(shares.max(0))
            self._draw(axes[2], sure, "share of the commonest action", vmin=1 / max(2, len(names)), vmax=1)
        return pictures.saved(figure, save_path)

    def plot_policy(
        self,
        policy: Any,
        at: Any = None,
        action_names: Sequence[str] | None = None,
        save_path: str | Path | None = None,
    ) -> Figure:
        """`policy_map` as a picture: colors for whole actions, shades for others."""
        found = np.ma.masked_invalid(self.policy_map(policy, at))
        figure, (axis,) = pictures.panels(1, "what the policy does")
        if (found == np.floor(found)).all() and found.min() >= 0:
            names = pictures.action_names(action_names, max(int(found.max()) + 1, len(action_names or ())))
            self._draw_actions(axis, found, names, "action")
        else:
            self._draw(axis, found, "action")
        return pictures.saved(figure, save_path)

    def _recorded(self) -> np.ndarray:
        return np.array(self._points).reshape(-1, 2)

    def _count(self, which: np.ndarray) -> np.ndarray:
        points = self._recorded()[which]
        points = points[np.isfinite(points).all(1)]
        return np.histogramdd(points, list(self.edges))[0].astype(np.int64)

    def _draw(self, axis: Axes, cells: np.ma.MaskedArray, title: str, **look: Any) -> None:
        mesh = axis.pcolormesh(*self.edges, cells.T, cmap="viridis", **look)
        axis.figure.colorbar(mesh, ax=axis)
        self._label(axis, title)

    def _draw_actions(self, axis: Axes, cells: np.ma.MaskedArray, names: Sequence[str], title: str) -> None:
        shades = pictures.colors(len(names))
        norm = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
        axis.pcolormesh(*self.edges, cells.T, cmap=ListedColormap(shades), norm=norm)
        pictures.legend(axis, names, shades)
        self._label(axis, title)

    def _label(self, axis: Axes, title: str) -> None:
        axis.grid(False)
        axis.set(xlabel=self.names[0], ylabel=self.names[1])
        axis.set_title(title, fontsize=9)


def _ends(given: Bounds | None, which: str) -> np.ndarray:
    """(2,), infinite where they are open.  Raises UserError for others"""
    open_end = -np.inf if which == "low" else np.inf
    if given is None:
        return np.full(2, open_end)
    if len(given) != 2:
        raise UserError(f"{which}={given}: expected two numbers, one for each feature")
    return np.array([open_end if end is None or not np.isfinite(end) else end for end in given], float)
