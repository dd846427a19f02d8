"""Tables of a batch: what each kind ends at, against each other, what it costs, and the runs one by one."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from pufferlib_kcore.analysis import batch_figures, intervals
from pufferlib_kcore.analysis.groups import CONTROLS, RUN_KINDS, STATUSES, Entry, Group, Result, median, told
from pufferlib_kcore.analysis.intervals import Estimate
from pufferlib_kcore.analysis.tables import Cell, Table
from pufferlib_kcore.analysis.verdict import probability, standing
from pufferlib_kcore.store import FiberHistory

# --- for people ---------------------------------------------------------------------------------


def final_table(groups: Sequence[Group]) -> Table:
    """A line a group: what each kind ends at."""
    rows = Table()
    for group in groups:
        row: dict[str, Any] = {**_where(group), "kept": _percent(group.kept("collapsed"))}
        row["KL"] = None if np.isnan(group.kl) else f"{group.kl:.2g}"
        for kind in RUN_KINDS:
            final, planned = group.final[kind], len(group.runs.get(kind, ()))
            if planned:
                seeds = f"{final.seeds} of {planned}" if final.seeds < planned else f"{final.seeds}"
                row[kind] = f"{final}, n={seeds}" if final.seeds else f"n={seeds}"
        rows.append(row)
    return rows.only(["experiment", "epoch", "setting", "kept", "KL", *RUN_KINDS])


def improvement_table(groups: Sequence[Group]) -> Table:
    """A line a group: the collapsed runs against each other kind."""
    rows = Table()
    for group in groups:
        row = _where(group)
        for kind in CONTROLS:
            if group.improvement[kind].seeds:
                chance = f"{probability(group.improvement[kind])}, p={group.p_value(kind):.2g}"
                row[f"over {kind}"] = f"{chance}: {standing(group, kind)}"
        if len(row) > 3:
            rows.append(row)
    return rows.only(["experiment", "epoch", "setting", *(f"over {kind}" for kind in CONTROLS)])


def across(groups: Sequence[Group]) -> Table:
    """A line an epoch and setting that several experiments share."""
    rows = Table()
    for epoch, setting in dict.fromkeys((group.epoch, group.setting) for group in groups if group.setting):
        same = [group for group in groups if (group.epoch, group.setting) == (epoch, setting)]
        row: dict[str, Any] = {"epoch": Cell(str(epoch)), "setting": told(setting)}
        for kind in RUN_KINDS[1:]:
            pairs = [(group.finals(kind), group.finals("original")) for group in same]
            pairs = [(x, y) for x, y in pairs if len(x) and len(y)]
            if len(pairs) > 1:
                samples, bases = zip(*pairs, strict=True)
                row[f"{kind}, change"] = _percents(intervals.change(samples, bases))
                row["experiments"] = max(row.get("experiments", 0), len(pairs))
        for kind in CONTROLS:
            pairs = [(group.finals("collapsed"), group.finals(kind)) for group in same]
            pairs = [(x, y) for x, y in pairs if len(x) and len(y)]
            if len(pairs) > 1:
                row[f"collapsed over {kind}"] = probability(intervals.improvement(*zip(*pairs, strict=True)))
        if "experiments" in row:
            rows.append(row)
    changes, chances = [f"{k}, change" for k in RUN_KINDS[1:]], [f"collapsed over {k}" for k in CONTROLS]
    return rows.only(["epoch", "setting", "experiments", *changes, *chances])


def cost_table(groups: Sequence[Group]) -> Table:
    """A line a kind of policy: medians over its seeds."""
    rows = Table()
    seen = set()
    for group in groups:
        for kind in RUN_KINDS:
            setting = "" if kind == "original" else group.setting
            runs, key = group.runs.get(kind, ()), (group.place, kind, setting)
            if runs and key not in seen:
                rows.append({**_where(group), "setting": told(setting), "kind": kind, **_costs(runs)})
            seen.add(key)
    measured = rows.columns[4:]
    rows = Table(row for row in rows if any(not np.isnan(row.get(name, np.nan)) for name in measured[1:]))
    for row in rows:
        row |= {name: None if np.isnan(row.get(name, np.nan)) else row[name] for name in measured}
    return rows.only(["experiment", "epoch", "setting", "kind", *measured])


def _costs(runs: Sequence[Result]) -> dict[str, float]:
    entries = [run.entry for run in runs]
    batches = sorted({batch for entry in entries for batch in entry.latency})
    latency = {f"forward of {b:,}, ms": median(e.latency.get(b) for e in entries) * 1e3 for b in batches}
    return {
        "parameters": median(entry.params for entry in entries),
        "training, s": median(entry.seconds for entry in entries),
        "peak, MiB": median(entry.peak_bytes for entry in entries) / 2**20,
        "weights, MiB": median(entry.weights_bytes for entry in entries) / 2**20,
        **latency,
    }


def run_table(runs: Sequence[Result], folder: Path) -> Table:
    """A line a run, those that failed first."""
    rows = Table()
    for run in sorted(runs, key=lambda run: STATUSES.index(run.entry.status)):
        entry = run.entry
        rows.append(
            {
                "run": Cell(entry.name, _link(entry.path, folder)),
                "status": Cell(entry.status, look=entry.status),
                "message": Cell(entry.message, look="long") if entry.message else None,
                "kind": entry.kind,
                "seed": entry.seed,
                "parameters": entry.params,
                "final return": None if np.isnan(run.final) else run.final,
                "steps": run.steps,
                "seconds": entry.seconds,
                "peak, MiB": entry.peak_bytes / 2**20 if entry.peak_bytes is not None else None,
                "log": Cell(entry.log.name, _link(entry.log, folder)) if entry.log else None,
            }
        )
    return rows.only(rows.columns)


def about(facts: Mapping[str, str | Mapping[str, Any]]) -> list[Table]:
    """What is to be said of the batch: a table of all that is one text, and one of each that has parts."""
    plain = {name: text for name, text in facts.items() if not isinstance(text, Mapping)}
    tables = [Table({"": name, " ": Cell(str(text), look="long")} for name, text in plain.items())]
    for name, parts in facts.items():
        if isinstance(parts, Mapping):
            known = {part: value for part, value in parts.items() if value}
            tables.append(Table({name: part, " ": Cell(str(value))} for part, value in known.items()))
    return [table for table in tables if table]


def _where(group: Group) -> dict[str, Any]:
    return {"experiment": group.exp, "epoch": Cell(str(group.epoch)), "setting": told(group.setting)}


def _link(path: Path, folder: Path) -> str | None:
    """The way from the page to what lies at path, None where nothing does."""
    return quote(os.path.relpath(path, folder)) if path.exists() else None


def _percent(part: float) -> str | None:
    return f"{part:.1%}" if np.isfinite(part) else None


def _percents(part: Estimate) -> str:
    return f"{part.value:+.1%}" + (f" [{part.low:+.1%}, {part.high:+.1%}]" if part.bounded else "")


# --- for programs: rows of plain numbers --------------------------------------------------------


def finals(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for kind, final in group.final.items():
            if group.runs.get(kind):
                place = {"exp": group.exp, "epoch": group.epoch, "setting": group.setting, "kind": kind}
                size = {"params": group.params(kind), "kept": group.kept(kind)}
                size["kl"] = group.kl if kind == "collapsed" else float("nan")
                seeds = {"seeds": final.seeds, "planned": len(group.runs[kind])}
                yield {**place, **size, **seeds, "iqm": final.value, "low": final.low, "high": final.high}


def improvements(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for kind, chance in group.improvement.items():
            if chance.seeds:
                place = {"exp": group.exp, "epoch": group.epoch, "setting": group.setting, "over": kind}
                found = {"probability": chance.value, "low": chance.low, "high": chance.high}
                yield {**place, **found, "p": group.p_value(kind), "standing": standing(group, kind)}


def curves(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    for group in groups:
        for kind in RUN_KINDS:
            curves = [run.curve for run in group.counted(kind) if run.curve]
            place = {"exp": group.exp, "epoch": group.epoch, "setting": group.setting, "kind": kind}
            for steps, middle, low, high in np.stack(batch_figures.common(curves), axis=1).tolist():
                yield {**place, "agent_steps": steps, "iqm": middle, "low": low, "high": high}


def sweeps(sweeps: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[dict[str, Any]]:
    for checkpoint, points in sweeps.items():
        for threshold, kept in sorted(points):
            yield {"checkpoint": checkpoint, "threshold": threshold, "kept": kept}


def fibers(histories: Mapping[str, FiberHistory]) -> Iterator[dict[str, Any]]:
    for run, history in histories.items():
        for name, space in history.spaces.items():
            for epoch, units, found in zip(history.epochs, space.units, space.fibers, strict=True):
                where = {"run": run, "epoch": int(epoch), "space": name, "kind": space.kind}
                yield {**where, "units": units, "fibers": found}


def runs(runs: Sequence[Result]) -> Iterator[dict[str, Any]]:
    batches = sorted({batch for run in runs for batch in run.entry.latency})
    plain = [name for name in Entry.__dataclass_fields__ if name != "latency"]
    for run in runs:
        told = {name: getattr(run.entry, name) for name in plain}
        latency = {f"latency_{batch}": run.entry.latency.get(batch) for batch in batches}
        yield {**told, "final_return": run.final, "agent_steps": run.steps, **latency}
