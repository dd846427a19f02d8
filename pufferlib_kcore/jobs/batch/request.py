"""Request: what a batch is asked for, a field an option of kcore.sh; every list makes the grid larger."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from pufferlib_kcore.settings.sections import KINDS


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """The runs to collapse, at which epochs and how, what is trained beside them, and where."""

    exp_name: tuple[str, ...]  # runs in train_dir
    epoch_idx: tuple[int, ...] = (50,)  # or the nearest
    linear_thr: tuple[float, ...] = (0.7,)  # cosine distances, 0 to 2
    cnn_thr: tuple[float, ...] = (0.5,)
    lstm_thr: tuple[float, ...] = (1.0,)
    critic_thr: tuple[float, ...] = (0.8,)
    target_params: tuple[float, ...] = ()  # in place of thresholds: parts of the parameters to keep
    seeds: tuple[int, ...] = ()  # of training, and of what controls draw; none: the run's own
    kinds: tuple[str, ...] = ("collapsed",)  # of names.METTA_ROLE_OF
    train_dir: str = "train_dir"  # folder of the runs
    env: str | None = None  # where it is said, the runs are of it
    batch: str | None = None  # name of the batch's own folder in train_dir
    jobs: int = 1  # trainings at once
    launcher: str = "local"  # one of launch.LAUNCHERS
    slurm: Mapping[str, str] = field(default_factory=dict)  # submitit's parameters
    track: str = "none"  # who is told the metrics
    passed: tuple[str, ...] = ()  # options of demo.py, for every training

    @property
    def folder(self) -> Path:
        """Of the batch: its logs and its report."""
        return Path(self.train_dir) / (self.batch or "+".join(self.exp_name) + "_kcore")

    @property
    def settings(self) -> list[tuple[float, ...]]:
        """What to collapse by: (part of the parameters,), or (linear, cnn, lstm, critic) thresholds."""
        if self.target_params:
            return [(size,) for size in self.target_params]
        return list(product(*(getattr(self, f"{kind}_thr") for kind in KINDS)))

    @property
    def command(self) -> str:
        """The command that asks for the same batch, whatever kcore.sh and the environment say."""
        words = ["bash", "kcore.sh"]
        unused = self.target_params or self.kinds == ("original",)
        left_out = [f"{kind}_thr" for kind in KINDS] if unused else []
        for name, value in self.options().items():
            if name not in left_out and value not in (None, (), {}, "local"):
                values = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
                values = values if isinstance(values, (list, tuple)) else [values]
                words += [f"--{name.replace('_', '-')}", *map(str, values)]
        return shlex.join([*words, *self.passed])

    def options(self) -> dict[str, Any]:
        """All but what is passed on, by name."""
        known = asdict(self)
        del known["passed"]
        return known

    def to_plain(self) -> dict[str, Any]:
        """What batch.json keeps."""
        return {"command": self.command, "passed": self.passed, **self.options()}


THRESHOLDS: dict[str, float] = {
    kind: getattr(BatchRequest, f"{kind}_thr")[0] for kind in KINDS
}  # unless said
