"""Figures of a batch: returns, sizes, fibers, thresholds and costs, in panels; many fill several files."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pufferlib_kcore.analysis import figures, intervals
from pufferlib_kcore.analysis.curves import Curve
from pufferlib_kcore.analysis.figures import PALETTE
from pufferlib_kcore.analysis.groups import RUN_KINDS, Group, Result, told
from pufferlib_kcore.analysis.intervals import Estimate
from pufferlib_kcore.store import FiberHistory

LINES: dict[str, Any] = {
    "original": "-",
    "collapsed": "-",
    "ablated": (0, (4, 1.5)),
    "scratch": (0, (1, 1)),
    "scratch-full": (0, (5, 1, 1, 1)),
}
MARKERS = {"original": "s", "collapsed": "o", "ablated": "^", "scratch": "D", "scratch-full": "v"}
# Hollow and of several sizes, so that markers at one place can be told apart
SIZES = {"original": 4.0, "collapsed": 5.0, "ablated": 7.5, "scratch": 6.5, "scratch-full": 9.0}
POINTS = 100  # of a curve over common steps
FULL = 18  # panels in one file
DPI = 110

Panel = tuple[str, Callable[[Axes], None]]  # title, what draws it


def sheets(stem: str, panels: Sequence[Panel], columns: int = 3, size=(4.3, 3.0)) -> dict[str, bytes]:
    """PNGs by file name: <stem>.png with all panels; where they are many, <stem>_1.png, <stem>_2.png ..."""
    parts = [panels[start : start + FULL] for start in range(0, len(panels), FULL)]
    names = [f"{stem}.png"] if len(parts) == 1 else [f"{stem}_{i + 1}.png" for i in range(len(parts))]
    return {name: _png(_sheet(part, columns, size)) for name, part in zip(names, parts, strict=True)}


def _sheet(panels: Sequence[Panel], columns: int, size: tuple[float, float]) -> Figure:
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(size[0] * columns, 6.5), size[1] * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, draw) in zip(axes, panels, strict=False):
        axis.set_title(title, fontsize=9, loc="left")
        draw(axis)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(8.5)
        axis.yaxis.label.set_size(8.5)
        figures.tidy(axis)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}  # one legend for what several panels share
    for axis in axes[: len(panels)]:
        if axis.get_legend() is None:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
    if handles:
        place: dict[str, Any] = {"loc": "outside upper left", "ncols": 5, "frameon": False, "fontsize": 9}
        figure.legend(list(handles.values()), list(handles), **place)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


# --- returns over agent steps -------------------------------------------------------------------


def returns(groups: Sequence[Group]) -> list[Panel]:
    """A panel a group: interquartile mean over the seeds of each kind, with its 95% band."""
    drawn = [(group, {kind: common(_curves(group, kind)) for kind in RUN_KINDS}) for group in groups]
    spans: dict[str, list[float]] = {}  # one scale for an experiment's panels
    for group, kinds in drawn:
        for steps, *lines in kinds.values():
            if len(steps):
                shown = np.concatenate(lines)
                spans.setdefault(group.exp, []).extend((np.nanmin(shown), np.nanmax(shown)))

    def panel(group: Group, kinds: Mapping[str, tuple]) -> Panel:
        def draw(axis: Axes) -> None:
            for kind, (steps, middle, low, high) in kinds.items():
                if len(steps):
                    width = 2.2 if kind == "collapsed" else 1.6
                    style: dict[str, Any] = {"color": PALETTE[kind], "linestyle": LINES[kind]}
                    style["marker"] = "o" if len(steps) == 1 else ""
                    axis.plot(steps, middle, label=kind, linewidth=width, **style)
                    axis.fill_between(steps, low, high, color=PALETTE[kind], alpha=0.18, linewidth=0)
            if spans.get(group.exp):
                lowest, highest = min(spans[group.exp]), max(spans[group.exp])
                margin = 0.05 * (highest - lowest) or 1.0
                axis.set_ylim(lowest - margin, highest + margin)
            if not any(len(steps) for steps, *_ in kinds.values()):
                _empty(axis, "no run is done with an episode finished")
            axis.xaxis.set_major_formatter(FuncFormatter(figures.short))
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.set(xlabel="agent steps", ylabel="episode return")

        seeds = {kind: len(_curves(group, kind)) for kind in RUN_KINDS}
        counts = sorted(set(filter(None, seeds.values())))
        many = (
            f" ({' to '.join(map(str, (counts[0], counts[-1])[: len(counts)]))} seed{'s' * (counts[-1] > 1)})"
            if counts
            else ""
        )
        return f"{group.place}{many}\n{told(group.setting) or 'original alone'}", draw

    return [panel(*each) for each in drawn]


def common(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Smoothed returns of several seeds at steps that all reached: steps, middle, low, high, (n,) each.

    Empty where no curve has a return, or the curves have no steps in common.
    """
    lines = []
    for curve in curves:
        smooth = curve.smoothed()
        there = np.isfinite(smooth)
        if there.any():
            lines.append((curve.steps[there], smooth[there]))
    empty = np.empty(0)
    if not lines:
        return empty, empty, empty, empty
    start, end = max(steps[0] for steps, _ in lines), min(steps[-1] for steps, _ in lines)
    if start > end:
        return empty, empty, empty, empty
    steps = np.linspace(start, end, POINTS if end > start else 1)
    values = np.stack([np.interp(steps, *line) for line in lines])
    return steps, *intervals.band(values)


