"""Forks: the two folders of a forking experiment, and the names and keys of what is in them.

results/<experiment>/<env>/<algo>/seed_<seed>_<stamp>/
    config.json  evaluations/step_<t>.json  forks/instability_<id>.json  all_forks_results.json
    fork_analysis/*.png
model_weights/<the same>/
    fork1_<id>.pt  fork2_<id>.pt  final.pt      and, until all is done, fork_<id>.pt and its buffer
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

RESULTS, WEIGHTS = "results", "model_weights"
VERSION = 1
FORK_KEYS = ("fork_id", "fork_point", "interpolation")
PLACE_KEYS = ("alpha", "mean_reward", "std_reward")


@dataclass(frozen=True)
class ForkFolder:
    """One experiment's folders."""

    results: Path
    weights: Path

    @classmethod
    def create(cls, root: Path, experiment: str, env: str, algo: str, seed: int) -> ForkFolder:
        """New ones below `root`, named after the seed and this second.  Raises UserError where they stand."""
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        below = Path(experiment) / env / algo / f"seed_{seed}_{stamp}"
        made = cls(root / RESULTS / below, root / WEIGHTS / below)
        try:
            for folder in (made.results, made.weights):
                folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{made.results} stands already: wait a second, or name another --seed") from None
        except OSError as error:
            raise UserError(f"cannot make {made.results}: {error.strerror}; choose another folder") from error
        return made

    @classmethod
    def open(cls, results: str | Path) -> ForkFolder:
        """Those of a results folder.  Raises UserError where it holds no experiment."""
        path = Path(results)
        if not (path / "config.json").is_file():
            what = "holds no experiment (no config.json)" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {what}; `ls {RESULTS}/base` lists what experiments.run_env made")
        parts = list(path.absolute().parts)
        where = len(parts) - 1 - parts[::-1].index(RESULTS) if RESULTS in parts else None
        if where is not None:
            parts[where] = WEIGHTS
        return cls(path, Path(*parts))

    # --- names ------------------------------------------------------------------------------------

    @property
    def config_path(self) -> Path:
        return self.results / "config.json"

    @property
    def all_path(self) -> Path:
        return self.results / "all_forks_results.json"

    @property
    def figures(self) -> Path:
        return self.results / "fork_analysis"

    @property
    def final_path(self) -> Path:
        return self.weights / "final.pt"

    def fork_path(self, fork: int) -> Path:
        return self.results / "forks" / f"instability_{fork}.json"

    def evaluation_path(self, step: int) -> Path:
        return self.results / "evaluations" / f"step_{step}.json"

    def child_path(self, fork: int, child: int) -> Path:
        """child: 1 or 2"""
        return self.weights / f"fork{child}_{fork}.pt"

    def state_path(self, fork: int) -> Path:
        """What a fork's children begin with; the trunk goes on from the newest, too."""
        return self.weights / f"fork_{fork}.pt"

    # --- what is in them --------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        return read_json(self.config_path)

    def forks(self) -> list[dict[str, Any]]:
        """What is known of each fork, in order.  Raises UserError where a file is cut short."""
        folder = self.results / "forks"
        named = [
            (int(m[1]), p) for p in folder.glob("*.json") if (m := re.fullmatch(r"instability_(\d+)", p.stem))
        ]
        found = [_checked(read_json(path), path) for _, path in sorted(named)]
        if not found and self.all_path.is_file():
            found = [_checked(fork, self.all_path) for fork in read_json(self.all_path, list)]
        return found

    def evaluations(self) -> list[dict[str, Any]]:
        """Those of the trunk, by step."""
        found = [read_json(path) for path in (self.results / "evaluations").glob("step_*.json")]
        return sorted(found, key=lambda one: one["step"])


def earlier(root: Path, experiment: str, env: str, algo: str) -> Iterator[ForkFolder]:
    """Experiments of this name, the newest first."""
    folder = root / RESULTS / experiment / env / algo
    found = [path for path in folder.glob("seed_*_*_*") if (path / "config.json").is_file()]
    for path in sorted(found, key=lambda p: p.name.split("_", 2)[2], reverse=True):
        yield ForkFolder.open(path)


def write_json(path: Path, value: Any) -> None:
    """Atomically, in a folder that is made where it is missing; no NaN: JSON has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, kind: type = dict) -> Any:
    """Raises UserError, naming the file, where it is missing, cut short, or of another kind."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is cut short or damaged: delete it and give the same command again, which goes on"
        ) from error
    if not isinstance(found, kind):
        raise UserError(f"{path} holds a {type(found).__name__}, expected a {kind.__name__}")
    return found


def write_tensors(path: Path, value: Mapping[str, Any]) -> None:
    """As torch.load(weights_only=True) reads them."""
    buffer = io.BytesIO()
    torch.save(dict(value), buffer)
    atomic.write(path, buffer.getbuffer())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    atomic.write(path, buffer.getbuffer())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as held:
        return {name: held[name] for name in held.files}


def _checked(fork: Any, path: Path) -> dict[str, Any]:
    line = fork.get("interpolation") if isinstance(fork, dict) else None
    whole = line and all(key in place for place in line for key in PLACE_KEYS)
    if not whole or any(key not in fork for key in FORK_KEYS):
        raise UserError(
            f"{path} is no fork's result: expected {', '.join(FORK_KEYS)}, of each place "
            f"{', '.join(PLACE_KEYS)}"
        )
    return fork
