"""Batch report: gathers what the runs of a batch left, and has a page made of it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pufferlib_kcore import store
from pufferlib_kcore.analysis import batch as pages
from pufferlib_kcore.analysis.batch_tables import final_table
from pufferlib_kcore.analysis.groups import Entry, Result, grouped
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.network import network_of
from pufferlib_kcore.graph.thresholds import sizes_of
from pufferlib_kcore.jobs.fibers import FibersRequest, fibers_over_time
from pufferlib_kcore.policies.restore import Restored, restore
from pufferlib_kcore.settings.sections import KINDS
from pufferlib_kcore.store import metta
from pufferlib_kcore.text import readable

if TYPE_CHECKING:
    from pufferlib_kcore.cli.batch import Task

SWEEP = [round(0.1 * i, 1) for i in range(1, 16)] + [2.0]  # thresholds
BATCHES = (1, 64)  # observations in one forward pass
WARM, ROUNDS, CALLS = 2, 8, 4  # forward passes untimed at each turn; turns of a policy; passes timed


def write(folder: Path, tasks: Sequence[Task], failed: dict[str, str], command: str) -> str:
    """Make folder/report.  -> what each kind comes to, a line a run, what failed last, where the page is

    failed  run -> why; those whose files turn out to be damaged are added
    """
    # one run a policy is measured, so that nothing is measured twice
    first = {(t.exp, t.epoch, t.kind, t.setting): t for t in reversed(tasks) if t.folder.checkpoints()}
    costs: dict[Any, dict[str, Any]] = {}
    histories: dict[str, store.FiberHistory] = {}
    units: dict[str, dict[str, int]] = {}
    sweeps: dict[str, list[tuple[float, float]]] = {}
    for exp, epoch in dict.fromkeys((t.exp, t.epoch) for t in tasks):
        policies: dict[Any, Restored] = {}
        members = {key: t for key, t in first.items() if key[:2] == (exp, epoch)}
        root = next(t.folder.root for t in tasks if t.exp == exp)
        sweeps[f"{exp}, epoch {epoch}"], whole = sweep(root, exp, epoch)
        for key, t in members.items():
            try:
                policies[key] = restore(t.folder.latest()[1])
                if t.kind in ("original", "collapsed"):
                    histories[t.name], units[t.name] = history(t), whole
            except UserError as error:  # a damaged file is its run's failure, and no other's
                failed[t.name] = str(error)
        times = latencies(policies)
        for key, restored in policies.items():
            weights = sum(p.numel() * p.element_size() for p in restored.policy.parameters())
            costs[key] = {"latency": times[key], "weights_bytes": weights}
    entries = [
        entry(t, failed.get(t.name, ""), folder / "logs", costs.get((t.exp, t.epoch, t.kind, t.setting), {}))
        for t in tasks
    ]
    known = store.provenance()
    about: dict[str, Any] = {"command": command}
    if known["git_commit"]:
        about["commit"] = known["git_commit"]
    about |= {"machine": known["machine"], "versions": known["versions"]}
    histories = {t.name: histories[t.name] for t in tasks if t.name in histories}
    runs = {e.exp: f"{e.exp} on {e.env}" if e.env else e.exp for e in entries}
    title = f"{', '.join(runs.values())}: collapsed, and its controls"
    page = pages.write(
        folder / "report", title, entries, fibers=histories, sweeps=sweeps, about=about, units=units
    )
    return f"{table(entries)}\nwrote {page}"


def entry(task: Task, message: str, logs: Path, cost: Mapping[str, Any]) -> Entry:
    """What is known of one run."""
    from pufferlib_kcore.cli.batch import recalled

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
        network = network_of(restored.policy, restored.example_inputs)
    except UserError:
        return [], {}
    part_kept = sizes_of(restored.policy, network)
    units = {space.name: space.units for space in network.spaces}
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