def _curves(group: Group, kind: str) -> list[Curve]:
    return [run.curve for run in group.counted(kind) if run.curve]


# --- size against final return ------------------------------------------------------------------


def sizes(groups: Sequence[Group]) -> list[Panel]:
    """A panel an experiment and epoch: final return over the part of the parameters kept."""
    places: dict[str, list[Group]] = {}
    for group in groups:
        if np.isfinite([group.kept(kind) for kind in RUN_KINDS[1:]]).any():
            places.setdefault(group.place, []).append(group)
    return [(place, partial(_draw_sizes, groups=found)) for place, found in places.items()]


def _draw_sizes(axis: Axes, groups: Sequence[Group]) -> None:
    original = groups[0].final["original"]
    if original.seeds:
        axis.axhline(original.value, color=PALETTE["original"], linewidth=1.6, label="original")
        if original.bounded:
            axis.axhspan(original.low, original.high, color=PALETTE["original"], alpha=0.15, linewidth=0)
    everything = []
    look: dict[str, Any]
    for kind in RUN_KINDS[1:]:
        points = [(group.kept(kind), group.final[kind]) for group in groups]
        points = [(kept, final) for kept, final in points if final.seeds and np.isfinite(kept)]
        if points:
            x = np.array([kept for kept, _ in points])
            look = {"color": PALETTE[kind], "markersize": SIZES[kind], "capsize": 2.5, "linestyle": ""}
            look |= {"markerfacecolor": "none", "markeredgewidth": 1.4, "alpha": 0.9}
            y, errors = _with_errors([final for _, final in points])
            axis.errorbar(x, y, errors, marker=MARKERS[kind], label=kind, **look)
            everything += [(kept, final.value) for kept, final in points]
    best = front(everything)
    if len(best) > 1:
        look = {"color": "#222222", "linewidth": 0.8, "zorder": 0, "label": "best up to a size"}
        axis.step(*zip(*best, strict=True), where="post", **look)
    log_ticks(axis, "x", lambda part, _: f"{part:.3g}%", scale=100)
    axis.set(xlabel="parameters kept", ylabel="final return")


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (size, return) that no other one of at most that size reaches, by size."""
    kept: list[tuple[float, float]] = []
    for size, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or value > kept[-1][1]:
            kept.append((size, value))
    return kept


def _with_errors(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) values, (2, n) distances to the ends of their intervals, 0 where there is none."""
    values = np.array([estimate.value for estimate in estimates])
    ends = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
    return values, np.maximum(np.nan_to_num(ends), 0)  # a percentile interval may miss its own value


# --- fibers, thresholds -------------------------------------------------------------------------


def fibers(
    histories: Mapping[str, FiberHistory],
    kinds: Mapping[str, str],
    units: Mapping[str, Mapping[str, int]],
) -> list[Panel]:
    """A panel a run: fibers of each space over its checkpoints.

    kinds: of the runs, else original.  units: of each space in the run's original, where known.
    """

    def panel(name: str, history: FiberHistory) -> Panel:
        def draw(axis: Axes) -> None:
            figures.draw_fibers(axis, {kinds.get(name, "original"): history}, {}, units.get(name, {}))
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axis.set_xlabel("epoch")

        return name, draw

    return [panel(name, history) for name, history in histories.items() if len(history.epochs)]


