"""Run: a batch from its request to its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch.grid import found_beside, grid
from pufferlib_kcore.jobs.batch.launch import run_all
from pufferlib_kcore.jobs.batch.request import BatchRequest
from pufferlib_kcore.jobs.batch.schedule import work
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.store import MettaFolder, atomic
from pufferlib_kcore.store.lock import locked


@dataclass(frozen=True)
class Batch:
    """What came of a batch."""

    all_done: bool  # nothing failed, and every run is at its end
    report: str = ""  # for people
    no_report: str = ""  # why there is none


def run_batch(request: BatchRequest, tell: Callable[[str], None], watch: Watch = unwatched) -> Batch:
    """Work the grid off, then write its report.

    tell  gets a line on what happens as it happens
    Raises UserError for what cannot be run, before anything is.
    """
    folder = request.folder
    if MettaFolder(folder).exists():
        raise UserError(f"{folder} is a run: name another --batch")
    tasks = grid(request, tell)
    logs = folder / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {logs}: {error.strerror}; choose another --train-dir") from error
    with locked(folder, "wait until it ends, or name another --batch"):
        atomic.write(folder / "batch.json", (json.dumps(request.to_plain(), indent=2) + "\n").encode())
        launch = partial(run_all, request.launcher, request.jobs, request.slurm)
        failed = work(tasks, launch, logs, tell, watch)
        from pufferlib_kcore.jobs.batch import report  # which takes torch, and seconds

        try:
            others = found_beside(tasks, Path(request.train_dir))
            with watch("making the report"):
                written = report.write(folder, [*tasks, *others], failed, request.command)
        except UserError as error:
            return Batch(False, no_report=str(error))
    return Batch(not written.failed and all(task.is_done() for task in tasks), written.text)
