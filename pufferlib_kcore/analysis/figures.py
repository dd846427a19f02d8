"""Figures: returns of a run and of its collapsed continuation, with fibers and parameters below."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pufferlib_kcore.analysis.curves import Curve
from pufferlib_kcore.store import FiberHistory, FibersFile, SpaceFibers

PALETTE = {  # of the runs
    "original": "#2f5d9b",
    "collapsed": "#d1495b",
    "ablated": "#6b6f76",
    "scratch": "#d9951a",
    "scratch-full": "#3a8f5c",
}
LINES: dict[str, Any] = {
    "original": "-",
    "collapsed": "--",
    "ablated": ":",
    "scratch": "-.",
    "scratch-full": "-.",
}
MARK = "#777777"  # of the collapse
MANY = 12  # spaces that a legend can name one by one; more are drawn by kind
BARS = 24  # spaces that bars can show

Moment = tuple[int, float]  # epoch, agent steps


def comparison(
    curves: Mapping[str, Curve],
    title: str,
    collapse: Moment | None = None,
    histories: Mapping[str, FiberHistory] | None = None,
    fibers: FibersFile | None = None,
    params: tuple[int, int] | None = None,
) -> Figure:
    """All panels over the same agent steps; a panel without data is left out, and spaces of a single unit.

    curves, histories: by run, "original" and "collapsed".  fibers: of the collapse, drawn
    as bars where no history tells more.  params: of the policy before and after the collapse.
    """
    histories = {name: history for name, history in (histories or {}).items() if len(history.epochs)}
    spaces = fibers.spaces if fibers else {}
    spaces = {name: space for name, space in spaces.items() if space.units > 1}
    panels = [("returns", 3.4)]
    if histories:
        panels.append(("fibers", 2.6))
    elif spaces:
        panels.append(("bars", 0.9 + 0.24 * min(len(spaces), BARS)))
    if params or any(np.isfinite(history.params).any() for history in histories.values()):
        panels.append(("params", 1.8))
    heights = [height for _, height in panels]
    figure = Figure(figsize=(10, sum(heights) + 0.8 + 0.3 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold", wrap=True)
    grid = figure.add_gridspec(len(panels), 1, height_ratios=heights)
    axes = {name: figure.add_subplot(grid[row]) for row, (name, _) in enumerate(panels)}

    end = max(float(curve.steps[-1]) for curve in curves.values())
    draw_returns(axes["returns"], curves)
    if "fibers" in axes:
        draw_fibers(axes["fibers"], histories, curves)
    if "bars" in axes:
        draw_bars(axes["bars"], spaces)
    if "params" in axes:
        draw_params(axes["params"], histories, curves, collapse, params)
    over_time = [axis for name, axis in axes.items() if name != "bars"]
    for axis in over_time:
        axis.set_xlim(0, end * 1.02)
        axis.xaxis.set_major_formatter(FuncFormatter(short))
        if collapse:
            mark_collapse(axis, collapse)
        axis.set_xlabel("agent steps" if axis is over_time[-1] or "bars" in axes else "")
    legend_outside(axes["returns"])
    for axis in axes.values():
        tidy(axis)
    _epochs_on_top(axes["returns"], curves)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # drawn again, the figure looks the same
    return figure


def draw_returns(axis: Axes, curves: Mapping[str, Curve]) -> None:
    """The return of each epoch, faint, and its moving mean."""
    for name, curve in curves.items():
        color, smooth = PALETTE[name], curve.smoothed()
        there = np.isfinite(smooth)
        axis.plot(curve.steps, curve.returns, ".", color=color, alpha=0.4, markersize=4, markeredgewidth=0)
        lone = "o" if there.sum() == 1 else ""
        label = name if there.any() else f"{name} (no episode finished)"
        axis.plot(curve.steps[there], smooth[there], lone + "-", color=color, linewidth=2, label=label)
    if any(np.isfinite(curve.returns).any() for curve in curves.values()):
        axis.plot(
            [],
            [],
            ".",
            color=MARK,
            alpha=0.6,
            markersize=4,
            label="dots: one epoch's mean\nlines: moving mean",
        )
    else:
        paper = {"facecolor": "white", "linewidth": 0}
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, "no episode finished", color=MARK, bbox=paper, **middle)
        axis.set_yticks([])
    axis.set_ylabel("episode return")


def draw_fibers(
    axis: Axes,
    histories: Mapping[str, FiberHistory],
    curves: Mapping[str, Curve],
    original: Mapping[str, int] = {},  # noqa: B006 never edited
) -> None:
    """Fibers of each space as a fraction of the units that it has in the original; runs differ by line.

    original: units of spaces in the original, where its history is not among those that are drawn
    """
    whole: dict[str, tuple[str, float]] = {}  # space: kind, units before any collapse
    for history in histories.values():
        for name, space in history.spaces.items():
            units = space.units[np.isfinite(space.units)]
            if len(units) and original.get(name, units[0]) > 1:
                whole.setdefault(name, (space.kind, float(original.get(name, units[0]))))
    colors = _colors({name: kind for name, (kind, _) in whole.items()})
    for run, history in histories.items():
        steps = curves[run].steps_at(history.epochs) if run in curves else history.epochs
        for name, space in history.spaces.items():
            if name in whole:
                share = space.fibers / max(whole[name][1], 1)
                axis.plot(steps, share, LINES[run], color=colors[name], marker=_marker(steps), markersize=3)
    axis.set_ylim(0, 1.05)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axis.set_ylabel("fibers / original units")
    if len(whole) <= MANY:
        entries = [(f"{name} ({units:.0f})", colors[name]) for name, (_, units) in whole.items()]
    else:
        kinds = sorted({kind for kind, _ in whole.values()})
        members = {kind: [name for name in whole if whole[name][0] == kind] for kind in kinds}
        entries = [(f"{kind} ({len(names)} spaces)", colors[names[0]]) for kind, names in members.items()]
    handles = [Line2D([], [], color=color, label=label) for label, color in entries]
    handles += [Line2D([], [], color=MARK, linestyle=LINES[run], label=f"{run} run") for run in histories]
    legend_outside(axis, handles)


def draw_bars(axis: Axes, spaces: Mapping[str, SpaceFibers]) -> None:
    """Units and fibers of each space at the collapse, the largest where there are many."""
    shown = list(spaces)
    if len(shown) > BARS:
        shown = sorted(sorted(spaces, key=lambda name: -spaces[name].units)[:BARS], key=shown.index)
    place = np.arange(len(shown))
    units, fibers = ([getattr(spaces[name], key) for name in shown] for key in ("units", "fibers"))
    axis.barh(place, units, color="#d9dee7", label="units")
    axis.barh(place, fibers, height=0.5, color=PALETTE["collapsed"], label="fibers")
    axis.set_yticks(place, shown, fontsize=8)
    axis.invert_yaxis()
    which = f", the {len(shown)} largest of {len(spaces)} spaces" if len(shown) < len(spaces) else ""
    axis.set_xlabel(f"neurons at the collapse{which}")
    legend_outside(axis)


def draw_params(
    axis: Axes,
    histories: Mapping[str, FiberHistory],
    curves: Mapping[str, Curve],
    collapse: Moment | None,
    params: tuple[int, int] | None,
) -> None:
    """Parameters of each run's policy, and what a collapse at each checkpoint would leave of them."""
    for name, curve in curves.items():
        history = histories.get(name)
        known = history.params[np.isfinite(history.params)] if history else []
        count = known[-1] if len(known) else params[list(PALETTE).index(name)] if params else None
        if count is not None:
            start = collapse[1] if collapse and name == "collapsed" else 0.0
            ends = [start, float(curve.steps[-1])]
            axis.plot(ends, [count, count], color=PALETTE[name], linewidth=2, label=f"{name} policy")
        if history and np.isfinite(history.params_collapsed).any():
            steps = curve.steps_at(history.epochs)
            label = f"{name}, if collapsed there"
            style = f"{_marker(steps)}:"
            axis.plot(steps, history.params_collapsed, style, color=PALETTE[name], markersize=3, label=label)
    axis.set_ylim(0, None)
    axis.yaxis.set_major_formatter(FuncFormatter(short))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.set_ylabel("parameters")
    legend_outside(axis)


