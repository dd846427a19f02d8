"""Fibers: color every checkpoint of a run, without touching it, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.rebuild import parameters_at
from pufferlib_kcore.jobs import stored, worker
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.store import Count, FiberHistory, ModelFile, SpaceCount, checkpoints, runs

Thresholds = float | dict[str, float]
Files = Sequence[tuple[int, Path]]  # epochs and their checkpoints
WORTH = 10.0  # seconds of coloring for which workers, who take some to start, are worth it
STRETCH = 4  # checkpoints that a worker colors with one trace


@dataclass(frozen=True, kw_only=True)
class FibersRequest:
    """The run whose checkpoints are colored, and how."""

    run: runs.Run
    thresholds: Thresholds = 0.3  # cosine distance, 0 to 2, or one a kind
    processes: int | None = None  # that color; None: one a core


def fibers_over_time(request: FibersRequest, watch: Watch = unwatched) -> FiberHistory:
    """Units, fibers and parameters at each checkpoint of a run; kept in its folder, and up to date.

    Raises UserError where there is no checkpoint, or one of another environment or architecture.
    """
    source, thresholds = request.run, request.thresholds
    path = source.history_path
    files = dict(source.checkpoints())
    if not files:
        raise UserError(f"{source.path} has no checkpoint to color; train it first")
    digests = {epoch: checkpoints.digest(file) for epoch, file in files.items()}
    known = {
        count.epoch: count
        for count in FiberHistory.known(path, thresholds)
        if count.digest == digests.get(count.epoch)
    }
    missing = [(epoch, file) for epoch, file in files.items() if epoch not in known]
    found = _colored(missing, request)
    for count in counted(found, len(missing), f"coloring {len(missing)} checkpoints", watch):
        known[count.epoch] = replace(count, digest=digests[count.epoch])
    counts = [known[epoch] for epoch in files]
    for count in counts:
        stored.check_origin(count.env, source, files[count.epoch])
    for count in counts:
        if count.spaces.keys() != counts[-1].spaces.keys():
            file, last = files[count.epoch], files[counts[-1].epoch].name
            raise UserError(f"{file} is of another architecture than {last}: move one of them away")
    history = FiberHistory.from_counts(counts, thresholds)
    history.save(path)
    return history


def color(epoch: int, traced: graph.Traced, file: ModelFile, thresholds: Thresholds) -> Count:
    """One checkpoint's fibers, by coloring alone: also where the policy's code could not run with so few."""
    widths = traced.color(thresholds).widths
    return Count(
        epoch=epoch,
        env=stored.trained_on(file),
        spaces={s.name: SpaceCount(s.kind, s.units, widths[s.name]) for s in traced.network.spaces},
        params=parameters_at(traced.policy, traced.network, {}),
        params_collapsed=parameters_at(traced.policy, traced.network, widths),
    )


def color_each(files: Files, thresholds: Thresholds) -> Iterator[Count]:
    """The fibers of one checkpoint after the other; one trace for all in a row that have a policy's shapes.

    Not where its weights may have decided what it did when it was traced.
    """
    restored = traced = None
    for epoch, path in files:
        restored = restore(path, before=restored)
        if traced is None or traced.policy is not restored.policy or traced.network.branches:
            traced = graph.trace(restored.policy, restored.example_inputs)
        yield color(epoch, traced, restored.file, thresholds)


def table(history: FiberHistory) -> str:
    """One line a checkpoint: `epoch=3 params=.. params_collapsed=.. <space>=fibers/units ...`"""
    lines = []
    for count in history.counts:
        spaces = " ".join(f"{name}={space.fibers}/{space.units}" for name, space in count.spaces.items())
        size = f"params={count.params} params_collapsed={count.params_collapsed}"
        lines.append(f"epoch={count.epoch} {size} {spaces}")
    return "\n".join(lines)


def _colored(files: Files, request: FibersRequest) -> Iterator[Count]:
    """Two are done here; the rest in workers, where by the second one's time they are worth their start."""
    here = color_each(files, request.thresholds)
    yield from islice(here, 1)
    started = time.monotonic()
    yield from islice(here, 1)
    seconds, rest = time.monotonic() - started, files[2:]
    cores = min(request.processes or len(os.sched_getaffinity(0)), len(rest))
    if cores <= 1 or seconds * len(rest) < WORTH:
        yield from here
        return
    with multiprocessing.get_context("spawn").Pool(cores, initializer=worker.start) as pool:
        some = [(rest[i : i + STRETCH], request.thresholds) for i in range(0, len(rest), STRETCH)]
        for counts in pool.imap_unordered(_stretch, some):
            yield from counts


def _stretch(job: tuple[Files, Thresholds]) -> list[Count]:
    return list(color_each(*job))
