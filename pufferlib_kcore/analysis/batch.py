"""Batch: the report of many runs, an original, what it was collapsed to, and controls of the same size."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.analysis import batch_figures, batch_tables, report
from pufferlib_kcore.analysis.fibers import FiberHistory
from pufferlib_kcore.analysis.groups import Entry, Group, Outcome, grouped
from pufferlib_kcore.analysis.tables import Cell, Table
from pufferlib_kcore.analysis.verdict import verdict
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

__all__ = ["Entry", "write"]

STYLE = """
body { max-width: 1240px; overflow-wrap: anywhere; }
li { margin: 0 0 .5rem; } ul { padding-left: 1.2rem; }
.scroll { margin: 0 0 1rem; }
.scroll img { display: block; width: auto; max-width: 100%; }
@media (max-width: 700px) { .scroll img { max-width: none; } }
td, th { white-space: nowrap; overflow-wrap: normal; }
.long { display: block; white-space: normal; min-width: 16rem; }
.failed { color: #a4161a; font-weight: 600; } .failed::before { content: "\\2717\\00a0"; }
.unfinished { color: #8a5a00; font-weight: 600; }
p.verdict { color: inherit; font-size: 1rem; }
"""
HOW = (
    "Final return: mean over the episodes that finished in the last tenth of a run's epochs. Each figure is "
    "the interquartile mean over n seeds [95% bootstrap interval]. Only runs that are done and have such "
    "episodes count. Higher and lower: the two intervals do not meet. That they overlap does "
    "not say that two policies are equal. Bootstrap intervals are too narrow for few seeds: on normal "
    "returns they hold the truth in 74% of the cases with 3 seeds, 90% with 5 and 94% with 100."
)
KL = (
    "KL: of the collapsed policy to the original on states that it was not fitted to, in nats, before it was "
    "trained on; where such states were recorded."
)
SETTINGS = (
    "A setting is the cosine distance up to which neurons of a kind merge, from 0 (only identical ones) to 2 "
    "(all). Names of runs have the same four numbers in this order: linear, cnn, lstm, critic."
)
CHANCE = (
    "Probability that a collapsed run ends higher than a run of the other kind, ties counted half, "
    "and two-sided p of the Mann-Whitney test."
)
ACROSS = (
    "Each experiment's seeds are resampled on their own. Change: interquartile mean over all runs of the "
    "difference to the original's final return, as a part of its size. The probability that a collapsed run "
    "ends higher: mean over the experiments."
)


def write(
    folder: Path,
    title: str,
    entries: Sequence[Entry],
    *,
    fibers: Mapping[str, Mapping] = {},  # noqa: B006 never edited
    sweeps: Mapping[str, Sequence[tuple[float, float]]] = {},  # noqa: B006
    about: Mapping[str, str | Mapping[str, Any]] = {},  # noqa: B006
    units: Mapping[str, Mapping[str, int]] = {},  # noqa: B006
) -> Path:
    """Write folder/index.html, which holds all it shows, and the same figures and tables as PNG and CSV.

    fibers: by run's name, what FiberHistory.of takes.  sweeps: by checkpoint, e.g. "t1, epoch 340",
    (threshold, part of the parameters kept).  about: command, machine, versions, for the foot of the page;
    what has parts is a table of its own.  units: by run's name, units of each space in the original.
    Returns the page's path.  Raises UserError where there is no entry, one is of a kind or status that is
    not known, or the disk refuses.
    """
    if not entries:
        raise UserError(f"a batch without runs has no report to write in {folder}; plan one run at least")
    folder = Path(folder)
    runs = [Outcome.of(entry) for entry in entries]
    groups = grouped(runs)
    histories = {name: FiberHistory.of(history) for name, history in fibers.items()}
    kinds = {entry.name: entry.kind for entry in entries}
    figures = {
        "returns": batch_figures.sheets("returns", batch_figures.returns(groups)),
        "sizes": batch_figures.sheets("sizes", batch_figures.sizes(groups)),
        "fibers": batch_figures.sheets("fibers", batch_figures.fibers(histories, kinds, units), 1, (9, 3)),
        "thresholds": batch_figures.sheets("thresholds", batch_figures.thresholds(sweeps), 1, (8, 4)),
        "costs": batch_figures.sheets("costs", batch_figures.costs(runs), 2),
    }
    tables = {
        "finals": Table(batch_tables.finals(groups)),
        "improvements": Table(batch_tables.improvements(groups)),
        "curves": Table(batch_tables.curves(groups)),
        "thresholds": Table(batch_tables.sweeps(sweeps)),
        "fibers": Table(batch_tables.fibers(histories)),
        "runs": Table(batch_tables.runs(runs)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another folder") from error
    for name, png in (item for sheet in figures.values() for item in sheet.items()):
        atomic.write(folder / name, png)
    for name, table in tables.items():
        if table:
            atomic.write(folder / f"{name}.csv", table.csv())
    written = {
        *(name for sheet in figures.values() for name in sheet),
        *(f"{n}.csv" for n, t in tables.items() if t),
    }
    for path in folder.iterdir():  # of a report that had more to show
        if path.suffix in (".png", ".csv") and path.name not in written:
            path.unlink()
    body = _body(title, runs, groups, figures, about, folder)
    return atomic.write(folder / "index.html", report.document(title, body, STYLE).encode())


# --- the page -----------------------------------------------------------------------------------


def _body(
    title: str,
    runs: Sequence[Outcome],
    groups: Sequence[Group],
    figures: Mapping[str, Mapping[str, bytes]],
    about: Mapping[str, str | Mapping[str, Any]],
    folder: Path,
) -> str:
    """All of the page in the order in which it is read: verdict, figures, runs."""

    def shown(heading: str, note: str, key: str | None, *tables: Table) -> Iterator[str]:
        pictures = figures[key] if key else {}
        tables = tuple(table for table in tables if table)
        if pictures or tables:
            yield f"<h2>{html.escape(heading)}</h2>"
            yield f"<p>{html.escape(note)}</p>" if note else ""
        for name, png in pictures.items():
            yield f'<div class="scroll">{report.image(png, f"{heading} ({name})")}</div>'
        for table in tables:
            yield f'<div class="scroll">\n{table._repr_html_()}</div>'

    parts = [f"<h1>{html.escape(title)}</h1>", *verdict(runs, groups)]
    if any("_" in group.setting for group in groups):
        parts.append(f"<p>{html.escape(SETTINGS)}</p>")
    how = f"{HOW} {KL}" if any(np.isfinite(group.kl) for group in groups) else HOW
    parts += shown("Final returns", how, None, batch_tables.final_table(groups))
    parts += shown("Collapsed against the others", CHANCE, None, batch_tables.improvement_table(groups))
    parts += shown("Across experiments", ACROSS, None, batch_tables.across(groups))
    note = "Interquartile mean over the seeds and its 95% band, at steps that all seeds reached. "
    parts += shown("Returns", note + "One scale for each experiment.", "returns")
    note = "Bars and band: 95% intervals over the seeds. "
    front = "The thin line is the best return at a size or below."
    parts += shown("Size and return", note + front, "sizes")
    note = "Each space's fibers as a part of the units that it has in the original."
    parts += shown("Fibers over time", note, "fibers")
    note = "What the checkpoint that was collapsed keeps of its parameters at one threshold for all kinds."
    parts += shown("Size and threshold", note, "thresholds")
    note = "Medians over the seeds in the table, every run in the figure."
    parts += shown("Time and memory", note, "costs", batch_tables.cost_table(groups))
    note = "Failed runs first. Final return and steps are as far as a run came."
    parts += shown("Runs", note, None, batch_tables.run_table(runs, folder))
    if about:
        facts = {name: text for name, text in about.items() if not isinstance(text, Mapping)}
        table = Table({"": name, " ": Cell(str(text), look="long")} for name, text in facts.items())
        parts += ["<h2>About</h2>", f'<div class="scroll">{table._repr_html_()}</div>' if facts else ""]
        for name, text in about.items():
            if isinstance(text, Mapping):
                lines = Table({name: part, " ": Cell(str(value))} for part, value in text.items() if value)
                parts.append(f'<div class="scroll">{lines._repr_html_()}</div>')
    return "\n".join(filter(None, parts))
