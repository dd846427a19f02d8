"""Report: a run beside the run resumed from its collapse, as a figure and a page."""

from __future__ import annotations

from pufferlib_kcore import analysis
from pufferlib_kcore.cli.collapse import source_run, thresholds_of
from pufferlib_kcore.cli.fibers import fibers_over_time
from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import CollapseFolder, Run
from pufferlib_kcore.store.names import parse_collapse_folder


def run(args: Args) -> int:
    """--mode report"""
    named = source_run(args)
    original, collapsed = pair(named)
    folder = None if collapsed is None else CollapseFolder(collapsed.path.parent)
    thresholds = (folder and folder.thresholds) or thresholds_of(args)
    history = {"original": fibers_over_time(original, thresholds, show=True)}
    if collapsed is not None:
        history["collapsed"] = fibers_over_time(collapsed, thresholds, show=True)
    comparison = analysis.compare(original, collapsed, fiber_history=history)
    print(comparison)
    for path in (named.path / "report.png", named.path / "report.html"):
        (comparison.save_png if path.suffix == ".png" else comparison.save_html)(path)
        print(f"wrote {path}")
    return 0


def pair(named: Run) -> tuple[Run, Run | None]:
    """The original and the collapsed run: the named one's source, or its newest offspring."""
    if parse_collapse_folder(named.path.parent.name):
        return CollapseFolder(named.path.parent).source, named
    offspring = [run for folder in named.collapses() for run in folder.runs() if run.checkpoints()]
    newest = max(offspring, key=lambda run: run.latest()[1].stat().st_mtime_ns, default=None)
    return named, newest
