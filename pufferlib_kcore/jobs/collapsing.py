"""Collapse: a run's checkpoint to a smaller policy, its optimizer's state carried along."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from math import isnan, log
from typing import Any

from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.analysis import frontier
from pufferlib_kcore.environments import seeds
from pufferlib_kcore.environments.vector import WorkerDied
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph import distillation
from pufferlib_kcore.jobs import kept, stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.advice import advice
from pufferlib_kcore.jobs.progress import Tell, Watch, unwatched
from pufferlib_kcore.policies import noise_inputs
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import FibersFile, SpaceFibers, StateFile, atomic, names, runs
from pufferlib_kcore.training.record import record
from pufferlib_kcore.training.rollout import Diverged

BLIND = 0.01  # nats: a policy whose actions differ less from their mean hardly looks at its input


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A policy made of a run's checkpoint, to be trained on."""

    source: runs.Run
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


def thresholds_of(args: Args) -> float | dict[str, float]:
    """One cosine distance where all kinds share it, else one a kind."""
    by_kind = args.settings.collapse.thresholds()
    return next(iter(by_kind.values())) if len(set(by_kind.values())) == 1 else by_kind


def destination(args: Args, source: runs.Run, epoch: int) -> runs.CollapseFolder:
    """The folder of the collapse that the arguments ask for."""
    if args.collapse == "auto":
        return source.search_folder(args.settings.collapse.budget(), epoch)
    return source.collapse_folder(thresholds_of(args), epoch, args.settings.collapse.colors)


def stored_or_made(args: Args, source: runs.Run, watch: Watch = unwatched) -> Collapsed:
    """The collapse that the arguments ask for, as it stands on disk where nothing has changed since."""
    return collapse_run(args, source, watch, again=False)


def collapse_run(args: Args, source: runs.Run, watch: Watch = unwatched, again: bool = True) -> Collapsed:
    """Collapse a checkpoint and write the smaller policy, its optimizer state and fibers.pkl beside it.

    again  where the same collapse stands on disk, make it once more, unless runs started from that one
    """
    asked = args.settings.collapse.epoch
    epoch, path = source.nearest(asked)
    missing = f"no epoch {asked}" if args.layout == "metta" else f"no model_{asked:06d}.pt"
    nearest = "" if epoch == asked else f" ({missing}: the nearest epoch is {epoch})"
    recipe = kept.recipe(args, source, path)
    if not again:  # one collapse for retrainings of every seed
        recipe |= {"recorded": None}
    place = kept.place(destination(args, source, epoch), path, recipe)
    if place.stands and (place.users or not again):
        return as_it_stands(args, source, epoch, place.folder, f"collapsing {path}{nearest}")
    restored = worlds.restored(path, args, source)
    how = searched if args.collapse == "auto" else merged
    found = how(args, source, restored, watch)
    optimizer, note = carried_optimizer(source, epoch, restored, found.result)

    thresholds = None if args.collapse == "auto" else thresholds_of(args)
    tag = (
        names.threshold_tag(thresholds)
        if isinstance(thresholds, dict)
        else f"{thresholds:g}"
        if thresholds is not None
        else "auto"
    )
    folder = place.folder
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder.path}: {error.strerror}; choose a folder that is writable"
        ) from error
    units = {space.name: space.units for space in found.result.network.spaces if not space.whole}
    provenance = {
        **recipe,
        "recorded": found.recorded,
        "epoch": epoch,
        "agent_steps": restored.file.agent_steps,
        "thresholds": thresholds,
        "tag": tag,
        "params_before": found.result.report.params_before,
        "params_after": found.result.report.params_after,
        "kl": None if found.apart is None else float(found.apart.kl),
        "units": sum(units.values()),
        "merged": sum(count - found.result.widths[name] for name, count in units.items()),
    }
    write(folder, restored, found.result, optimizer, provenance)
    if found.frontier:
        points = [asdict(point) for point in found.frontier]
        atomic.write(folder.frontier_path, frontier.to_csv(points).encode())
        frontier.figure(points, f"{source.exp_id}, epoch {epoch}").savefig(
            folder.frontier_path.with_suffix(".png")
        )
    lines = [f"collapsing {path}{nearest}", str(found.result.report), *found.notes, note]
    lines += [place.note] if place.note else []
    lines += [f"wrote {folder.model_path}", *nothing_merged(provenance)]
    lines += advice(args, restored, found.result.report)
    return Collapsed(
        source=source,
        folder=folder,
        epoch=epoch,
        agent_steps=restored.file.agent_steps,
        policy=found.result.policy,
        spec=restored.spec,
        optimizer=optimizer,
        provenance=provenance,
        text="\n".join(lines),
    )


