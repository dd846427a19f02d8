"""Diagnosing: look at every checkpoint of a run, and ask the detectors what went wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.diagnostics.capacity import capacity
from pufferlib_kcore.diagnostics.findings import Diagnosis, diagnose
from pufferlib_kcore.diagnostics.look import fibers_of, look
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.environments import seeds
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.jobs.recording import RecordRequest, played
from pufferlib_kcore.jobs.references import references
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.store import ProbeFile, Run, atomic, metrics
from pufferlib_kcore.text import aligned
from pufferlib_kcore.training.acting import play

SECTION = "diagnosis"
ENVS = 16  # that checkpoints play in at once, at most
SHOWN = (
    "eval_return",
    "eval_return_greedy",
    "entropy",
    "churn",
    "dormant",
    "gradient_dormant",
    "effective_rank",
    "fibers",
    "capacity",
)


@dataclass(frozen=True, kw_only=True)
class DiagnoseRequest:
    """The run to look at, and how closely."""

    source: RunSource
    states: int = 256  # of the probe, where the run has none yet
    capacity: int = 0  # gradient steps of the test of capacity; 0: none
    threshold: float | dict[str, float] = 0.3  # of the fibers that are counted
    evaluate: int = 0  # episodes with each checkpoint, drawing its actions and taking the likeliest; 0: none
    episodes: int = 8  # of each policy without skill, where the run has no references yet; 0: none
    true_metric: str | None = None  # what should rise with the return


@dataclass(frozen=True, kw_only=True)
class Diagnosed:
    """What was found; it is in the run's folder too."""

    run: Run
    rows: Sequence[Mapping[str, float]]  # of each checkpoint: epoch, and diagnosis/..
    references: References | None
    diagnosis: Diagnosis
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [name for name in SHOWN if any(f"{SECTION}/{name}" in row for row in self.rows)]
        table: list[list[Any]] = [["epoch", *shown]]
        table += [[int(r["epoch"]), *(r.get(f"{SECTION}/{name}") for name in shown)] for r in self.rows]
        lines = [aligned(table, range(len(shown) + 1)), ""]
        if self.references:
            r = self.references
            lines.append(f"without skill: uniform {r.uniform:.4g}, the best constant action {r.constant:.4g}")
        return "\n".join([*lines, *self.notes, str(self.diagnosis)])


def diagnose_run(request: DiagnoseRequest, watch: Watch = unwatched) -> Diagnosed:
    """Look at each checkpoint, on the run's probe, and judge its metrics with what is seen.

    Writes diagnosis.jsonl, findings.jsonl and, where they were not there, probe.pt and references.json.
    Raises UserError where there is no checkpoint, or one of another environment or architecture.
    """
    source, run = request.source, request.source.run
    newest = source.newest()
    probe = probe_for(request, newest.restored, newest.settings, watch)
    rows = look_at_all(request, probe, newest.settings, watch)
    lines = "".join(json.dumps({k: v for k, v in row.items()}) + "\n" for row in rows)
    atomic.write(run.diagnosis_path, lines.encode())
    known = References.load(run.references_path)
    if known is None and request.episodes:
        known = references(newest.settings, source.vec, request.episodes, watch)
        known.save(run.references_path)
    records = together(run.metrics(), rows, request.true_metric)
    notes: tuple[str, ...] = ()
    if not any("episode_return" in row for row in records):
        notes = (f"{run.path} has no metrics.jsonl: judged by its checkpoints alone",)
    found = diagnose(Records.of(records), known)
    atomic.write(run.findings_path, "".join(_line(one.to_plain()) for one in found.findings).encode())
    return Diagnosed(run=run, rows=rows, references=known, diagnosis=found, notes=notes)


