"""Rounds: measurements that take turns on one machine, each in a process of its own; kept, and compared."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore.store import provenance  # noqa: E402

SETTINGS = {  # of every training that is measured
    "train.num_envs": 16,
    "train.batch_size": 4096,
    "train.minibatch_size": 1024,
    "train.bptt_horizon": 8,
    "train.checkpoint_interval": 1_000_000,  # at the end alone
}
LIMIT = 3600  # seconds of one measurement


class Failed(RuntimeError):
    """A measurement's process did not end well; the message holds its last words."""


def run(command: Sequence[object], log: Path, limit: float | None = LIMIT) -> None:
    """Run a program to its end, at most `limit` seconds; it prints to `log`; what it started ends with it.

    Raises Failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        words = [sys.executable, *map(str, command)]
        child = subprocess.Popen(words, cwd=REPO, stdout=out, stderr=out, start_new_session=True)
        try:
            status = child.wait(limit)
            ended = f"exit status {status}" if status else ""
        except subprocess.TimeoutExpired:
            ended = f"not done within {limit:.0f} s"
        finally:  # env workers as well, which some trainers leave behind
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
    if ended:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
        raise Failed(f"{ended}: {' | '.join(last) or 'it said nothing'} ({log})")


def train(
    options: Sequence[object], folder: Path, processes: int | None = None, limit: float | None = LIMIT
) -> list[dict[str, Any]]:
    """Train ours into a new folder, the log beside it.  -> records of its epochs.  Raises Failed.

    processes: that torchrun starts; None: without torchrun
    """
    start = f"-m torch.distributed.run --standalone --nproc-per-node {processes}".split() if processes else []
    place = ["--train.data-dir", folder.parent, "--exp-id", folder.name]
    run([*start, REPO / "demo.py", *options, *place], folder.with_name(f"{folder.name}.log"), limit)
    return lines(folder / "metrics.jsonl")


def train_rival(
    name: str, options: Sequence[object], folder: Path, limit: float | None = LIMIT
) -> list[dict[str, Any]]:
    """The same of a trainer of rivals.py."""
    folder.mkdir(parents=True)
    program, out = REPO / "benchmarks/rivals.py", folder / "epochs.jsonl"
    run([program, name, *options, "--out", out], folder.with_name(f"{folder.name}.log"), limit)
    return lines(out)


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that holds one a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Measured:
    """Rows on disk, one a line, each written when it is measured; what is there is not measured again.

    Rows of another commit or machine stay in the file and count for nothing.
    """

    def __init__(self, path: Path):
        about = provenance(REPO)
        self.about = {key: about[key] for key in ("machine", "versions", "git_commit")}
        self.path, self.rows = path, []
        if path.exists():
            here = (self.about["git_commit"], self.about["machine"])
            self.rows = [row for row in lines(path) if (row["commit"], row["machine"]) == here]

    def forget(self, table: str) -> None:
        """Drop the rows of one table, those of other commits as well."""
        if self.path.exists():
            kept = [row for row in lines(self.path) if row["table"] != table]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.rows = [row for row in self.rows if row["table"] != table]

    def find(self, **key: Any) -> dict[str, Any] | None:
        return next((row for row in self.rows if all(row.get(k) == v for k, v in key.items())), None)

    def add(self, **row: Any) -> dict[str, Any]:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = row | {"commit": self.about["git_commit"], "machine": self.about["machine"]}
        whole["time"] = time.strftime("%Y-%m-%dT%H:%M:%S")
        with self.path.open("a") as file:
            file.write(json.dumps(whole) + "\n")
        return row


def machine(section: dict[str, Any]) -> str:
    """Where a section of results was measured.  section: with what `Measured.about` holds"""
    m, commit = section["machine"], section["git_commit"] or "unknown"
    return f"{m['cpu']}, {m['cores']} cores, torch {section['versions']['torch']}, commit {commit[:10]}."


def in_turn(names: Sequence[str], turn: int) -> list[str]:
    """Who is measured when: each round begins with another one.  turn: from 1"""
    first = (turn - 1) % len(names) if names else 0
    return [*names[first:], *names[:first]]


def ratios(mine: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Mine over theirs, in each round that has both."""
    return [mine[turn] / theirs[turn] for turn in sorted(mine.keys() & theirs.keys())]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """{median, min, max}; None of nothing"""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def cell(found: dict[str, float] | None, form: str, unit: str = "") -> str:
    """1.64 x [1.59, 1.68]"""
    if found is None:
        return "-"
    low, high = format(found["min"], form), format(found["max"], form)
    return f"{found['median']:{form}}{unit} [{low}, {high}]"
