"""Comparing: a run beside the run resumed from its collapse, as a figure and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pufferlib_kcore import analysis
from pufferlib_kcore.jobs.fibers import FibersRequest, Thresholds, fibers_over_time
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.store import CollapseFolder, Run
from pufferlib_kcore.store.names import parse_collapse_folder


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Which run to set beside the one that it was collapsed into, or from."""

    run: Run
    thresholds: Thresholds = 0.3  # of the fibers over time, where the collapse has none of its own


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A comparison, and the files in the run's folder that show it."""

    comparison: analysis.Comparison
    png: Path
    html: Path


def report(request: ReportRequest, watch: Watch = unwatched) -> Reported:
    """Compare a run with its collapsed run.  Raises UserError where there is no checkpoint to color."""
    original, collapsed = pair(request.run)
    folder = None if collapsed is None else CollapseFolder(collapsed.path.parent)
    thresholds = (folder and folder.thresholds) or request.thresholds
    history = {"original": fibers_over_time(FibersRequest(run=original, thresholds=thresholds), watch)}
    if collapsed is not None:
        history["collapsed"] = fibers_over_time(FibersRequest(run=collapsed, thresholds=thresholds), watch)
    comparison = analysis.compare(original, collapsed, fiber_history=history)
    png, html = request.run.path / "report.png", request.run.path / "report.html"
    comparison.save_png(png)
    comparison.save_html(html)
    return Reported(comparison=comparison, png=png, html=html)


def pair(named: Run) -> tuple[Run, Run | None]:
    """The original and the collapsed run: the named one's source, or its newest offspring."""
    if parse_collapse_folder(named.path.parent.name):
        return CollapseFolder(named.path.parent).source, named
    offspring = [run for folder in named.collapses() for run in folder.runs() if run.checkpoints()]
    newest = max(offspring, key=lambda run: run.latest()[1].stat().st_mtime_ns, default=None)
    return named, newest
