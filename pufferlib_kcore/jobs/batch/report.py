"""Report: gathers what the runs of a batch left, and has a page made of it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pufferlib_kcore import graph, store
from pufferlib_kcore.analysis import batch as pages
from pufferlib_kcore.analysis.batch_tables import final_table
from pufferlib_kcore.analysis.groups import Entry, Result, grouped
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.thresholds import sizes_of
from pufferlib_kcore.jobs.batch.task import Task
from pufferlib_kcore.jobs.batch.usage import recalled
from pufferlib_kcore.jobs.fibers import FibersRequest, fibers_over_time
from pufferlib_kcore.policies.restore import Restored, restore
from pufferlib_kcore.settings.sections import KINDS
from pufferlib_kcore.store import metta
from pufferlib_kcore.text import readable

SWEEP = [round(0.1 * i, 1) for i in range(1, 16)] + [2.0]  # thresholds
BATCHES = (1, 64)  # observations in one forward pass
WARM, ROUNDS, CALLS = 2, 8, 4  # forward passes untimed at each turn; turns of a policy; passes timed


@dataclass(frozen=True)
class Written:
    """What is said of a report that was made."""

    text: str  # what each kind comes to, a line a run, what failed last, where the page is
    failed: dict[str, str]  # run -> why; those whose files turned out to be damaged as well


def write(folder: Path, tasks: Sequence[Task], failed: Mapping[str, str], command: str) -> Written:
    """Make folder/report.

    failed  run -> why
    """
    found = measured(tasks)
    failed, logs = {**failed, **found.damaged}, folder / "logs"
    entries = [entry(t, failed.get(t.name, ""), logs, found.costs.get(_policy(t), {})) for t in tasks]
    runs = {e.exp: f"{e.exp} on {e.env}" if e.env else e.exp for e in entries}
    page = pages.write(
        folder / "report",
        f"{', '.join(runs.values())}: collapsed, and its controls",
        entries,
        fibers={t.name: found.histories[t.name] for t in tasks if t.name in found.histories},
        sweeps=found.sweeps,
        about=about(command),
        units=found.units,
    )
    return Written(f"{table(entries)}\nwrote {page}", failed)


@dataclass
class Measured:
    """What the checkpoints of a batch tell when they are looked at."""

    costs: dict[Any, dict[str, Any]] = field(default_factory=dict)  # by _policy: of one forward, and weights
    histories: dict[str, store.FiberHistory] = field(default_factory=dict)  # by run
    units: dict[str, dict[str, int]] = field(default_factory=dict)  # by run, of each space in the original
    sweeps: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # by checkpoint, see `sweep`
    damaged: dict[str, str] = field(default_factory=dict)  # run -> what is


def measured(tasks: Sequence[Task]) -> Measured:
    """Look at one run a policy, so that nothing is measured twice, and at what each was collapsed from."""
    found = Measured()
    first = {_policy(t): t for t in reversed(tasks) if t.is_begun}
    for exp, epoch in dict.fromkeys((t.exp, t.epoch) for t in tasks):
        policies: dict[Any, Restored] = {}
        root = next(t.folder.root for t in tasks if t.exp == exp)
        found.sweeps[f"{exp}, epoch {epoch}"], whole = sweep(root, exp, epoch)
        for key, t in first.items():
            if key[:2] == (exp, epoch):
                try:
                    policies[key] = restore(t.folder.latest()[1])
                    if t.kind in ("original", "collapsed"):
                        found.histories[t.name], found.units[t.name] = history(t), whole
                except UserError as error:  # a damaged file is its run's failure, and no other's
                    found.damaged[t.name] = str(error)
        times = latencies(policies)
        for key, restored in policies.items():
            weights = sum(p.numel() * p.element_size() for p in restored.policy.parameters())
            found.costs[key] = {"latency": times[key], "weights_bytes": weights}
    return found


def _policy(t: Task) -> tuple:
    """What tasks that differ by their seed alone share."""
    return t.exp, t.epoch, t.kind, t.setting


def about(command: str) -> dict[str, Any]:
    """The foot of the page: how to ask for the same, and where it was made."""
    known = store.provenance()
    commit = {"commit": known["git_commit"]} if known["git_commit"] else {}
    return {"command": command, **commit, "machine": known["machine"], "versions": known["versions"]}


def entry(task: Task, message: str, logs: Path, cost: Mapping[str, Any]) -> Entry:
    """What is known of one run."""
    used, log = recalled(logs / f"{task.name}.json"), logs / f"{task.name}.log"
    try:
        config = task.folder.config()
    except UserError as error:
        config, message = {}, str(error)
    collapse = config.get("collapse") or {}
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
        env=(config.get("settings") or {}).get("base", {}).get("env_name"),
        kl=collapse.get("kl") if task.kind == "collapsed" else None,
        **cost,
    )


def latencies(policies: Mapping[Any, Restored]) -> dict[Any, dict[int, float]]:
    """Seconds of one forward pass on one core, by batch size: the median of many, warmed up.

    The policies take turns, each round beginning with another one, so that what else the machine does in the
    meantime is shared by all.
    """
    if not policies:
        return {}
    keys = list(policies)
    seconds: dict[Any, dict[int, list[float]]] = {key: {count: [] for count in BATCHES} for key in keys}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for count in BATCHES:
                inputs = {key: policies[key].examples(count) for key in keys}
                for turn in range(ROUNDS):
                    for key in keys[turn % len(keys) :] + keys[: turn % len(keys)]:
                        times = [_timed(policies[key].policy, inputs[key]) for _ in range(WARM + CALLS)]
                        seconds[key][count] += times[WARM:]
    finally:
        torch.set_num_threads(threads)
    return {key: {n: statistics.median(of) for n, of in found.items()} for key, found in seconds.items()}


def _timed(policy: Any, inputs: tuple) -> float:
    began = time.perf_counter()
    policy(*inputs)
    return time.perf_counter() - began


def history(task: Task) -> store.FiberHistory:
    """Fibers of each space over the run's checkpoints, at its own thresholds, else at 0.3."""
    thresholds = dict(zip(KINDS, task.setting, strict=True)) if len(task.setting) == 4 else 0.3
    request = FibersRequest(run=task.folder, thresholds=thresholds, processes=1)  # more take longer to start
    return fibers_over_time(request)


def sweep(root: Path, exp: str, epoch: int) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """(threshold of all kinds, part of the parameters that stays), and the units of each space.

    Nothing of a checkpoint that is damaged.
    """
    try:
        restored = restore(metta.find(root, exp).model_path(epoch))
        traced = graph.trace(restored.policy, restored.example_inputs)
    except UserError:
        return [], {}
    part_kept = sizes_of(traced)
    units = {space.name: space.units for space in traced.network.spaces}
    return [(t, part_kept(t)) for t in SWEEP], units


def table(entries: Sequence[Entry]) -> str:
    """What each kind ends at over its seeds, then a line a run, those that failed at the end, to be seen."""
    runs = [Result.of(e) for e in sorted(entries, key=lambda e: e.status != "done")]
    lines = []
    for run in runs:
        e = run.entry
        size = "" if not e.params or not e.params_original else f"{e.params / e.params_original:.1%} kept"
        final = "" if math.isnan(run.final) else f"return {readable(run.final)}"
        lines.append(f"{e.status:<10} {e.name}  {', '.join(filter(None, [size, final, e.message]))}".rstrip())
    groups = grouped(runs)
    if any(final.bounded for group in groups for final in group.final.values()):
        how = "final return: interquartile mean over n seeds [95% bootstrap interval]"
        lines = [how, str(final_table(groups)), "", *lines]
    return "\n".join(lines)
