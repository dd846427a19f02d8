"""Sources: a run's curve, fibers and origin from a run folder, a Run, or the path of a log."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.analysis import logs
from pufferlib_kcore.analysis.curves import Curve, column
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import CollapseFolder, FiberHistory, FibersFile, Run
from pufferlib_kcore.store.forks import read_json
from pufferlib_kcore.store.names import parse_collapse_folder

LOGS = ("metrics.jsonl", "log.out", "log_collapsed.out")  # in a run folder, the first that holds records


@dataclass(frozen=True)
class Source:
    """All that is known of one run."""

    name: str
    curve: Curve
    header: dict[str, Any] = field(default_factory=dict)  # first line of the plain log
    config: dict[str, Any] = field(default_factory=dict)  # config.json
    records: list[dict[str, Any]] = field(default_factory=list)
    collapse: CollapseFolder | None = None  # that the run was resumed from, where it lies in its folder
    history: FiberHistory | None = None
    lines: list[dict[str, Any]] = field(
        default_factory=list
    )  # to its collapse and on, as connectivity.json has them
    forks: bytes | None = None  # the picture of its forks' lines

    @property
    def env(self) -> str | None:
        return self.header.get("env") or self.config.get("run", {}).get("env")

    @property
    def sps(self) -> float | None:
        """Median agent steps a second over the epochs, None where they were not logged."""
        speeds = sorted(speed for speed in column(self.records, "SPS") if speed == speed)
        return float(speeds[len(speeds) // 2]) if speeds else None

    @property
    def params(self) -> int | None:
        """Parameters of its policy, as its log says or its checkpoints show; None where neither does."""
        told = self.header.get("params")
        known = self.history.params[np.isfinite(self.history.params)] if self.history else []
        return told if told is not None or not len(known) else int(known[-1])

    @property
    def collapse_epoch(self) -> int | None:
        """The epoch whose checkpoint was collapsed into this run, None where that is not known."""
        return self.collapse.epoch if self.collapse else self.header.get("collapse_epoch")

    @property
    def thresholds(self) -> Any:
        """The threshold of that collapse, or its thresholds by kind; None where not known."""
        return self.collapse.thresholds if self.collapse else self.header.get("threshold")

    def fibers(self) -> FibersFile | None:
        """fibers.pkl of that collapse, None where there is none."""
        path = self.collapse.fibers_path if self.collapse else None
        return FibersFile.load(path) if path and path.exists() else None


def source(run: "Run | Path | str") -> Source:
    """What is known of a run.  A log whose first line names a run that is still there tells of that too.

    Raises UserError where there is neither a run nor a log with records.
    """
    if not isinstance(run, Run) and not Path(run).is_dir():
        log = logs.read(run)
        told = Run(Path(str(log.header.get("run", ""))))
        return _described(str(run), log.records, log.header, told if told.exists() else None)
    run = run if isinstance(run, Run) else Run.open(run)
    return _described(run.exp_id, *_logged(run), run)


def _described(name: str, records: list[dict[str, Any]], header: dict[str, Any], run: Run | None) -> Source:
    """The source of these records, with what the run's folder adds."""
    curve = Curve.from_records(records)
    if run is None:
        return Source(name, curve, header, records=records)
    nested = parse_collapse_folder(run.path.absolute().parent.name)
    collapse = CollapseFolder(run.path.absolute().parent) if nested else None
    history = FiberHistory.of(run.history_path) if run.history_path.exists() else None
    lines = read_json(run.lines_path)["lines"] if run.lines_path.is_file() else []
    forks = run.forks_picture.read_bytes() if run.forks_picture.is_file() else None
    return Source(name, curve, header, run.config(), records, collapse, history, lines, forks)


def _logged(run: Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records from the first of a run's logs that holds any, the header from the first that has one."""
    texts = [(run.path / name).read_text(errors="replace") for name in LOGS if (run.path / name).is_file()]
    found = [logs.read_text(text) for text in texts]
    records = next((log.records for log in found if log.records), None)
    if records is None:
        raise UserError(f"{run.path} has logged no epoch yet; train it further with --exp-id {run.exp_id}")
    return records, next((log.header for log in found if log.header), {})
