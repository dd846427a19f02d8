"""Phases: trajectories through two features of their observations: one, several, and how they changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import pictures
from pufferlib_kcore.failure_lab.introspection.vectors import checked, two_of, whole

SELECTIONS = ("best", "worst", "random", "latest", "all")
SHADES = "viridis"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode in two features."""

    states: np.ndarray  # (T, 2), or (T + 1, 2) with the last
    actions: np.ndarray  # (T,) int64
    rewards: np.ndarray  # (T,)
    episode: int

    @property
    def total(self) -> float:
        """The episode's return, not discounted."""
        return float(self.rewards.sum())


class PhasePlotter:
    """Trajectories, and pictures of them in the plane of two features."""

    def __init__(self, features: Sequence[int] = (0, 1), names: Sequence[str] | None = None):
        self.features = checked(features)
        self.names = pictures.feature_names(names, self.features)
        self.trajectories: list[Trajectory] = []

    def add_trajectory(self, states: Any, actions: Any, rewards: Any, episode: int | None = None) -> None:
        """Keep an episode.  states: (T, d) or (T + 1, d), actions and rewards: (T,); episode: None, the next

        Raises UserError where lengths do not fit, or there is no step.
        """
        paid = np.asarray(rewards, np.float64).reshape(-1)
        points = two_of(states, self.features)
        if not len(paid) or len(points) - len(paid) not in (0, 1):
            raise UserError(
                f"{len(points)} states for {len(paid)} rewards: expected as many, or the last too"
            )
        number = len(self.trajectories) if episode is None else int(episode)
        self.trajectories.append(Trajectory(points, whole(actions, len(paid)), paid, number))

    def select(self, n_trajectories: int = 20, selection: str = "latest", seed: int = 0) -> list[Trajectory]:
        """Some of the trajectories, by episode.

        best, worst: of the largest, or smallest, return, earlier ones first among equals; random: drawn with
        the seed, none twice; latest: added last; all: however many. Raises UserError for another selection,
        or where there is none.
        """
        if not self.trajectories:
            raise UserError("there is no trajectory: call add_trajectory first")
        if n_trajectories < 1:
            raise UserError(f"n_trajectories={n_trajectories}: expected at least 1")
        totals = np.array([one.total for one in self.trajectories])
        places = {
            "best": np.argsort(-totals, kind="stable"),
            "worst": np.argsort(totals, kind="stable"),
            "random": np.random.default_rng(seed).permutation(len(totals)),
            "latest": np.arange(len(totals))[::-1],
        }
        if selection not in SELECTIONS:
            raise UserError(f"selection={selection!r}: expected one of {', '.join(SELECTIONS)}")
        chosen = np.arange(len(totals)) if selection == "all" else places[selection][:n_trajectories]
        return sorted((self.trajectories[i] for i in chosen), key=lambda one: one.episode)

    def plot_single(
        self,
        episode: int | None = None,
        action_names: Sequence[str] | None = None,
        save_path: str | Path | None = None,
    ) -> Figure:
        """One trajectory: its way shaded by time, its actions as dots; beside it both features over time.

        episode: None for the one added last.  Raises UserError where there is none of that number.
        """
        which = self.select(1)[0] if episode is None else self._of(episode)
        title = f"episode {which.episode}: return {which.total:.4g}, {len(which.rewards)} steps"
        figure, (plane, time) = pictures.panels(2, title)
        names = pictures.action_names(
            action_names, max(int(which.actions.max()) + 1, len(action_names or ()))
        )
        shades = pictures.colors(len(names))
        parts = np.stack([which.states[:-1], which.states[1:]], 1)
        plane.add_collection(LineCollection(list(parts), array=np.arange(len(parts)), cmap="Greys", lw=1.2))
        starts = which.states[: len(which.actions)]
        plane.scatter(starts[:, 0], starts[:, 1], c=[shades[a] for a in which.actions], s=14, zorder=2)
        _ends(plane, which, "black")
        self._label(plane, "o start, x end; dots: actions")
        pictures.legend(plane, names, shades)
        for name, column, color in zip(
            self.names, which.states.T, (pictures.BLUE, pictures.RED), strict=True
        ):
            time.plot(column, color=color, lw=1.4, label=name)
        time.set(xlabel="step")
        time.legend(frameon=False, fontsize=8)
        return pictures.saved(figure, save_path)

    def plot_multiple(
        self,
        n_trajectories: int = 20,
        selection: str = "latest",
        seed: int = 0,
        save_path: str | Path | None = None,
    ) -> Figure:
        """Several trajectories, as `select` has them, shaded by their return."""
        chosen = self.select(n_trajectories, selection, seed)
        title = f"{selection}: {len(chosen)} of {len(self.trajectories)} trajectories"
        figure, (axis,) = pictures.panels(1, title)
        self._draw(axis, chosen, _scale(chosen))
        self._label(axis, "o start, x end")
        figure.colorbar(ScalarMappable(_scale(chosen), SHADES), ax=axis, label="return")
        return pictures.saved(figure, save_path)

    def plot_evolution(
        self, parts: int = 3, n_trajectories: int = 20, save_path: str | Path | None = None
    ) -> Figure:
        """Trajectories of so many parts of the training in turn, on one scale; evenly spaced ones of each."""
        if parts < 1:
            raise UserError(f"parts={parts}: expected at least 1")
        ordered = sorted(self.select(selection="all"), key=lambda one: one.episode)
        groups = [
            [ordered[i] for i in places]
            for places in np.array_split(np.arange(len(ordered)), min(parts, len(ordered)))
        ]
        scale = _scale(ordered)
        figure, axes = pictures.panels(len(groups), "trajectories over training", sharex=True, sharey=True)
        for axis, group in zip(axes, groups, strict=True):
            shown = np.unique(np.linspace(0, len(group) - 1, min(n_trajectories, len(group))).round())
            self._draw(axis, [group[int(i)] for i in shown], scale)
            mean = np.mean([one.total for one in group])
            self._label(axis, f"episodes {group[0].episode} to {group[-1].episode}, mean return {mean:.4g}")
        figure.colorbar(ScalarMappable(scale, SHADES), ax=axes, label="return")
        return pictures.saved(figure, save_path)

    def _of(self, episode: int) -> Trajectory:
        for one in reversed(self.trajectories):
            if one.episode == episode:
                return one
        raise UserError(f"there is no trajectory of episode {episode}: add it, or name another")

    def _draw(self, axis: Axes, chosen: Sequence[Trajectory], scale: Normalize) -> None:
        shades = matplotlib.colormaps[SHADES]
        for one in chosen:
            axis.plot(*one.states.T, color=shades(scale(one.total)), lw=1, alpha=0.7)
            _ends(axis, one, shades(scale(one.total)))

    def _label(self, axis: Axes, title: str) -> None:
        axis.set(xlabel=self.names[0], ylabel=self.names[1])
        axis.set_title(title, fontsize=9)


def _scale(chosen: Sequence[Trajectory]) -> Normalize:
    totals = [one.total for one in chosen]
    return Normalize(min(totals), max(max(totals), min(totals) + 1e-9))


def _ends(axis: Axes, one: Trajectory, color: Any) -> None:
    axis.plot(*one.states[0], "o", color=color, mfc="white", markersize=5, zorder=3)
    axis.plot(*one.states[-1], "x", color=color, markersize=6, zorder=3)