def thresholds(sweeps: Mapping[str, Sequence[tuple[float, float]]]) -> list[Panel]:
    """One panel: what each threshold leaves of the parameters, a line a checkpoint."""
    sweeps = {name: sorted(points) for name, points in sweeps.items() if points}
    palette = matplotlib.colormaps["tab10" if len(sweeps) <= 10 else "tab20"]

    def draw(axis: Axes) -> None:
        for i, (name, points) in enumerate(sweeps.items()):
            color, dash = palette(i % palette.N), ("-", "--", ":", "-.")[i // palette.N % 4]
            axis.plot(*zip(*points, strict=True), dash, color=color, marker="o", markersize=3, label=name)
        axis.set_ylim(0, 1.05)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{part:.0%}"))
        axis.set(xlabel="threshold (cosine distance)", ylabel="parameters kept")
        figures.legend_outside(axis)

    return [("Parameters kept by threshold", draw)] if sweeps else []


# --- time and memory ----------------------------------------------------------------------------


def costs(runs: Sequence[Result]) -> list[Panel]:
    """Time and memory of training, time of one forward and size of the weights, over the parameters."""
    entries = [run.entry for run in runs if run.entry.params]
    measures = {
        "Training, wall time": ("seconds", "minutes", 60.0),
        "Training, peak memory": ("peak_bytes", "GiB", 2.0**30),
        "Weights": ("weights_bytes", "MiB", 2.0**20),
    }

    def panel(title: str, measure: str, unit: str, size: float) -> Panel | None:
        points: dict[str, list] = {kind: [] for kind in RUN_KINDS}
        for entry in entries:
            if getattr(entry, measure) is not None:
                points[entry.kind].append((entry.params, getattr(entry, measure) / size))
        return (title, partial(_draw_costs, points=points, unit=unit)) if any(points.values()) else None

    panels = [panel(title, *measure) for title, measure in measures.items()]
    if any(entry.latency for entry in entries):
        times = {
            batch: [(e.params, e.latency[batch] * 1e3) for e in entries if batch in e.latency]
            for batch in sorted({batch for entry in entries for batch in entry.latency})
        }
        panels.append(("Inference, one forward", partial(_draw_latency, times=times)))
    return [each for each in panels if each]


def _draw_costs(axis: Axes, points: Mapping[str, Sequence[tuple]], unit: str) -> None:
    for kind, known in points.items():
        if known:
            look: dict[str, Any] = {"color": PALETTE[kind], "markersize": SIZES[kind], "linestyle": ""}
            look |= {"markerfacecolor": "none", "markeredgewidth": 1.3, "alpha": 0.8}
            axis.plot(*np.array(known).T, marker=MARKERS[kind], label=kind, **look)
    axis.set_ylim(0, 1.1 * max(cost for known in points.values() for _, cost in known) or 1)
    log_ticks(axis, "x", figures.short)
    axis.set(xlabel="parameters", ylabel=unit)


def _draw_latency(axis: Axes, times: Mapping[int, Sequence[tuple]]) -> None:
    """A line a batch size, through the median of the policies of a size."""
    shades = matplotlib.colormaps["viridis"](np.linspace(0.15, 0.8, len(times)))
    for color, (batch, points) in zip(shades, times.items(), strict=True):
        x = sorted({size for size, _ in points})
        y = [np.median([time for size, time in points if size == one]) for one in x]
        axis.plot(x, y, "o-", color=color, markersize=4, label=f"batch {batch:,}")
    log_ticks(axis, "x", figures.short)
    log_ticks(axis, "y", figures.short)
    axis.set(xlabel="parameters", ylabel="milliseconds")
    figures.legend_outside(axis)


def log_ticks(axis: Axes, which: str, show: Callable[[float, Any], str], scale: float = 1.0) -> None:
    """Make the axis 'x' or 'y' logarithmic, with numbers on it however narrow it is."""
    axis.set(**{f"{which}scale": "log"})
    side = {"x": axis.xaxis, "y": axis.yaxis}[which]
    low, high = side.get_view_interval()
    if high / low > 4:
        side.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    else:
        side.set_major_locator(MaxNLocator(4))
    side.set_major_formatter(FuncFormatter(lambda x, _: show(x * scale, None)))
    side.set_minor_formatter(NullFormatter())


def _empty(axis: Axes, words: str) -> None:
    middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes, "fontsize": 9}
    axis.text(0.5, 0.5, words, color=figures.MARK, **middle)
    axis.set_yticks([])