def probe_for(request: DiagnoseRequest, newest: Restored, settings: Settings, watch: Watch) -> ProbeFile:
    """The run's own probe; else states that its newest policy meets, from now on the run's."""
    path, source = request.source.run.probe_path, request.source
    if path.is_file():
        probe = ProbeFile.load(path)
        check_probe(probe, newest, path)
        return probe
    asked = RecordRequest(
        restored=newest, settings=settings, vec=source.vec, states=request.states, source=str(path.parent)
    )
    inputs = few(played(asked, watch)[0], request.states)
    probe = ProbeFile(inputs=inputs, epoch=newest.file.epoch, env=settings.base.env_name)
    probe.save(path)
    return probe


def check_probe(probe: ProbeFile, restored: Restored, path: Path) -> None:
    """Raise UserError where the states are of another environment, or another policy's."""
    here, there = restored.example_inputs, probe.inputs[0]
    widths = [tuple(x.shape[-1] for x in one[1]) if len(one) > 1 else () for one in (here, there)]
    if here[0].shape[1:] != there[0].shape[-len(here[0].shape) + 1 :] or widths[0] != widths[1]:
        raise UserError(
            f"{path} holds states of shape {tuple(there[0].shape[1:])} and recurrent width {widths[1]}, and "
            f"the policy takes {tuple(here[0].shape[1:])} and {widths[0]}: move it away, and it is made anew"
        )


def few(inputs: list[tuple], states: int) -> list[tuple]:
    """About so many states of a recording: whole calls, the last one cut."""
    kept, left = [], states
    for first, *state in inputs:
        steps = first.shape[1] if state else 1
        rows = min(len(first), -(-left // steps))
        kept.append((first[:rows], *(tuple(x[:, :rows].contiguous() for x in s) for s in state)))
        left -= rows * steps
        if left <= 0:
            break
    return kept


def look_at_all(
    request: DiagnoseRequest, probe: ProbeFile, settings: Settings, watch: Watch
) -> list[dict[str, float]]:
    """What is seen of each checkpoint."""
    source, files = request.source, request.source.run.checkpoints()
    vec = worlds.one_group(settings, source.vec, min(request.evaluate, ENVS)) if request.evaluate else None
    rows: list[dict[str, float]] = []
    before = traced = None
    for epoch, path in counted(files, len(files), f"looking at {len(files)} checkpoints", watch):
        restored = source.read(path)
        check_probe(probe, restored, source.run.probe_path)
        traced = graph.trace(restored.policy, restored.example_inputs)
        seen = look(traced, probe.inputs, before=before)
        before = seen.actions
        found = {**seen.metrics, **fibers_of(traced, request.threshold)}
        if request.capacity:
            found["capacity"] = capacity(traced, probe.inputs, request.capacity)
        if vec is not None:
            found |= evaluated(restored.policy, vec, settings, request.evaluate)
        row = {"epoch": float(epoch), "agent_steps": float(restored.file.agent_steps)}
        rows.append(row | {f"{SECTION}/{name}": value for name, value in found.items()})
    if vec is not None:
        vec.close()
    return rows


def evaluated(policy: nn.Module, vec: Any, settings: Settings, episodes: int) -> dict[str, float]:
    """Mean returns in the same environments, of drawn actions and of the likeliest."""
    seed = (settings.train.seed, seeds.RECORDING, 8)
    return {
        name: float(play(policy, vec, seed, episodes=episodes, greedy=greedy).returns.mean())
        for name, greedy in (("eval_return", False), ("eval_return_greedy", True))
    }


def together(
    records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, float]], true_metric: str | None
) -> list[dict[str, Any]]:
    """One record an epoch: what was written while it trained comes before what is seen now.

    Raises UserError where no record has the true metric.
    """
    by_epoch: dict[int, dict[str, Any]] = {int(row["epoch"]): dict(row) for row in rows}
    for record in records:
        epoch = int(record.get("epoch", 0))
        by_epoch[epoch] = {**by_epoch.get(epoch, {}), **record}
    found = [by_epoch[epoch] for epoch in sorted(by_epoch)]
    if true_metric is None:
        return found
    Records.of(found).named(true_metric)
    return [{**record, "true_return": record.get(true_metric)} for record in found]


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(metrics.plain(record), allow_nan=False) + "\n"