def as_it_stands(
    args: Args, source: runs.Run, epoch: int, folder: runs.CollapseFolder, said: str
) -> Collapsed:
    """A collapse that was made before.  said: the text's first line"""
    restored = worlds.restored(folder.model_path, args, source)
    path = str(source.model_path(epoch))  # the run may have moved
    made = {**(restored.file.collapse or {}), "source": path}
    state = StateFile.load(folder.state_path) if folder.state_path.is_file() else None
    size = f"{made['params_before']:,} -> {made['params_after']:,} parameters"
    optimizer = "with its optimizer's state" if state else "no optimizer's state beside it: it starts cold"
    lines = [said, f"collapsed before: {folder.model_path}, {size}, {optimizer}", *nothing_merged(made)]
    return Collapsed(
        source=source,
        folder=folder,
        epoch=epoch,
        agent_steps=restored.file.agent_steps,
        policy=restored.policy,
        spec=restored.spec,
        optimizer=state.optimizer if state else None,
        provenance=made,
        text="\n".join(lines),
    )


def nothing_merged(provenance: dict[str, Any]) -> list[str]:
    """What there is to say where a collapse merged nothing."""
    if provenance["params_after"] != provenance["params_before"]:
        return []
    of = f" of {provenance['units']} units" if "units" in provenance else ""
    return [
        f"NOTHING MERGED: none{of} at threshold {provenance['tag']}; this policy is as large as the original "
        f"({provenance['params_before']:,} parameters), and what trains on from it is no smaller one"
    ]


@dataclass(frozen=True)
class Found:
    """What the engine answered, and what there is to say of it."""

    result: graph.Collapse
    notes: list[str]
    frontier: list[graph.Point] = field(default_factory=list)
    apart: graph.Divergence | None = None  # from the original, on states that it was not fitted to
    recorded: dict[str, Any] | None = None  # what a recording was made with, where it had a say


def merged(args: Args, source: runs.Run, restored: Restored, watch: Watch) -> Found:
    """Merge up to a threshold; where anything merges, refit on recorded states."""
    c, policy, inputs = args.settings.collapse, restored.policy, restored.example_inputs
    thresholds = thresholds_of(args)
    if c.colors == "weights":
        plain = graph.collapse(policy, inputs, thresholds, round_to=c.round_to)
        if not c.calibrate or plain.report.params_after == plain.report.params_before:
            return Found(plain, [])
    try:
        seen = recorded(args, source, restored, watch)
    except UserError as error:
        if c.colors == "activations" or "collapse.calibrate" in args.overrides:
            raise
        why = f"not calibrated, no states could be recorded: {error}"
        return Found(plain, [why], recorded={"failed": str(error)})
    result = graph.collapse(
        policy, inputs, thresholds, calibrate=seen.calibrate, colors=c.colors, round_to=c.round_to
    )
    return taught(args, restored, Found(result, []), seen, watch)


def searched(args: Args, source: runs.Run, restored: Restored, watch: Watch) -> Found:
    """As small as the budget of --collapse auto allows."""
    c, seen = args.settings.collapse, recorded(args, source, restored, watch)
    budget = c.budget()
    with watch("searching for the widths") as tell:
        found = graph.search(
            restored.policy,
            restored.example_inputs,
            seen.calibrate,
            seen.held_out,
            max_kl=budget.get("max_kl"),
            target_params=budget.get("target_params"),
            round_to=c.round_to,
            watch=lambda point: point_told(tell, point, c.target_params),
        )
    return taught(args, restored, Found(found.collapse, [], found.frontier), seen, watch)


@dataclass(frozen=True)
class Recorded:
    """States of the original: to calibrate on, to choose by, and to say how faithful the result is."""

    calibrate: list[tuple]
    held_out: list[tuple]
    test: list[tuple]
    text: str
    by: dict[str, Any]  # what it was made with


