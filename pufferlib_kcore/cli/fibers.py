"""Fibers: color every checkpoint of a run, without touching it, on all cores."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pufferlib_kcore import graph
from pufferlib_kcore.analysis.fibers import FILE
from pufferlib_kcore.cli import progress, worker
from pufferlib_kcore.cli.collapse import source_run, thresholds_of
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import atomic, runs

Thresholds = float | dict[str, float]


def run(args: Args) -> int:
    """--mode fibers"""
    source = source_run(args)
    thresholds = thresholds_of(args)
    history = fibers_over_time(source, thresholds, show=True)
    print(table(history))
    print(f"wrote {source.path / FILE}")
    return 0


def fibers_over_time(
    source: runs.Run, thresholds: Thresholds, show: bool = False, processes: int | None = None
) -> dict[str, Any]:
    """Units, fibers and parameters at each checkpoint of a run; kept in the run's folder, and only extended.

    processes  that color; None: one a core

    -> {thresholds, epochs: [..], spaces: {name: {kind, units: [..], fibers: [..]}}, params, params_collapsed}
    """
    path = source.path / FILE
    known = {entry["epoch"]: entry for entry in _stored(path, thresholds)}
    wanted = [(epoch, str(file), thresholds) for epoch, file in source.checkpoints()]
    if not wanted:
        raise UserError(f"{source.path} has no checkpoint to color; train it first")
    missing = [job for job in wanted if job[0] not in known]
    for entry in _progress(_colored(missing, processes), len(missing), show):
        known[entry["epoch"]] = entry
    entries = [known[epoch] for epoch, *_ in wanted]
    names = entries[-1]["spaces"]
    history = {
        "thresholds": thresholds,
        "epochs": [entry["epoch"] for entry in entries],
        "spaces": {
            name: {
                "kind": names[name]["kind"],
                "units": [entry["spaces"][name]["units"] for entry in entries],
                "fibers": [entry["spaces"][name]["fibers"] for entry in entries],
            }
            for name in names
        },
        "params": [entry["params"] for entry in entries],
        "params_collapsed": [entry["params_collapsed"] for entry in entries],
    }
    atomic.write(path, json.dumps({**history, "entries": entries}).encode())
    return history


def color(job: tuple[int, str, Thresholds]) -> dict[str, Any]:
    """One checkpoint's fibers, as plain data."""
    epoch, path, thresholds = job
    restored = restore(path)
    result = graph.collapse(restored.policy, restored.example_inputs, thresholds)
    spaces = {
        name: {"kind": result.kinds[name], "units": len(labels), "fibers": int(labels.max()) + 1}
        for name, labels in result.fibers.items()
    }
    before, after = result.report.params_before, result.report.params_after
    return {"epoch": epoch, "spaces": spaces, "params": before, "params_collapsed": after}


def table(history: dict[str, Any]) -> str:
    """One line a checkpoint: `epoch=3 params=.. params_collapsed=.. <space>=fibers/units ...`"""
    lines = []
    for i, epoch in enumerate(history["epochs"]):
        spaces = " ".join(f"{name}={s['fibers'][i]}/{s['units'][i]}" for name, s in history["spaces"].items())
        size = f"params={history['params'][i]} params_collapsed={history['params_collapsed'][i]}"
        lines.append(f"epoch={epoch} {size} {spaces}")
    return "\n".join(lines)


def _stored(path: Path, thresholds: Thresholds) -> list[dict[str, Any]]:
    """What an earlier call found with the same thresholds."""
    try:
        stored = json.loads(path.read_text())
        return stored["entries"] if stored["thresholds"] == thresholds else []
    except (OSError, ValueError, KeyError):
        return []


def _colored(jobs: list, processes: int | None) -> Iterator[dict[str, Any]]:
    cores = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if cores <= 1:
        yield from map(color, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(cores, initializer=worker.start) as pool:
        yield from pool.imap_unordered(color, jobs)


def _progress(entries: Iterator, total: int, show: bool) -> Iterator:
    return progress.counted(entries, total, f"coloring {total} checkpoints") if show else entries
