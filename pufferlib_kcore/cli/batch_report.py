"""Batch report: gathers what the runs of a batch left, and has a page made of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pufferlib_kcore import graph, store
from pufferlib_kcore.analysis import batch as pages
from pufferlib_kcore.analysis.groups import Entry
from pufferlib_kcore.cli.fibers import fibers_over_time
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import Restored, restore
from pufferlib_kcore.settings.sections import KINDS
from pufferlib_kcore.store import metta

if TYPE_CHECKING:
    from pufferlib_kcore.cli.batch import Task

SWEEP = [round(0.1 * i, 1) for i in range(1, 16)] + [2.0]  # thresholds
BATCHES = (1, 64)  # observations in one forward pass


def write(folder: Path, tasks: Sequence[Task], failed: dict[str, str], command: str) -> str:
    """Make folder/report.  -> a line a run, what failed last, and where the page is

    failed  run -> why; those whose files turn out to be damaged are added
    """
    # one run a policy is measured, so that nothing is measured twice
    first = {(t.exp, t.epoch, t.kind, t.setting): t for t in reversed(tasks) if t.folder.checkpoints()}
    costs: dict[Any, dict[str, Any]] = {}
    histories: dict[str, dict[str, Any]] = {}
    for key, t in first.items():
        try:
            costs[key] = cost(restore(t.folder.latest()[1]))
            if t.kind in ("original", "collapsed"):
                histories[t.name] = history(t)
        except UserError as error:  # a damaged file is its run's failure, and no other's
            failed[t.name] = str(error)
    entries = [
        entry(t, failed.get(t.name, ""), folder / "logs", costs.get((t.exp, t.epoch, t.kind, t.setting), {}))
        for t in tasks
    ]
    sweeps = {
        f"{exp}, epoch {epoch}": sweep(t.folder.root, exp, epoch)
        for (exp, epoch), t in {(t.exp, t.epoch): t for t in tasks}.items()
    }
    about = store.provenance()
    foot = {"command": command, "machine": str(about["machine"]), "versions": str(about["versions"])}
    title = f"{', '.join(dict.fromkeys(t.exp for t in tasks))}: collapsed, and its controls"
    page = pages.write(folder / "report", title, entries, fibers=histories, sweeps=sweeps, about=foot)
    return table(entries) + f"\nwrote {page}"


def entry(task: Task, message: str, logs: Path, cost: Mapping[str, Any]) -> Entry:
    """What is known of one run."""
    from pufferlib_kcore.cli.batch import recalled

    used, log = recalled(logs / f"{task.name}.json"), logs / f"{task.name}.log"
    try:
        collapse = task.folder.config().get("collapse") or {}
    except UserError as error:
        collapse, message = {}, str(error)
    status = "failed" if message else "done" if task.is_done() else "unfinished"
    return Entry(
        name=task.name,
        exp=task.exp,
        epoch=task.epoch,
        kind=task.kind,
        setting=store.names.metta_setting(task.setting),
        seed=0 if task.seed is None else task.seed,
        path=task.folder.path,
        status=status,
        message=message,
        log=log if log.is_file() else None,
        params=collapse.get("params_after"),
        params_original=collapse.get("params_before"),
        seconds=used.get("seconds"),
        peak_bytes=used.get("peak_bytes"),
        **cost,
    )


def cost(restored: Restored) -> dict[str, Any]:
    """Seconds of one forward pass on one core, the median of many, and the bytes of the weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        latency = {}
        for count in BATCHES:
            inputs, seconds = restored.examples(count), []
            with torch.inference_mode():
                for _ in range(30):
                    began = time.perf_counter()
                    restored.policy(*inputs)
                    seconds.append(time.perf_counter() - began)
            latency[count] = statistics.median(seconds)
    finally:
        torch.set_num_threads(threads)
    weights = sum(p.numel() * p.element_size() for p in restored.policy.parameters())
    return {"latency": latency, "weights_bytes": weights}


def history(task: Task) -> dict[str, Any]:
    """Fibers of each space over the run's checkpoints, at its own thresholds, else at 0.3."""
    thresholds = dict(zip(KINDS, task.setting, strict=True)) if len(task.setting) == 4 else 0.3
    return fibers_over_time(task.folder, thresholds, processes=1)  # to start more takes longer than that


def sweep(root: Path, exp: str, epoch: int) -> list[tuple[float, float]]:
    """(threshold of all kinds, part of the parameters that stays); nothing of a checkpoint that is damaged"""
    try:
        restored = restore(metta.find(root, exp).model_path(epoch))
        reports = [graph.collapse(restored.policy, restored.example_inputs, t).report for t in SWEEP]
    except UserError:
        return []
    return [(t, r.params_after / r.params_before) for t, r in zip(SWEEP, reports, strict=True)]


def table(entries: Sequence[Entry]) -> str:
    """One line a run, those that failed at the end, where they are seen."""
    lines = []
    for e in sorted(entries, key=lambda e: e.status != "done"):
        size = "" if not e.params or not e.params_original else f"{e.params / e.params_original:.1%} kept"
        lines.append(f"{e.status:<10} {e.name}  {size} {e.message}".rstrip())
    return "\n".join(lines)
