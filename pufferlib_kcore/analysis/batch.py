"""Batch: the report of many runs, an original, what it was collapsed to, and controls of the same size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.analysis import batch_figures, batch_tables, report
from pufferlib_kcore.analysis.groups import Entry, Group, Result, grouped
from pufferlib_kcore.analysis.tables import Table
from pufferlib_kcore.analysis.verdict import verdict
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import FiberHistory, atomic

__all__ = ["Entry", "write"]


def write(
    folder: Path,
    title: str,
    entries: Sequence[Entry],
    *,
    fibers: Mapping[str, FiberHistory] = {},  # noqa: B006 never edited
    sweeps: Mapping[str, Sequence[tuple[float, float]]] = {},  # noqa: B006
    about: Mapping[str, str | Mapping[str, Any]] = {},  # noqa: B006
    units: Mapping[str, Mapping[str, int]] = {},  # noqa: B006
) -> Path:
    """Write folder/index.html, which holds all it shows, and the same figures and tables as PNG and CSV.

    fibers: by run's name.  sweeps: by checkpoint, e.g. "t1, epoch 340",
    (threshold, part of the parameters kept).  about: command, machine, versions, for the foot of the page;
    what has parts is a table of its own.  units: by run's name, units of each space in the original.
    Returns the page's path.  Raises UserError where there is no entry, one is of a kind or status that is
    not known, or the disk refuses.
    """
    if not entries:
        raise UserError(f"a batch without runs has no report to write in {folder}; plan one run at least")
    folder = Path(folder)
    runs = [Result.of(entry) for entry in entries]
    groups = grouped(runs)
    kinds = {entry.name: entry.kind for entry in entries}
    figures = {
        "returns": batch_figures.sheets("returns", batch_figures.returns(groups)),
        "sizes": batch_figures.sheets("sizes", batch_figures.sizes(groups)),
        "fibers": batch_figures.sheets("fibers", batch_figures.fibers(fibers, kinds, units), 1, (9, 3)),
        "thresholds": batch_figures.sheets("thresholds", batch_figures.thresholds(sweeps), 1, (8, 4)),
        "costs": batch_figures.sheets("costs", batch_figures.costs(runs), 2),
    }
    tables = {
        "finals": batch_tables.finals(groups),
        "improvements": batch_tables.improvements(groups),
        "curves": batch_tables.curves(groups),
        "thresholds": batch_tables.sweeps(sweeps),
        "fibers": batch_tables.fibers(fibers),
        "runs": batch_tables.runs(runs),
    }
    files = {name: png for sheet in figures.values() for name, png in sheet.items()}
    files |= {f"{name}.csv": table.csv() for name, rows in tables.items() if (table := Table(rows))}
    files["index.html"] = page(title, runs, groups, figures, about, folder).encode()
    _replace(folder, files)
    return folder / "index.html"


def page(
    title: str,
    runs: Sequence[Result],
    groups: Sequence[Group],
    figures: Mapping[str, Mapping[str, bytes]],
    about: Mapping[str, str | Mapping[str, Any]],
    folder: Path,
) -> str:
    """The page as text.  figures: files of PNG by what they show"""
    return report.render(
        "batch.html",
        title=title,
        **verdict(runs, groups),
        by_kinds=any("_" in group.setting for group in groups),
        has_kl=any(np.isfinite(group.kl) for group in groups),
        figures=figures,
        tables={
            "finals": batch_tables.final_table(groups),
            "improvements": batch_tables.improvement_table(groups),
            "across": batch_tables.across(groups),
            "costs": batch_tables.cost_table(groups),
            "runs": batch_tables.run_table(runs, folder),
        },
        about=batch_tables.about(about),
    )


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, the last one last, and remove figures and tables of a report that had more to show."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    for name, content in files.items():
        atomic.write(folder / name, content)
    for path in folder.iterdir():
        if path.suffix in (".png", ".csv") and path.name not in files:
            path.unlink()
