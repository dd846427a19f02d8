"""Frontier: the sizes and divergences that a search passed through, as a table and a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 1e-8  # nats, drawn in place of less


def to_csv(points: Sequence[dict[str, Any]]) -> str:
    """A line a point: size, params, kl, value_error, and the width of each space."""
    rows = [{**{k: v for k, v in point.items() if k != "widths"}, **point["widths"]} for point in points]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def figure(points: Sequence[dict[str, Any]], title: str) -> Figure:
    """KL and value error over the part of the parameters that is left; the last point is the one taken."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    drawn = Figure(figsize=(6, 4), layout="constrained")
    axes = drawn.subplots()
    sizes = [point["size"] for point in points]
    for key, color, label in (("kl", "#d1495b", "KL, nats"), ("value_error", "#2f5d9b", "value error")):
        values = [max(point[key], LEAST) for point in points]
        axes.plot(sizes, values, "o-", color=color, ms=3, label=label)
        axes.plot(sizes[-1:], values[-1:], "o", color=color, ms=10, fillstyle="none")
    axes.plot([], [], "o", color="0.4", ms=10, fillstyle="none", label="the one taken")
    axes.set(yscale="log", xlabel="parameters kept", ylabel="on states not calibrated on")
    if max(sizes) > 3 * min(sizes):
        axes.set_xscale("log", subs=[])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 200 * min(sizes) else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{100 * size:.3g}%"))
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    return drawn
