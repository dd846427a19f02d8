"""Lab: the folder of one experiment of the failure lab, and the names and keys of what is in it.

results/lab/<name>/
    protocol.yaml  result.json  report.md  log.txt  visualizations/*.png
    seed_<k>/      metrics.jsonl, checkpoints; of PPO a run, ppo/
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store.forks import read_json, write_json

ROOT = Path("results") / "lab"
VERSION = 1
KEYS = ("protocol", "answer", "seeds")  # of result.json


@dataclass(frozen=True)
class LabFolder:
    """One experiment's folder."""

    path: Path

    @property
    def protocol_path(self) -> Path:
        return self.path / "protocol.yaml"

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.md"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    @property
    def pictures(self) -> Path:
        return self.path / "visualizations"

    def seed_path(self, seed: int) -> Path:
        return self.path / f"seed_{seed}"

    def result(self) -> dict[str, Any]:
        """Raises UserError, naming the file, where it is missing, cut short, or no result."""
        return read_result(self.result_path)

    def write_result(self, plain: dict[str, Any]) -> None:
        write_json(self.result_path, {"version": VERSION, **plain})


def read_result(path: Path) -> dict[str, Any]:
    """One result.json.  Raises UserError, naming the file."""
    found = read_json(path)
    missing = next((key for key in KEYS if key not in found), None)
    if missing is not None:
        raise UserError(f"{path} is no experiment's result: it has no {missing!r}")
    return found


def lab_folders(root: str | Path = ROOT) -> Iterator[LabFolder]:
    """Experiments below a folder that have a protocol, by path."""
    for path in sorted(Path(root).rglob("protocol.yaml")):
        yield LabFolder(path.parent)
