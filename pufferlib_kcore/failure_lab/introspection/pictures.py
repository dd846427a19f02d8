"""Pictures: figures without a window that nobody else draws on, saved whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pufferlib_kcore.analysis.figures import tidy
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

KINDS = (".png", ".svg", ".pdf")
BLUE, RED, GREY = "#2f5d9b", "#d1495b", "#777777"
DPI = 130
COLUMNS = 3


def panels(count: int, title: str = "", **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with so many places, at most three in a row.  shared: sharex, sharey of `Figure.subplots`"""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.2 + 4.4 * columns, 0.5 + 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    for axis in axes[:count]:
        tidy(axis)
    figure.suptitle(title, fontsize=11)
    return figure, axes[:count]


def saved(figure: Figure, path: str | Path | None) -> Figure:
    """The figure; a file of it too where a path is given.  Raises UserError for no picture's name"""
    if path is None:
        return figure
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        raise UserError(f"cannot save a picture as {path}: expected a name that ends in {', '.join(KINDS)}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind[1:], dpi=DPI)
    atomic.write(path, buffer.getvalue())
    return figure


def colors(count: int) -> list[Any]:
    """So many that can be told apart, of actions."""
    palette = matplotlib.colormaps["tab10" if count <= 10 else "tab20"]
    return [palette(i % palette.N) for i in range(count)]


def legend(axis: Axes, names: Sequence[str], shades: Sequence[Any]) -> None:
    """What each color stands for, below a panel."""
    patches = [Patch(color=shade, label=name) for name, shade in zip(names, shades, strict=True)]
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "loc": "upper center"}
    axis.legend(handles=patches, bbox_to_anchor=(0.5, -0.16), ncols=min(4, len(patches)), **look)


def action_names(given: Sequence[str] | None, count: int) -> list[str]:
    """A name for each action.  Raises UserError where there are fewer names than actions"""
    if given is None:
        return [f"action {i}" for i in range(count)]
    if len(given) < count:
        raise UserError(f"{len(given)} action_names for {count} actions: name each of them")
    return list(given)


def feature_names(given: Sequence[str] | None, features: Sequence[int]) -> tuple[str, str]:
    """Of the two features, from two names or from those of all.  Raises UserError where they do not fit"""
    if given is None:
        first, second = (f"feature {i}" for i in features)
        return first, second
    if len(given) > max(features):
        return given[features[0]], given[features[1]]
    if len(given) != 2:
        raise UserError(f"{len(given)} names for the features {tuple(features)}: name these two, or all")
    return given[0], given[1]
