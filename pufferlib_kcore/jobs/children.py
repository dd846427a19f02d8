"""Children: two trainings that go on from one checkpoint of a run, and the line between what they become.

All of it lies in the run's folder:

    connectivity/child1_<id>/  child2_<id>/           runs
    connectivity/forks/instability_<id>.json  all_forks_results.json  fork_analysis/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pufferlib_kcore.analysis import interpolations
from pufferlib_kcore.connectivity.plan import points
from pufferlib_kcore.connectivity.summary import told
from pufferlib_kcore.environments import seeds
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.jobs.commands import Home
from pufferlib_kcore.jobs.lines import CompareRequest, between, by_chance, end_in, realigned
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.jobs.stored import Over
from pufferlib_kcore.jobs.training import Origin, TrainRequest, resumed, train
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.settings.sections import LineSettings
from pufferlib_kcore.store import Run, StateFile
from pufferlib_kcore.store.forks import ForkFolder, write_json
from pufferlib_kcore.text import aligned
from pufferlib_kcore.training.generators import get_rng, set_rng
from pufferlib_kcore.training.loop import Start

FOLDER = "connectivity"
CHILD, LINE = 31, 32  # the second number of their entropy


@dataclass(frozen=True, kw_only=True)
class ForkRequest:
    """The run to fork, where, and how the lines between children are walked."""

    source: RunSource
    home: Home
    points: str  # parts of the training, parted by commas
    data: str  # same or fresh
    line: LineSettings
    total_steps: int | None = None  # until which children train; None: as the run's settings say


@dataclass(frozen=True, kw_only=True)
class ForkedRun:
    """What became of all forks."""

    run: Run
    forks: list[dict[str, Any]]
    figures: list[Path]

    def __str__(self) -> str:
        rows: list[list[Any]] = [["fork", "epoch", "steps", "child 1", "child 2", "line"]]
        for f in self.forks:
            ends = (f"{f['fork1_reward']:.5g}", f"{f['fork2_reward']:.5g}")
            rows.append([f["fork_id"], f["epoch"], f"{f['step']:,}", *ends, told(f)])
        return aligned(rows, range(5))


def fork_run(
    request: ForkRequest,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
    watch: Watch = unwatched,
) -> ForkedRun | None:
    """Train the children that are not there yet, walk their lines, draw.  None where it was stopped.

    A child begins with the checkpoint nearest to its point, its optimizer, and random numbers of its own.
    With `same` data both play in the same environments, and differ in the actions that are drawn and in the
    order of minibatches; with `fresh` their environments differ, too. Raises UserError where no checkpoint
    with an optimizer's state is left to fork, or two forks would share one.
    """
    source, run = request.source, request.source.run
    settings = source.settings()
    total = request.total_steps or settings.train.total_timesteps
    starts = forked_at(source, points(request.points, "--fork-points"), total)
    folder = ForkFolder(run.path / FOLDER, run.path / FOLDER)
    folder.results.mkdir(exist_ok=True)
    found = []
    for fork, (point, epoch) in enumerate(starts):
        kids = []
        for child in (1, 2):
            kid = Run(folder.results / f"child{child}_{fork}")
            if not trained(kid, total):
                say(f"fork {fork}, epoch {epoch}, child {child}: {kid.path}")
                done = train(of_child(request, settings, kid, fork, child, epoch, total), stop=stop, say=say)
                if not done.finished:
                    return None
            kids.append(kid)
        found.append(line_of(request, folder, kids, fork, point, epoch, watch))
        say(f"fork {fork}, epoch {epoch}: {told(found[-1])}")
    write_json(folder.all_path, found)
    figures = interpolations.draw(folder, found, total)
    return ForkedRun(run=run, forks=found, figures=figures)


def forked_at(source: RunSource, parts: tuple[float, ...], total: int) -> list[tuple[float, int]]:
    """(point, epoch) of each fork: the checkpoint with a state whose steps are nearest.  Raises UserError"""
    files = source.run.resumable()
    steps = {epoch: StateFile.load(source.run.state_path(epoch)).agent_steps for epoch, _ in files}
    found: list[tuple[float, int]] = []
    for part in parts:
        epoch = min(steps, key=lambda e: abs(steps[e] - part * total))
        if steps[epoch] >= total:
            raise UserError(
                f"the checkpoint nearest to fork point {part:g} is the last, of epoch {epoch}: nothing is "
                "left to train; fork earlier, or train children further with --train.total-timesteps"
            )
        if any(other == epoch for _, other in found):
            raise UserError(
                f"fork points {found[-1][0]:g} and {part:g} have one checkpoint, of epoch {epoch}; states "
                f"are at epochs {', '.join(map(str, steps))}: train with --train.keep-state all to keep each"
            )
        found.append((part, epoch))
    return found


def trained(kid: Run, total: int) -> bool:
    files = kid.checkpoints() if kid.path.is_dir() else []
    return bool(files) and StateFile.load(kid.state_path(files[-1][0])).agent_steps >= total


def of_child(
    request: ForkRequest, settings: Settings, kid: Run, fork: int, child: int, epoch: int, total: int
) -> TrainRequest:
    """A child's training: from the fork, or from its own last checkpoint."""
    if kid.path.is_dir() and kid.checkpoints():
        over = Over(overrides={"train.total_timesteps": str(total)})
        return resumed(RunSource(run=kid, over=over, vec=request.source.vec), request.home)
    source, seed = request.source, settings.train.seed
    restored = source.read(source.run.model_path(epoch))
    state = StateFile.load(source.run.state_path(epoch))
    own = seeds.env_seed((seed, CHILD, fork), child)
    both = seeds.env_seed((seed, CHILD, fork), 0)
    rng = drawn(own)
    start = replace(Start.at(state), rng=rng)
    played = both if request.data == "same" else own
    t = replace(settings.train, seed=played, total_timesteps=total)
    origin = Origin(
        policy=copy_of(restored.policy), spec=restored.spec, start=start, collapse=restored.file.collapse
    )
    return TrainRequest(
        settings=replace(settings, train=t),
        home=request.home,
        root=kid.path.parent,
        name=kid.path.name,
        origin=origin,
    )


def drawn(seed: int) -> dict[str, Any]:
    """The states of all generators that training draws from, as this seed begins them."""
    import random

    generator = torch.Generator()
    before = get_rng(generator)
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        return get_rng(torch.Generator().manual_seed(seed))
    finally:
        set_rng(before, generator)


def line_of(
    request: ForkRequest,
    folder: ForkFolder,
    kids: list[Run],
    fork: int,
    point: float,
    epoch: int,
    watch: Watch,
) -> dict[str, Any]:
    """Walk it, unless it stands on disk."""
    path, source = folder.fork_path(fork), request.source
    if path.is_file():
        return folder.forks()[fork]
    ends = [end_in(RunSource(run=kid, vec=source.vec).newest()) for kid in kids]
    seed = (source.settings().train.seed, LINE)
    how = CompareRequest(
        one=ends[0].name,
        other=ends[1].name,
        alphas=request.line.alphas,
        episodes=request.line.episodes,
        seed=seed,
        greedy=not request.line.sampled,
    )
    chance = by_chance(ends[0].creator, seed, request.line.episodes)
    found = {
        "fork_id": fork,
        "fork_point": point,
        "epoch": epoch,
        "step": StateFile.load(source.run.state_path(epoch)).agent_steps,
        "of_initialisation": False,
        "data": request.data,
        **between(ends[0], ends[1].policy, how, chance, watch),
        "aligned": realigned(ends[0], ends[1].policy, how, chance, watch),
    }
    write_json(path, found)
    return found
