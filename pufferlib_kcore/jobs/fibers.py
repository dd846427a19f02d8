"""Fibers: color every checkpoint of a run, without touching it, on all cores."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pufferlib_kcore import graph
from pufferlib_kcore.analysis.fibers import FILE
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import stored, worker
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.store import atomic, checkpoints, runs

Thresholds = float | dict[str, float]
WORTH = 10.0  # seconds of coloring for which workers, who take some to start, are worth it


def fibers_over_time(
    source: runs.Run, thresholds: Thresholds, watch: Watch = unwatched, processes: int | None = None
) -> dict[str, Any]:
    """Units, fibers and parameters at each checkpoint of a run; kept in its folder, and up to date.

    processes  that color; None: one a core

    -> {thresholds, epochs: [..], spaces: {name: {kind, units: [..], fibers: [..]}}, params, params_collapsed}
    """
    path = source.path / FILE
    files = dict(source.checkpoints())
    if not files:
        raise UserError(f"{source.path} has no checkpoint to color; train it first")
    digests = {epoch: checkpoints.digest(file) for epoch, file in files.items()}
    known = {
        entry["epoch"]: entry
        for entry in _stored(path, thresholds)
        if entry["digest"] == digests.get(entry["epoch"])
    }
    missing = [(epoch, str(file), thresholds) for epoch, file in files.items() if epoch not in known]
    for entry in counted(
        _colored(missing, processes), len(missing), f"coloring {len(missing)} checkpoints", watch
    ):
        known[entry["epoch"]] = entry | {"digest": digests[entry["epoch"]]}
    entries = [known[epoch] for epoch in files]
    names = entries[-1]["spaces"]
    for entry in entries:
        stored.check_origin(entry["env"], source, files[entry["epoch"]])
    for entry in entries:
        if entry["spaces"].keys() != names.keys():
            last = files[entries[-1]["epoch"]].name
            file = files[entry["epoch"]]
            raise UserError(f"{file} is of another architecture than {last}: move one of them away")
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
    sizes = {"params": result.report.params_before, "params_collapsed": result.report.params_after}
    return {"epoch": epoch, "env": stored.trained_on(restored.file), "spaces": spaces, **sizes}


def table(history: dict[str, Any]) -> str:
    """One line a checkpoint: `epoch=3 params=.. params_collapsed=.. <space>=fibers/units ...`"""
    lines = []
    for i, epoch in enumerate(history["epochs"]):
        spaces = " ".join(f"{name}={s['fibers'][i]}/{s['units'][i]}" for name, s in history["spaces"].items())
        size = f"params={history['params'][i]} params_collapsed={history['params_collapsed'][i]}"
        lines.append(f"epoch={epoch} {size} {spaces}")
    return "\n".join(lines)


def _stored(path: Path, thresholds: Thresholds) -> list[dict[str, Any]]:
    """What an earlier call found with the same thresholds, as far as its file is whole."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    if not isinstance(found, dict) or found.get("thresholds") != thresholds:
        return []
    entries = found.get("entries")
    return [entry for entry in entries if _is_entry(entry)] if isinstance(entries, list) else []


def _is_entry(entry: Any) -> bool:
    """Whether it is what `fibers_over_time` keeps of a checkpoint."""
    keys = {"epoch", "digest", "env", "spaces", "params", "params_collapsed"}
    if not isinstance(entry, dict) or not keys <= entry.keys() or not isinstance(entry["spaces"], dict):
        return False
    return all(
        isinstance(space, dict) and {"kind", "units", "fibers"} <= space.keys()
        for space in entry["spaces"].values()
    )


def _colored(jobs: list, processes: int | None) -> Iterator[dict[str, Any]]:
    """The first job is done here; the rest in workers, where by its time they are worth their start."""
    if not jobs:
        return
    started, rest = time.monotonic(), jobs[1:]
    first = color(jobs[0])
    left = len(rest) * (time.monotonic() - started)
    yield first
    cores = min(processes or len(os.sched_getaffinity(0)), len(rest))
    if cores <= 1 or left < WORTH:
        yield from map(color, rest)
        return
    with multiprocessing.get_context("spawn").Pool(cores, initializer=worker.start) as pool:
        yield from pool.imap_unordered(color, rest)
