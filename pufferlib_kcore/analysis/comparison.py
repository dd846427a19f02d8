"""Compare: a run and the run that was resumed from its collapse, as one figure, one table and one page."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pufferlib_kcore.analysis import figures, interpolations, report
from pufferlib_kcore.analysis.sources import Source, source
from pufferlib_kcore.analysis.tables import Table
from pufferlib_kcore.store import FiberHistory, FibersFile, Run, atomic, provenance
from pufferlib_kcore.text import readable

AnyRun = Run | Path | str


def compare(
    original: AnyRun,
    collapsed: AnyRun | None = None,
    *,
    fibers: FibersFile | str | Path | None = None,
    fiber_history: Mapping | None = None,
) -> "Comparison":
    """Put a run beside the run that was resumed from its collapse.

    original, collapsed: a Run, its folder, or a log (ours, metrics.jsonl, PufferLib 2.0's dashboard).
    fibers: fibers.pkl, or its path; found in the run's folder where left out.
    fiber_history: {"original": ..., "collapsed": ...}, each as FiberHistory.of takes it; where one is
        left out, fibers_over_time.json in its run's folder.
    Raises UserError where a file is missing, damaged or holds no record.
    """
    before, after = source(original), source(collapsed) if collapsed is not None else None
    if isinstance(fibers, (str, Path)):
        fibers = FibersFile.load(fibers)
    elif fibers is None and after is not None:
        fibers = after.fibers()
    histories = {}
    for name, run in (("original", before), ("collapsed", after)):
        history = (fiber_history or {}).get(name) or (run.history if run else None)
        if history:
            histories[name] = FiberHistory.of(history)
    return Comparison(before, after, fibers, histories)


@dataclass(frozen=True)
class Comparison:
    """A run and the run resumed from its collapse (None where there is none yet)."""

    original: Source
    collapsed: Source | None
    fibers: FibersFile | None  # of the collapse
    histories: dict[str, FiberHistory]  # "original", "collapsed": those that are known

    @property
    def collapse_epoch(self) -> int | None:
        """The epoch at which the policy was collapsed: as logged, or the last before the resumed run's."""
        if self.collapsed is None:
            return None
        told = self.fibers.epoch if self.fibers else self.collapsed.collapse_epoch
        return told if told is not None else int(self.collapsed.curve.epochs[0]) - 1

    @property
    def collapse_steps(self) -> float | None:
        """Agent steps that the original had taken by then."""
        epoch = self.collapse_epoch
        return None if epoch is None else float(self.original.curve.steps_at(epoch))

    @property
    def thresholds(self) -> Any:
        """Of the collapse: one, or one by kind; None where not known."""
        if self.fibers:
            return self.fibers.thresholds
        return self.collapsed.thresholds if self.collapsed else None

    @property
    def params(self) -> tuple[int, int] | None:
        """Parameters of the policy before and after the collapse, None where not known."""
        if self.collapsed is None:
            return None
        header = self.collapsed.header
        if {"params_before", "params_after"} <= header.keys():
            return header["params_before"], header["params_after"]
        if {"original", "collapsed"} <= self.histories.keys():
            before, after = (self.histories[name].params for name in ("original", "collapsed"))
            if np.isfinite(before).any() and np.isfinite(after).any():
                return int(np.nanmax(before)), int(np.nanmax(after))
        return None

    @property
    def title(self) -> str:
        """One line: the env, where and how it was collapsed, and the parameters."""
        parts = [self.original.env or self.original.name]
        if self.collapsed is not None:
            parts.append(f"collapsed at epoch {self.collapse_epoch}")
        if self.thresholds is not None:
            parts.append(f"threshold {_thresholds(self.thresholds)}")
        if self.params is not None:
            before, after = self.params
            parts.append(f"{readable(before)} → {readable(after)} parameters ({after / max(before, 1):.1%})")
        elif self.collapsed is None and self.original.params is not None:
            parts.append(f"{readable(self.original.params)} parameters")
        return ", ".join(parts)

    @cached_property
    def figure(self) -> Figure:
        """Returns of both runs over agent steps; below, fibers and parameters over time."""
        epoch, steps = self.collapse_epoch, self.collapse_steps
        return figures.comparison(
            {name: run.curve for name, run in self.runs()},
            title=self.title,
            collapse=None if epoch is None or steps is None else (epoch, steps),
            histories=self.histories,
            fibers=self.fibers,
            params=self.params,
        )

    @property
    def summary(self) -> Table:
        """Both runs in numbers: epochs, agent steps, returns at the end and at best, parameters, speed."""
        rows = Table()
        for (name, run), params in zip(self.runs(), self.params or (None, None), strict=False):
            params = run.params if params is None else params
            row: dict[str, Any] = {"run": name, "name": run.name}
            row["epochs"] = f"{run.curve.epochs[0]} to {run.curve.epochs[-1]}"
            row["agent steps"] = int(run.curve.steps[-1])
            row["final return"] = run.curve.final()
            row["best return"] = run.curve.best()
            row["parameters"] = params
            row["steps/s"] = run.sps
            rows.append(row)
        return rows

    @property
    def table(self) -> Table:
        """Each space of the collapse: units, fibers, parameters before and after, why it was left whole."""
        spaces = self.fibers.spaces if self.fibers else {}
        columns = ["kind", "units", "fibers", "params_before", "params_after", "reason"]
        rows = Table(
            {"space": name, **{key: getattr(space, key) for key in columns}} for name, space in spaces.items()
        )
        return rows.only(["space", *columns])

    @property
    def lines(self) -> Table:
        """Each line between the original, its collapse and what became of both: ends, distance, barrier."""
        rows = Table()
        for line in self.original.lines:
            b = line["barrier"]
            bounds = ", ".join("?" if b[key] is None else f"{b[key]:.4g}" for key in ("low", "high"))
            row: dict[str, Any] = {"from": line["from"], "to": line["to"]}
            row |= {"return from": line["fork1_reward"], "return to": line["fork2_reward"]}
            row |= {"weights apart": line["distance"], "barrier": f"{b['value']:.4g} [{bounds}]"}
            rows.append(row)
        return rows

    @property
    def provenance(self) -> Table:
        """Seed, commit, machine and versions of each run, as its config tells them, and of this report."""
        sources = {name: _facts(run.config) for name, run in self.runs()}
        sources["this report"] = _facts(provenance())
        facts = dict.fromkeys(fact for known in sources.values() for fact in known)
        table = Table({"": fact, **{name: sources[name].get(fact) for name in sources}} for fact in facts)
        return table.only(["", *sources])

    def runs(self) -> Iterator[tuple[str, Source]]:
        """("original", run) and, where there is one, ("collapsed", run)."""
        yield "original", self.original
        if self.collapsed is not None:
            yield "collapsed", self.collapsed

    def png(self, dpi: int = 120) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi)
        return buffer.getvalue()

    def save_png(self, path: str | Path, dpi: int = 120) -> Path:
        return atomic.write(path, self.png(dpi))

    def html(self) -> str:
        """One page that needs no other file and no network."""
        configs = {f"{name}: {run.name}": run.config for name, run in self.runs() if run.config}
        return report.render(
            "comparison.html",
            title=self.title,
            png=self.png(),
            summary=self.summary,
            spaces=self.table,
            lines=self.lines,
            lines_png=interpolations.png(interpolations.valley_figure(self.original.lines, self.title))
            if self.lines
            else None,
            forks_png=self.original.forks,
            provenance=self.provenance,
            configs={name: _plain(config) for name, config in configs.items()},
        )

    def save_html(self, path: str | Path) -> Path:
        return atomic.write(path, self.html().encode())

    def __str__(self) -> str:
        return "\n\n".join([self.title, *(str(table) for table in (self.summary, self.table) if table)])

    def _repr_png_(self) -> bytes:
        """How a notebook shows the comparison."""
        return self.png()


def _facts(config: Mapping[str, Any]) -> dict[str, str]:
    """What a run's config, or provenance(), says of its origin, by dotted name, as text."""
    facts: dict[str, str] = {}
    for name in ("seed", "time", "git_commit", "git_dirty", "machine", "versions"):
        value = config.get(name)
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        facts |= {f"{name} {part}".strip(): str(item) for part, item in parts if item is not None}
    return facts


def _plain(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, default=str, ensure_ascii=False)


def _thresholds(thresholds: Any) -> str:
    if isinstance(thresholds, Mapping):
        return " ".join(f"{kind} {value:g}" for kind, value in thresholds.items())
    return f"{thresholds:g}" if isinstance(thresholds, (int, float)) else str(thresholds)
