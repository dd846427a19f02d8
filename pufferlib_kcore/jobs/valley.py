"""Valley: the lines from a policy to its collapse, lifted to full size, and on to what that became.

A lifted collapse computes what the small policy does and has the original's parameters, so that the straight
line between them can be walked: whether the collapse stayed in the original's valley, and whether training it
on has left that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.analysis import interpolations
from pufferlib_kcore.connectivity.matching import distance
from pufferlib_kcore.connectivity.summary import told
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.jobs.lines import End, between, by_chance, end_in
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings.sections import LineSettings
from pufferlib_kcore.store import CollapseFolder, FibersFile, Run
from pufferlib_kcore.store.forks import write_json
from pufferlib_kcore.store.names import parse_collapse_folder
from pufferlib_kcore.text import aligned

LINES = (  # from, to, and what it asks
    ("original", "collapse", "is a collapse in its original's valley"),
    ("original", "collapse, even", "the same, its weights shared evenly"),
    ("collapse", "retrained", "does training it on leave the collapse's"),
    ("original", "retrained", "and the original's"),
    ("original", "trained on", "does the original itself leave it meanwhile"),
    ("retrained", "trained on", "are both in one valley at last"),
)


@dataclass(frozen=True, kw_only=True)
class ValleyRequest:
    """Which run, by itself or by a run resumed from its collapse, and how its lines are walked."""

    source: RunSource
    line: LineSettings
    jobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Valley:
    """The lines; they are in connectivity.json, and in the run's page from its next report on."""

    run: Run
    folder: CollapseFolder
    lines: list[dict[str, Any]]
    png: Path

    def __str__(self) -> str:
        rows: list[list[Any]] = [["from", "to", "return", "return", "weights apart", "barrier"]]
        for f in self.lines:
            ends = (f"{f['fork1_reward']:.5g}", f"{f['fork2_reward']:.5g}")
            rows.append([f["from"], f["to"], *ends, f"{f['distance']:.4g}", told(f)])
        return f"{self.folder.path}\n{aligned(rows, (2, 3, 4))}"


def valley(request: ValleyRequest, watch: Watch = unwatched) -> Valley:
    """Walk them all, and write connectivity.json and connectivity.png into the original's folder.

    Raises UserError where there is no collapse, or none whose fibers are known.
    """
    run, folder, offspring = family(request.source.run)
    source = RunSource(
        run=run, over=request.source.over, vec=request.source.vec, trusted=request.source.trusted
    )
    policies = points(source, folder, offspring)
    newest = source.newest()
    start = end_in(newest)
    seed = (newest.settings.train.seed, 21)
    how = How(request.line.alphas, request.line.episodes, seed, not request.line.sampled, request.jobs)
    chance = by_chance(start.creator, seed, request.line.episodes)
    lines = []
    for one, other, asks in LINES:
        if one in policies and other in policies:
            end = End(policies[one], start.example, start.creator, start.env, one)
            found = between(end, policies[other], how, chance, watch)
            lines.append({"from": one, "to": other, "asks": asks, **found})
    sizes = {"params": size(policies["original"]), "collapsed_params": collapsed_size(source, folder)}
    about = {
        "run": run.exp_id,
        "collapse": folder.path.name,
        "epoch": folder.epoch,
        "env": start.env,
        **sizes,
    }
    write_json(run.lines_path, {**about, "sampled": request.line.sampled, "lines": lines})
    png = interpolations.save(
        interpolations.valley_figure(lines, f"{run.exp_id}, {folder.path.name}"),
        run.path / "connectivity.png",
    )
    return Valley(run=run, folder=folder, lines=lines, png=png)


@dataclass(frozen=True)
class How:
    """How lines are walked."""

    alphas: int
    episodes: int
    seed: tuple[int, ...]
    greedy: bool
    jobs: int | None


def family(named: Run) -> tuple[Run, CollapseFolder, Run | None]:
    """The original, its collapse, and the newest run resumed from that: of a run among them."""
    if parse_collapse_folder(named.path.parent.name):
        folder = CollapseFolder(named.path.parent)
        return folder.source, folder, named if named.checkpoints() else None
    folders = [folder for folder in named.collapses() if folder.model_path.is_file()]
    if not folders:
        raise UserError(
            f"{named.path} has no collapse to walk to: make one with --mode collapse, or train one on with "
            "--mode train --collapse 0.3"
        )
    grown = [(run, folder) for folder in folders for run in folder.runs() if run.checkpoints()]
    if grown:
        run, folder = max(grown, key=lambda one: one[0].latest()[1].stat().st_mtime_ns)
        return named, folder, run
    return named, max(folders, key=lambda one: one.model_path.stat().st_mtime_ns), None


def points(source: RunSource, folder: CollapseFolder, offspring: Run | None) -> dict[str, nn.Module]:
    """The policies, all of the original's size, by their names in LINES."""
    original = source.read(source.run.nearest(folder.epoch)[1])
    fibers = FibersFile.load(folder.fibers_path)
    labels = {name: space.labels for name, space in fibers.spaces.items() if space.fibers < space.units}
    small = source.read(folder.model_path)
    even = lifted(small, labels)
    found = {"original": original.policy, "collapse": nearest(original, even, labels, original.policy)}
    found["collapse, even"] = even
    if offspring is not None:
        grown = RunSource(run=offspring, over=source.over, vec=source.vec, trusted=source.trusted).newest()
        full = lifted(grown.restored, labels)
        found["retrained"] = nearest(original, full, labels, found["collapse"])
    epoch, path = source.run.latest()
    if epoch > folder.epoch:
        found["trained on"] = source.read(path).policy
    return found


def lifted(small: Restored, labels: Mapping[str, np.ndarray]) -> nn.Module:
    """A collapsed policy at its original's size, its weights shared evenly."""
    return graph.lift(small.policy, small.example_inputs, labels) if labels else small.policy


def nearest(
    original: Restored, even: nn.Module, labels: Mapping[str, np.ndarray], to: nn.Module
) -> nn.Module:
    """Of all policies that compute what a lifted one does, that nearest to another."""
    if not labels:
        return even
    traced = graph.trace(original.policy, original.example_inputs)
    tensors = quotient.nearest_lift(tensors_of(even), tensors_of(to), traced.network.table, labels)
    made = rebuild(original.policy, traced.network, {**tensors_of(even), **tensors}, {})
    return made if distance(made, to) <= distance(even, to) else even


def size(policy: nn.Module) -> int:
    return sum(p.numel() for p in policy.parameters())


def collapsed_size(source: RunSource, folder: CollapseFolder) -> int:
    return size(source.read(folder.model_path).policy)
