"""Records: a run's metrics as columns over its epochs, whoever wrote them and whatever they are called."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import nearest

# What others call our metrics; a minus: with the other sign.
ALIASES = {
    "epoch": ("iteration", "time/iterations", "update"),
    "agent_steps": ("global_step", "time/total_timesteps", "step", "total_timesteps", "timesteps"),
    "episode_return": (
        *("environment/episode_return", "rollout/ep_rew_mean", "charts/episodic_return", "episodic_return"),
        *("mean_reward", "return", "reward"),
    ),
    "episode_length": ("environment/episode_length", "rollout/ep_len_mean", "charts/episodic_length"),
    "entropy": ("losses/entropy", "-train/entropy_loss", "policy_entropy"),
    "approx_kl": ("losses/approx_kl", "train/approx_kl", "kl"),
    "clipfrac": ("losses/clipfrac", "train/clip_fraction", "clip_fraction"),
    "policy_loss": ("losses/policy_loss", "train/policy_gradient_loss", "pg_loss"),
    "value_loss": ("losses/value_loss", "train/value_loss", "vf_loss"),
    "explained_variance": ("losses/explained_variance", "train/explained_variance"),
    "learning_rate": ("charts/learning_rate", "train/learning_rate", "lr"),
    "eval_return": ("diagnosis/eval_return_greedy", "eval/mean_reward", "evaluation/episode_return"),
    "eval_return_drawn": ("diagnosis/eval_return",),
    "gradient_norm": ("losses/gradient_norm", "grad_norm", "losses/grad_norm", "train/grad_norm"),
    "true_return": ("environment/true_return",),
}
NUMBERS = (int, float, np.number)


@dataclass(frozen=True)
class Records:
    """Columns (epochs,) float64 by our names, others by their own; nan where nothing was written."""

    columns: Mapping[str, np.ndarray]
    odd: Mapping[str, int] = field(default_factory=dict)  # columns that say NaN or infinity, and first where

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Records:
        """One record an epoch, in the order of `epoch` where it tells them apart, else in their own. What is
        no number is nan; infinities stay.

        Raises UserError where there are none, or none of a record's names is known.
        """
        rows = list(records)
        if not rows:
            raise UserError("there are no metrics to look at: the file or the list is empty")
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {str(name): np.array([_number(row.get(name)) for row in rows]) for name in names}
        columns = {name: column for name, column in columns.items() if not np.isnan(column).all()}
        told_odd = [str(name) for name in names if any(_odd(row.get(name)) for row in rows)]
        for name, others in ALIASES.items():
            for other in others if name not in columns else ():
                sign, plain = (-1, other[1:]) if other.startswith("-") else (1, other)
                if plain in columns:
                    columns[name] = sign * columns[plain]
                    break
        if not columns.keys() & ALIASES.keys():
            told = ", ".join(map(str, names)) or "nothing"
            raise UserError(
                f"none of these metrics is known: {told[:200]}; expected such as episode_return, entropy, "
                "value_loss and approx_kl"
            )
        epoch = columns.get("epoch")
        if epoch is None or np.isnan(epoch).any() or len(np.unique(epoch)) < len(epoch):
            columns["epoch"] = np.arange(1.0, len(rows) + 1)
        elif (np.diff(epoch) < 0).any():
            order = np.argsort(epoch)
            rows = [rows[i] for i in order]
            columns = {name: column[order] for name, column in columns.items()}
        odd = {name: next(i for i, row in enumerate(rows) if _odd(row.get(name))) for name in told_odd}
        return cls(columns, odd)

    def __len__(self) -> int:
        return len(self.columns["epoch"])

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> np.ndarray:
        """A column; all nan where nobody wrote it."""
        return self.columns.get(name, np.full(len(self), math.nan))

    def named(self, name: str) -> np.ndarray:
        """A column that must be there.  Raises UserError with the nearest name"""
        if name not in self.columns:
            near = nearest(name, self.columns)
            raise UserError(
                f"no metric {name!r} in these records: "
                + (f"did you mean {near}?" if near else f"there are {', '.join(self.columns)}")
            )
        return self.columns[name]


def read(path: str | Path, true_metric: str | None = None) -> Records:
    """Records from a file of one JSON object a line, or from CSV with names in its first line (*.csv).

    true_metric: the name of what should rise with the return, which becomes `true_return`.
    Raises UserError naming the file and the line that is neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets mark what they write
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; name a metrics.jsonl, or a CSV file") from error
    if path.suffix.lower() == ".csv":
        table = csv.DictReader(text.splitlines())
        twice = [name for name, n in Counter(table.fieldnames or ()).items() if n > 1]
        if twice:
            raise UserError(f"{path} has two columns {twice[0]!r}: which of them is meant cannot be told")
        rows: list[Any] = list(table)
    else:
        rows = []
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError:
                if number == len(lines):  # a process that was killed wrote a part of it
                    break
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}, is no JSON object: expected one record a line")
            rows.append(row)
    try:
        found = Records.of([row for row in rows if row])
        if true_metric is None:
            return found
        return replace(found, columns={**found.columns, "true_return": found.named(true_metric)})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _odd(value: Any) -> bool:
    """Whether somebody wrote that it is no finite number; a hole, or null, says nothing."""
    if isinstance(value, str):
        return value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
    return not isinstance(value, bool) and isinstance(value, NUMBERS) and not math.isfinite(_number(value))


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return math.nan
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer beyond float64
        return math.inf if value > 0 else -math.inf
