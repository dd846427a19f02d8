"""Usage: the time and the memory that a run took, over all the attempts at it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pufferlib_kcore.jobs.batch.local import Command, Outcome
from pufferlib_kcore.store import atomic


def remember(done: Command, outcome: Outcome) -> None:
    """Add up time, and keep the highest memory, over the attempts at a run."""
    path = file_of(done)
    old = recalled(path)
    usage = replace(
        outcome,
        seconds=outcome.seconds + old.get("seconds", 0),
        peak_bytes=max(outcome.peak_bytes, old.get("peak_bytes", 0)),
    )
    atomic.write(path, json.dumps(asdict(usage)).encode())


def forget(command: Command) -> None:
    """What an earlier run of that name took is none of this one's."""
    file_of(command).unlink(missing_ok=True)


def recalled(path: Path) -> dict[str, Any]:
    """What is remembered in a file, {} where nothing is."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def file_of(command: Command) -> Path:
    """Beside its log."""
    return command.log.with_suffix(".json")
