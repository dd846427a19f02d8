"""Local: a command run to its end on this machine, and how to stop all that run."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Command:
    """A program to run, and the file that gets what it prints."""

    name: str
    argv: tuple[str, ...]
    log: Path
    folder: Path = field(default_factory=Path.cwd)  # where it runs


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int  # 0, an exit status, or the negative of the signal that ended it
    seconds: float = 0.0
    peak_bytes: int = 0  # of its largest process
    message: str = ""  # why there is no exit status
    node: str = ""  # the node of a Ray cluster that it ran on


Call = Callable[[Command, Sequence[int]], Outcome]  # the cores: those it may use here, empty for any


def execute(command: Command, cores: Sequence[int] = ()) -> Outcome:
    """Run a command to its end, on these cores; it is asked to stop should this process die."""
    started = time.monotonic()
    with open(command.log, "ab") as log:
        child = subprocess.Popen(
            command.argv,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=command.folder,
            preexec_fn=lambda: _settle(cores),
        )
        with _running(child):
            _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Outcome(child.returncode, time.monotonic() - started, usage.ru_maxrss * unit)


# --- what runs now ------------------------------------------------------------------------------

_children: set[subprocess.Popen] = set()
_lock = threading.Lock()


def stop() -> None:
    """Ask all that runs here to save and end."""
    with _lock:
        for child in _children:
            child.send_signal(signal.SIGTERM)


@contextmanager
def _running(child: subprocess.Popen) -> Iterator[None]:
    with _lock:
        _children.add(child)
    try:
        yield
    finally:
        with _lock:
            _children.discard(child)


def _settle(cores: Sequence[int]) -> None:
    """In the child: only these cores, and SIGTERM when the parent dies."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