def mark_collapse(axis: Axes, collapse: Moment) -> None:
    """A vertical line where the policy was collapsed."""
    epoch, steps = collapse
    label = f"collapse at epoch {epoch}\n({short(steps)} agent steps)"
    axis.axvline(steps, color=MARK, linewidth=1.2, linestyle=(0, (4, 3)), label=label, zorder=0)


def short(value: float, _: Any = None) -> str:
    """
    >>> short(1_228_800), short(92_160), short(440), short(0.5)
    ('1.23M', '92.2k', '440', '0.5')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _colors(kinds: Mapping[str, str]) -> dict[str, Any]:
    """A color for each space; for each kind where there are many."""
    keys = list(kinds) if len(kinds) <= MANY else sorted(set(kinds.values()))
    palette = matplotlib.colormaps["tab10" if len(keys) <= 10 else "tab20"]
    color = {key: palette(i % palette.N) for i, key in enumerate(keys)}
    return {name: color[name if len(kinds) <= MANY else kind] for name, kind in kinds.items()}


def _marker(points: np.ndarray) -> str:
    return "o" if len(points) <= 40 else ""


def legend_outside(axis: Axes, handles: list | None = None) -> None:
    """A legend right of the panel."""
    handles = axis.get_legend_handles_labels()[0] if handles is None else handles
    look: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "borderaxespad": 0}
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), **look)


def tidy(axis: Axes) -> None:
    """A panel without a box, on a faint grid."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.7)
    axis.set_axisbelow(True)


def _epochs_on_top(axis: Axes, curves: Mapping[str, Curve]) -> None:
    """A second scale in epochs, where every run has as many steps an epoch."""
    rates = np.concatenate([curve.steps / np.maximum(curve.epochs, 1) for curve in curves.values()])
    rate = float(np.median(rates))
    if rate > 0 and np.allclose(rates, rate, rtol=0.02):
        scale: tuple[Any, Any] = (lambda steps: steps / rate, lambda epochs: epochs * rate)
        top = axis.secondary_xaxis("top", functions=scale)
        top.set_xlabel("epoch")
        top.xaxis.set_major_locator(MaxNLocator(integer=True))
        top.spines["top"].set_visible(False)
        top.tick_params(length=3)
