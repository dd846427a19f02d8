"""Interpolations: figures of the lines between children of forks, and of how stable these are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pufferlib_kcore.store import atomic
from pufferlib_kcore.store.forks import ForkFolder

Fork = Mapping[str, Any]  # as forks/instability_{id}.json has it
BAND = 1.96  # standard errors to either side
RETURN, ALPHA = "mean return", "alpha: 0 is child 1, 1 is child 2"


def draw(folder: ForkFolder, forks: Sequence[Fork], total_steps: int) -> list[Path]:
    """Write every figure into the experiment's fork_analysis/.  -> their paths"""
    folder.figures.mkdir(parents=True, exist_ok=True)
    title = "/".join(folder.results.parts[-4:])
    made = []
    for name, figure in figures(forks, folder.evaluations(), total_steps, title):
        made.append(save(figure, folder.figures / name))
    return made


def figures(
    forks: Sequence[Fork], evaluations: Sequence[Mapping[str, Any]], total_steps: int, title: str
) -> Iterator[tuple[str, Figure]]:
    """Each figure with the name of its file."""
    figure, (ax,) = panels(1, title)
    all_lines(ax, forks)
    yield "all_interpolations.png", figure
    for fork in forks:
        figure, (ax,) = panels(1, title)
        one_line(ax, fork)
        yield f"interp_fork_{fork['fork_id']}.png", figure
    figure, (ax,) = panels(1, title)
    over_time(ax, forks, total_steps)
    yield "instability_over_time.png", figure
    yield "overview.png", overview(forks, evaluations, total_steps, title)


def overview(
    forks: Sequence[Fork], evaluations: Sequence[Mapping[str, Any]], total_steps: int, title: str
) -> Figure:
    """Everything side by side: returns, all lines, barriers over time, and each line with its band."""
    figure, axes = panels(3 + len(forks), title)
    returns(axes[0], evaluations, forks, total_steps)
    all_lines(axes[1], forks)
    over_time(axes[2], forks, total_steps)
    for ax, fork in zip(axes[3:], forks, strict=True):
        one_line(ax, fork)
    return figure


def returns(
    ax: Axes, evaluations: Sequence[Mapping[str, Any]], forks: Sequence[Fork], total_steps: int
) -> None:
    """The trunk's over its steps, and where it was forked."""
    steps = [one["step"] for one in evaluations]
    ax.plot(steps, [one["mean_reward"] for one in evaluations], color="#2f5d9b", lw=1.2)
    for fork in forks:
        ax.axvline(step_of(fork, total_steps), color="#d1495b", lw=0.6, alpha=0.6)
    ax.set(title="the trunk's evaluations, and its forks", xlabel="steps", ylabel=RETURN)


def all_lines(ax: Axes, forks: Sequence[Fork]) -> None:
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, max(1, len(forks))))
    for fork, color in zip(forks, colors, strict=False):
        alphas, means, _ = columns(fork)
        ax.plot(alphas, means, color=color, lw=1.2, label=f"{fork['fork_point']:.0%}")
    ax.set(title="lines between the children of each fork", xlabel=ALPHA, ylabel=RETURN)
    if forks:
        ax.legend(title="forked at", fontsize=7, title_fontsize=7, ncols=2)


def one_line(ax: Axes, fork: Fork) -> None:
    """Means with 95% bands, and the chord below which a barrier is."""
    alphas, means, stds = columns(fork)
    error = BAND * stds / max(1, fork.get("episodes", 100)) ** 0.5
    ax.plot(alphas, means, color="#2f5d9b", lw=1.4, label="mean")
    ax.fill_between(alphas, means - error, means + error, color="#2f5d9b", alpha=0.2, lw=0, label="95% of it")
    ax.plot(alphas[[0, -1]], means[[0, -1]], color="#777777", lw=0.8, ls="--", label="chord")
    ax.set(
        title=f"fork {fork['fork_id']}, at {fork['fork_point']:.0%}{said(fork)}", xlabel=ALPHA, ylabel=RETURN
    )
    ax.legend(fontsize=7)


def over_time(ax: Axes, forks: Sequence[Fork], total_steps: int) -> None:
    """Barriers over the chord with their intervals; filled where the interval leaves 0."""
    steps = np.array([step_of(fork, total_steps) for fork in forks])
    value, low, high = (np.array([bounds(fork)[i] for fork in forks]) for i in range(3))
    ax.axhline(0, color="#777777", lw=0.8)
    if len(forks):
        off = np.abs(np.stack([value - low, high - value]))
        ax.errorbar(steps, value, off, color="#2f5d9b", lw=1, capsize=2, marker="o", mfc="white")
        ax.plot(steps[low > 0], value[low > 0], "o", color="#2f5d9b", zorder=3, label="its interval leaves 0")
        ax.plot(
            steps, [f["instability"] for f in forks], ":", color="#d1495b", lw=1, label="(R0 + R1)/2 - min"
        )
        ax.legend(fontsize=7)
    ax.set(title="barriers over time", xlabel="step of the fork", ylabel="barrier, in returns")


def line_figure(found: Fork, title: str) -> Figure:
    """One line alone, as compare has it."""
    figure, (ax,) = panels(1, title)
    one_line(ax, {"fork_id": "", "fork_point": 0, **found})
    ax.set_title(f"the line between them{said(found)}", fontsize=9)
    return figure


def columns(fork: Fork) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [[p["alpha"], p["mean_reward"], p["std_reward"]] for p in fork["interpolation"]]
    alphas, means, stds = np.array(rows, float).T
    return alphas, means, stds


def bounds(fork: Fork) -> tuple[float, float, float]:
    """A barrier's value and interval; in a file of the published program its instability, without one."""
    own = fork.get("barrier") or {"value": fork["instability"]}
    value = own["value"]
    low, high = own.get("low"), own.get("high")
    return value, value if low is None else low, value if high is None else high


def said(fork: Fork) -> str:
    if "barrier" not in fork:
        return ""
    value, low, high = bounds(fork)
    return f": barrier {value:.4g} [{low:.4g}, {high:.4g}]"


def step_of(fork: Fork, total_steps: int) -> float:
    return fork["fork_point"] * total_steps


def panels(n: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with so many places, at most three in a row."""
    wide = min(3, n)
    rows = -(-n // wide)
    figure = Figure(figsize=(1 + 4.4 * wide, 0.6 + 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, wide, squeeze=False).flat)
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[n:]:
        ax.set_axis_off()
    for ax in axes[:n]:
        ax.grid(alpha=0.2, lw=0.5)
    figure.suptitle(title, fontsize=9)
    return figure, axes[:n]


def save(figure: Figure, path: Path) -> Path:
    return atomic.write(path, png(figure))


def png(figure: Figure) -> bytes:
    for ax in figure.axes:
        for text, size in ((ax.title, 9), (ax.xaxis.label, 8), (ax.yaxis.label, 8)):
            text.set_fontsize(size)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def valley_figure(lines: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """The lines between a run, its collapse and what that became, side by side, on one scale."""
    figure, axes = panels(len(lines), title)
    tops = [columns(line) for line in lines]
    low = min((means - stds).min() for _, means, stds in tops)
    high = max((means + stds).max() for _, means, stds in tops)
    for ax, line in zip(axes, lines, strict=True):
        one_line(ax, {"fork_id": "", "fork_point": 0, **line})
        ax.set(title=f"{line['from']} to {line['to']}{said(line)}", ylim=(low, high))
        ax.set_xlabel(f"alpha: 0 is {line['from']}, 1 is {line['to']}")
    return figure