def recorded(args: Args, source: runs.Run, restored: Restored, watch: Watch) -> Recorded:
    """Let the original play its own environment; without it, make observations up.  Raises UserError"""
    settings, states = stored.stored_settings(source, args), args.settings.collapse.calibrate
    by = kept.recording(settings, args)
    if not states:
        calibrate, held_out = (
            noise_inputs(restored.spec, seed=(settings.train.seed, seeds.MADE_UP, i)) for i in range(2)
        )
        text = "fitted to made-up observations, measured on none of the environment's"
        return Recorded(calibrate, held_out, [], text, by)
    envs = by["envs"]
    counts = [max(count, envs) for count in (states, states // 2, states // 4)]
    started, total, seen = time.monotonic(), sum(counts), []
    world = worlds.open_world(settings, "multiprocessing" if args.vec == "ray" else args.vec, envs=envs)
    try:
        world.check(restored.spec, str(source.path))
        with (
            worlds.acting(settings, world, restored.policy) as (policy, autocast),
            watch(f"recording {total:,} states in {envs} environments") as tell,
        ):
            for i, count in enumerate(counts):

                def on(part: float, done: int = sum(counts[:i]), count: int = count) -> None:
                    tell((done + part * count) / total)

                entropy = settings.train.seed, seeds.RECORDING, i
                seen.append(record(policy, world.vec, entropy, count, autocast, on))
        calibrate, held_out, test = seen
    except (WorkerDied, Diverged) as error:
        raise UserError(f"{source.path} cannot play {settings.base.env_name}: {error}") from error
    finally:
        world.vec.close()
    seconds = time.monotonic() - started
    text = f"recorded {states:,} states to calibrate on, others to measure on, in {seconds:.0f} s"
    return Recorded(calibrate, held_out, test, text, by)


def taught(args: Args, restored: Restored, found: Found, seen: Recorded, watch: Watch) -> Found:
    """Distill after a search, or where that is asked for, and say how near the policies are."""
    result, steps = found.result, args.settings.collapse.distill
    if steps is None:
        steps = distillation.STEPS if args.collapse == "auto" and seen.test else 0
    if steps:
        with watch(f"distilling: {steps} gradient steps on the recorded states") as tell:
            states = seen.calibrate, seen.held_out
            result = graph.distill(restored.policy, result, *states, steps, watch=tell)
    if not seen.test:
        return Found(result, [seen.text], found.frontier, recorded=seen.by)
    apart = graph.divergence(restored.policy, result.policy, seen.test, result.network, result.merges)
    return Found(result, [seen.text, nearness(apart)], found.frontier, apart, seen.by)


def nearness(apart: graph.Divergence) -> str:
    """How near a smaller policy is to its original, for people."""
    words = (
        f"on states that it was not fitted to, the smaller policy's action probabilities are KL "
        f"{apart.kl:.3g} nats from the original's (0: the same); blind, acting always as the original does "
        f"on average, it would be {apart.look:.3g} off"
    )
    if apart.look < BLIND:
        words += " (so the original hardly looks at its observations yet)"
    if not isnan(apart.value_error):
        words += f"; its values' squared error is {100 * apart.value_error:.3g}% of their variance"
    return words


def point_told(tell: Tell, point: graph.Point, target: float | None) -> None:
    """How far a search is, by a point of it."""
    part = min(1.0, log(point.size) / log(target)) if target and target < 1 else 0.0
    widths = " ".join(f"{name}={width}" for name, width in point.widths.items())
    errors = f"kl={point.kl:.4g} value_error={point.value_error:.4g}"
    line = f"size={point.size:.4f} {errors} {widths}"
    tell(part, f"{point.size:.1%} of the parameters, KL {point.kl:.2g}", line)


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
    """model_<epoch>_collapsed.pt, its .state.pt, and fibers.pkl."""
    file = restored.file
    if optimizer is not None:
        state = StateFile(optimizer=optimizer, epoch=file.epoch, agent_steps=file.agent_steps)
        state.save(folder.state_path)
    else:
        folder.state_path.unlink(missing_ok=True)
    fibers_of(result, provenance).save(folder.fibers_path)
    replace(file, state_dict=result.policy.state_dict(), collapse=provenance).save(folder.model_path)


def fibers_of(result, provenance: dict[str, Any]) -> FibersFile:
    """The coloring that was merged."""
    sizes = {row["space"]: (row["params_before"], row["params_after"]) for row in result.report.rows}
    spaces = {
        name: SpaceFibers(result.kinds[name], labels, result.reasons.get(name), *sizes[name])
        for name, labels in result.fibers.items()
    }
    return FibersFile(epoch=provenance["epoch"], thresholds=provenance["thresholds"], spaces=spaces)
