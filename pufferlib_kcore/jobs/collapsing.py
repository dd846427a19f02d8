"""Collapsing: a run's checkpoint to a smaller policy on disk, its optimizer's state carried along."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.analysis import frontier
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import kept
from pufferlib_kcore.jobs.advice import advice
from pufferlib_kcore.jobs.merging import Found, MergeRequest, merge
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.jobs.recording import RecordRequest, made_with
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import CollapseSettings
from pufferlib_kcore.store import FibersFile, MettaFolder, SpaceFibers, StateFile, atomic, names, runs


@dataclass(frozen=True, kw_only=True)
class CollapseRequest:
    """Which checkpoint of which run to collapse, and how."""

    source: RunSource
    settings: CollapseSettings  # also which epoch
    again: bool = True  # make one that stands on disk once more, unless runs started from it
    insist: bool = False  # on calibrating, see MergeRequest

    def destination(self, epoch: int) -> runs.CollapseFolder:
        """The plain folder of the collapse."""
        run, c = self.source.run, self.settings
        if c.searches:
            return run.search_folder(c.budget(), epoch)
        return run.collapse_folder(c.one_or_by_kind(), epoch, c.colors)

    def recipe(self, path: Path) -> dict[str, Any]:
        """What makes the collapse of a checkpoint what it is: the file, the settings, what is recorded."""
        records = self.again and (self.settings.calibrate or self.settings.searches)
        by = made_with(self.source.settings(), self.source.vec) if records else None
        return kept.recipe(self.settings, path, by)  # not again: one collapse for retrainings of every seed

    def merging(self, restored: Restored) -> MergeRequest:
        """What is asked of the engine."""
        recording = RecordRequest(
            restored=restored,
            settings=self.source.settings(),
            vec=self.source.vec,
            states=self.settings.calibrate,
            source=str(self.source.run.path),
        )
        return MergeRequest(settings=self.settings, recording=recording, insist=self.insist)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A policy made of a run's checkpoint, to be trained on."""

    source: RunSource
    epoch: int
    agent_steps: int
    policy: nn.Module
    spec: dict[str, Any]
    optimizer: dict[str, Any] | None
    provenance: dict[str, Any]
    text: str  # what was done, for people


@dataclass(frozen=True, kw_only=True)
class Collapsed(Ready):
    """A collapse that stands on disk."""

    folder: runs.CollapseFolder


def collapse(request: CollapseRequest, watch: Watch = unwatched) -> Collapsed:
    """Collapse a checkpoint and write the smaller policy, its optimizer state and fibers.pkl beside it.

    Raises UserError where the run contradicts what is said over it, and where it cannot be written.
    """
    source = request.source
    epoch, path = source.run.nearest(request.settings.epoch)
    recipe = request.recipe(path)
    place = kept.place(request.destination(epoch), path, recipe)
    if place.stands and (place.users or not request.again):
        return as_it_stands(request, epoch, place.folder)
    restored = source.read(path)
    found = merge(request.merging(restored), watch)
    optimizer, note = carried_optimizer(source.run, epoch, restored, found.result)
    provenance = {**recipe, "epoch": epoch, **origin(request.settings, restored, found)}
    write(place.folder, restored, found.result, optimizer, provenance)
    if found.frontier:
        write_frontier(place.folder, found, f"{source.run.exp_id}, epoch {epoch}")
    lines = [opening(request, epoch), str(found.result.report), *found.notes, note]
    lines += [place.note] if place.note else []
    lines += [f"wrote {place.folder.model_path}", *nothing_merged(provenance)]
    traced = graph.Traced(restored.policy, found.result.network)
    lines += advice(request.settings, traced, found.result.report)
    return Collapsed(
        source=source,
        folder=place.folder,
        epoch=epoch,
        agent_steps=restored.file.agent_steps,
        policy=found.result.policy,
        spec=restored.spec,
        optimizer=optimizer,
        provenance=provenance,
        text="\n".join(lines),
    )


def as_it_stands(request: CollapseRequest, epoch: int, folder: runs.CollapseFolder) -> Collapsed:
    """A collapse that was made before."""
    restored = request.source.read(folder.model_path)
    path = str(request.source.run.model_path(epoch))  # the run may have moved
    made = {**(restored.file.collapse or {}), "source": path}
    state = StateFile.load(folder.state_path) if folder.state_path.is_file() else None
    size = f"{made['params_before']:,} -> {made['params_after']:,} parameters"
    optimizer = "with its optimizer's state" if state else "no optimizer's state beside it: it starts cold"
    before = f"collapsed before: {folder.model_path}, {size}, {optimizer}"
    return Collapsed(
        source=request.source,
        folder=folder,
        epoch=epoch,
        agent_steps=restored.file.agent_steps,
        policy=restored.policy,
        spec=restored.spec,
        optimizer=state.optimizer if state else None,
        provenance=made,
        text="\n".join([opening(request, epoch), before, *nothing_merged(made)]),
    )


