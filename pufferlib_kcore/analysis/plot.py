"""Plot: how runs went, and what their policies looked like meanwhile, findings marked where they began.

    python -m pufferlib_kcore.analysis.plot --input experiments/cartpole-0123abcd [MORE ...] [--out FILE.png]

An input is a run's folder, or a file of anybody's metrics (JSON lines or CSV).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pufferlib_kcore.diagnostics.records import Records, read
from pufferlib_kcore.diagnostics.signals import filled
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import Run, metrics
from pufferlib_kcore.text import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {  # title: the first of these metrics that a run has
    "episode return": ("episode_return",),
    "evaluation return": ("eval_return",),
    "entropy [nats]": ("diagnosis/entropy", "entropy"),
    "approx_kl [nats]": ("approx_kl",),
    "ratios outside the clip": ("clipfrac",),
    "explained variance": ("explained_variance",),
    "action diversity": ("diagnosis/action_diversity",),
    "policy churn": ("diagnosis/churn",),
    "dormant units": ("diagnosis/dormant",),
    "gradient-dormant units": ("diagnosis/gradient_dormant",),
    "effective rank": ("diagnosis/effective_rank",),
    "weight norm": ("diagnosis/weight_norm",),
    "fibers": ("diagnosis/fibers", "breaking/fibers_after"),
    "capacity": ("diagnosis/capacity",),
}
COLUMNS = 3


@dataclass(frozen=True)
class Shown:
    """A run to draw."""

    name: str
    records: Records
    findings: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, path: str | Path) -> Shown:
        """A run's folder with what --mode diagnose wrote there, or a file of metrics.

        Raises UserError where there are no metrics.
        """
        path = Path(path)
        if not path.is_dir():
            return cls(path.stem, read(path))
        run = Run(path)
        rows: dict[int, dict[str, Any]] = {}
        for record in [*metrics.read(run.diagnosis_path), *run.metrics()]:
            epoch = int(record.get("epoch", 0))
            rows[epoch] = {**rows.get(epoch, {}), **record}
        if not rows:
            raise UserError(f"{path} has no metrics.jsonl: name a run's folder, or a file of metrics")
        records = Records.of([rows[epoch] for epoch in sorted(rows)])
        return cls(path.name, records, metrics.read(run.findings_path))

    def column(self, names: Sequence[str]) -> np.ndarray | None:
        return next((self.records[name] for name in names if name in self.records), None)


def plot(runs: Sequence[Shown]) -> Figure:
    """One panel for each metric that a run has, over epochs; a finding is a dashed line where it began."""
    from matplotlib.figure import Figure

    panels = {
        title: names for title, names in PANELS.items() if any(r.column(names) is not None for r in runs)
    }
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.6 * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, COLUMNS, squeeze=False))
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        for number, run in enumerate(runs):
            if (y := run.column(names)) is None:
                continue
            known = np.isfinite(y)
            axis.plot(run.records["epoch"][known], y[known], color=f"C{number % 10}", lw=1.2, label=run.name)
            for finding in run.findings:
                axis.axvline(finding["onset"], color=f"C{number % 10}", ls="--", lw=0.8)
        axis.set(title=title)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    axes[0].legend(fontsize=7)
    for axis in axes[max(0, len(panels) - COLUMNS) : len(panels)]:
        axis.set_xlabel("epoch")
    return figure


def table(runs: Sequence[Shown]) -> str:
    """What each run ended with, and its findings."""
    header: list[Any] = ["run", "epochs", *PANELS]
    rows: list[list[Any]] = [
        [run.name, len(run.records), *(_last(run.column(names)) for names in PANELS.values())] for run in runs
    ]
    filled_columns = [i for i in range(len(header)) if any(row[i] is not None for row in rows)]
    lines = [aligned([[row[i] for i in filled_columns] for row in [header, *rows]], range(1, len(header)))]
    for run in runs:
        lines += [
            f"{run.name}: {one['kind']} ({one['severity']}) since epoch {one['onset']}"
            for one in run.findings
        ]
    return "\n".join(lines)


def _last(y: np.ndarray | None) -> float | None:
    return None if y is None else float(filled(y)[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """-> 0, or 2 for a user's mistake, in one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m pufferlib_kcore.analysis.plot", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="RUN", help="run folders, or files of metrics"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="a .png, .svg or .pdf (default: plot.png in the first input)"
    )
    given = parser.parse_args(argv)
    try:
        runs = [Shown.of(path) for path in given.input]
        first = Path(given.input[0])
        out = Path(given.out) if given.out else (first if first.is_dir() else first.parent) / "plot.png"
        if out.suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"--out {out}: expected a name that ends in .png, .svg or .pdf")
        plot(runs).savefig(out, dpi=110)
    except UserError as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"plot: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    print(table(runs))
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
