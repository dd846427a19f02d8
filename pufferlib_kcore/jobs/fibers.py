"""Fibers: color every checkpoint of a run, without touching it, on all cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import stored, worker
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.store import Count, FiberHistory, SpaceCount, checkpoints, runs

Thresholds = float | dict[str, float]
WORTH = 10.0  # seconds of coloring for which workers, who take some to start, are worth it


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
    missing = [(epoch, str(file), thresholds) for epoch, file in files.items() if epoch not in known]
    for count in counted(
        _colored(missing, request.processes), len(missing), f"coloring {len(missing)} checkpoints", watch
    ):
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


def color(job: tuple[int, str, Thresholds]) -> Count:
    """One checkpoint's fibers."""
    epoch, path, thresholds = job
    restored = restore(path)
    result = graph.collapse(restored.policy, restored.example_inputs, thresholds)
    return Count(
        epoch=epoch,
        env=stored.trained_on(restored.file),
        spaces={
            name: SpaceCount(result.kinds[name], len(labels), int(labels.max()) + 1)
            for name, labels in result.fibers.items()
        },
        params=result.report.params_before,
        params_collapsed=result.report.params_after,
    )


def table(history: FiberHistory) -> str:
    """One line a checkpoint: `epoch=3 params=.. params_collapsed=.. <space>=fibers/units ...`"""
    lines = []
    for count in history.counts:
        spaces = " ".join(f"{name}={space.fibers}/{space.units}" for name, space in count.spaces.items())
        size = f"params={count.params} params_collapsed={count.params_collapsed}"
        lines.append(f"epoch={count.epoch} {size} {spaces}")
    return "\n".join(lines)


def _colored(jobs: list, processes: int | None) -> Iterator[Count]:
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