def opening(request: CollapseRequest, epoch: int) -> str:
    """Which checkpoint is collapsed, and whether it is another than was asked for."""
    run, asked = request.source.run, request.settings.epoch
    missing = f"epoch {asked}" if isinstance(run, MettaFolder) else run.model_path(asked).name
    nearest = "" if epoch == asked else f" (no {missing}: the nearest epoch is {epoch})"
    return f"collapsing {run.model_path(epoch)}{nearest}"


def origin(settings: CollapseSettings, restored: Restored, found: Found) -> dict[str, Any]:
    """What a collapse says of itself beside its recipe and its epoch."""
    thresholds = None if settings.searches else settings.one_or_by_kind()
    result = found.result
    units = {space.name: space.units for space in result.network.spaces if not space.whole}
    return {
        "recorded": found.recorded,
        "agent_steps": restored.file.agent_steps,
        "thresholds": thresholds,
        "tag": tag_of(thresholds),
        "params_before": result.report.params_before,
        "params_after": result.report.params_after,
        "kl": None if found.apart is None else float(found.apart.kl),
        "units": sum(units.values()),
        "merged": sum(count - result.widths[name] for name, count in units.items()),
    }


def tag_of(thresholds: float | dict[str, float] | None) -> str:
    """The thresholds in a word; `auto` in place of none."""
    if thresholds is None:
        return "auto"
    return names.threshold_tag(thresholds) if isinstance(thresholds, dict) else f"{thresholds:g}"


def nothing_merged(provenance: dict[str, Any]) -> list[str]:
    """What there is to say where a collapse merged nothing."""
    if provenance["params_after"] != provenance["params_before"]:
        return []
    of = f" of {provenance['units']} units" if "units" in provenance else ""
    return [
        f"NOTHING MERGED: none{of} at threshold {provenance['tag']}; this policy is as large as the original "
        f"({provenance['params_before']:,} parameters), and what trains on from it is no smaller one"
    ]


def carried_optimizer(source: runs.Run, epoch: int, restored: Restored, result) -> tuple[dict | None, str]:
    """The optimizer's state for the smaller policy, by the dual map; None, and why, where there is none."""
    state, note = stored_optimizer(source, epoch)
    names = [name for name, _ in restored.policy.named_parameters()]  # the trainer's order
    mapped = state and graph.collapse_optimizer(state, result, policy=restored.policy, names=names)
    return mapped, note


def stored_optimizer(source: runs.Run, epoch: int) -> tuple[dict | None, str]:
    """The optimizer's state beside a checkpoint, and what becomes of it; None where there is none."""
    path = source.state_path(epoch)
    if not path.is_file():
        return None, f"no {path.name} beside the checkpoint: the optimizer starts cold"
    return StateFile.load(path).optimizer, "the optimizer's state is carried over"


def write(
    folder: runs.CollapseFolder, restored: Restored, result, optimizer, provenance: dict[str, Any]
) -> None:
    """model_<epoch>_collapsed.pt, its .state.pt, and fibers.pkl.  Raises UserError where that cannot be."""
    file = restored.file
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder.path}: {error.strerror}; choose a folder that is writable"
        ) from error
    if optimizer is not None:
        state = StateFile(optimizer=optimizer, epoch=file.epoch, agent_steps=file.agent_steps)
        state.save(folder.state_path)
    else:
        folder.state_path.unlink(missing_ok=True)
    fibers_of(result, provenance).save(folder.fibers_path)
    replace(file, state_dict=result.policy.state_dict(), collapse=provenance).save(folder.model_path)


def write_frontier(folder: runs.CollapseFolder, found: Found, title: str) -> None:
    """What a search met on its way, as a table and as a picture."""
    points = [asdict(point) for point in found.frontier]
    atomic.write(folder.frontier_path, frontier.to_csv(points).encode())
    frontier.figure(points, title).savefig(folder.frontier_path.with_suffix(".png"))


def fibers_of(result, provenance: dict[str, Any]) -> FibersFile:
    """The coloring that was merged."""
    sizes = {row["space"]: (row["params_before"], row["params_after"]) for row in result.report.rows}
    spaces = {
        name: SpaceFibers(result.kinds[name], labels, result.reasons.get(name), *sizes[name])
        for name, labels in result.fibers.items()
    }
    return FibersFile(epoch=provenance["epoch"], thresholds=provenance["thresholds"], spaces=spaces)
