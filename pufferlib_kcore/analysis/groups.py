"""Groups: the runs of a batch that are to be compared, an original and what was made of it at one setting."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pufferlib_kcore.analysis import intervals, logs
from pufferlib_kcore.analysis.curves import Curve
from pufferlib_kcore.analysis.intervals import Estimate
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.sections import KINDS
from pufferlib_kcore.store import Run, names

RUN_KINDS = tuple(names.METTA_ROLE_OF)  # the original first
CONTROLS = tuple(kind for kind in RUN_KINDS if kind != "collapsed")  # what collapsed runs are compared with
STATUSES = ("failed", "unfinished", "skipped", "done")  # in the order in which they are worth a look


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run of a batch."""

    name: str  # of the run, e.g. t1_epoch_340_base_0.7_0.5_1_0.8_seed1
    exp: str  # the experiment that was collapsed
    epoch: int  # at which
    kind: str  # one of RUN_KINDS
    setting: str  # thresholds or target size, e.g. "0.7_0.5_1_0.8" or "params0.2"; "" for the original
    seed: int
    path: Path  # the run's folder, which a run that failed early may not have
    status: str  # one of STATUSES
    message: str = ""  # one line about a failure
    log: Path | None = None  # what it printed
    params: int | None = None  # of its policy
    params_original: int | None = None
    seconds: float | None = None  # wall time of training
    peak_bytes: int | None = None  # peak memory of the training processes
    latency: Mapping[int, float] = field(default_factory=dict)  # batch size -> seconds of one forward
    weights_bytes: int | None = None
    env: str | None = None  # the environment's name
    kl: float | None = None  # of the collapsed policy to the original before training [nats], where measured


@dataclass(frozen=True)
class Result:
    """An entry and what its run logged."""

    entry: Entry
    curve: Curve | None  # None where it logged no epoch

    @classmethod
    def of(cls, entry: Entry) -> "Result":
        """Raises UserError where the kind or the status is none that is known."""
        for what, value, known in (("kind", entry.kind, RUN_KINDS), ("status", entry.status, STATUSES)):
            if value not in known:
                expected = f"expected one of {', '.join(known)}"
                raise UserError(f"run {entry.name} has the {what} {value!r}, {expected}")
        path = Run(entry.path).metrics_path
        records = logs.read_text(path.read_text(errors="replace")).records if path.is_file() else []
        return cls(entry, Curve.from_records(records) if records else None)

    @property
    def final(self) -> float:
        """Mean return over the last tenth of the epochs; nan where no episode finished."""
        return self.curve.final() if self.curve else float("nan")

    @property
    def steps(self) -> int | None:
        return int(self.curve.steps[-1]) if self.curve else None

    @property
    def counts(self) -> bool:
        """Whether the run tells what its kind comes to: it is done, and an episode finished at its end."""
        return self.entry.status == "done" and bool(np.isfinite(self.final))


@dataclass(frozen=True)
class Group:
    """All seeds of all kinds at one experiment, epoch and setting."""

    exp: str
    epoch: int
    setting: str  # "" where there are only originals
    runs: Mapping[str, Sequence[Result]]  # by kind

    @property
    def place(self) -> str:
        return f"{self.exp}, epoch {self.epoch}"

    @property
    def label(self) -> str:
        return f"{self.place}, {told(self.setting)}" if self.setting else self.place

    def counted(self, kind: str) -> list[Result]:
        """The runs of that kind that count."""
        return [run for run in self.runs.get(kind, ()) if run.counts]

    def finals(self, kind: str) -> np.ndarray:
        """(seeds,) final returns of the runs that count."""
        return np.array([run.final for run in self.counted(kind)])

    @cached_property
    def final(self) -> dict[str, Estimate]:
        """Final return by kind: interquartile mean over the seeds."""
        return {kind: intervals.interquartile_mean(self.finals(kind)) for kind in RUN_KINDS}

    @cached_property
    def improvement(self) -> dict[str, Estimate]:
        """Probability that a collapsed run ends higher than one of the other kind."""
        collapsed = self.finals("collapsed")
        return {kind: intervals.improvement([collapsed], [self.finals(kind)]) for kind in CONTROLS}

    def p_value(self, kind: str) -> float:
        """Of the Mann-Whitney test of collapsed against that kind."""
        return intervals.p_value(self.finals("collapsed"), self.finals(kind))

    @property
    def kl(self) -> float:
        """Of the collapsed policies to the original before training (median), nan where not measured."""
        return median(run.entry.kl for run in self.runs.get("collapsed", ()))

    def params(self, kind: str) -> float:
        """Parameters of that kind's policies (median), nan where not known."""
        return median(run.entry.params for run in self.runs.get(kind, ()))

    @property
    def params_original(self) -> float:
        """Parameters before the collapse, as the runs or else the originals tell; nan where not known."""
        runs = [run for kind in RUN_KINDS for run in self.runs.get(kind, ())]
        told = median(run.entry.params_original for run in runs)
        return told if np.isfinite(told) else self.params("original")

    def kept(self, kind: str) -> float:
        """Part of the original's parameters that that kind has, nan where not known."""
        return self.params(kind) / self.params_original if self.params_original else float("nan")


def grouped(results: Iterable[Result]) -> list[Group]:
    """Groups in the order of the entries; an original stands in every group of its experiment and epoch."""
    places: dict[tuple[str, int], dict[str, dict[str, list[Result]]]] = {}
    originals: dict[tuple[str, int], list[Result]] = {}
    for run in results:
        entry = run.entry
        settings = places.setdefault((entry.exp, entry.epoch), {})
        if entry.kind == "original":
            originals.setdefault((entry.exp, entry.epoch), []).append(run)
        else:
            settings.setdefault(entry.setting, {}).setdefault(entry.kind, []).append(run)
    found = []
    for place, settings in places.items():
        for setting, runs in (settings or {"": {}}).items():
            found.append(Group(*place, setting, {"original": originals.get(place, []), **runs}))
    return found


def told(setting: str) -> str:
    """A setting in words.

    >>> told("0.7_0.5_1.0_0.8"), told("params0.05"), told("")
    ('linear 0.7, cnn 0.5, lstm 1.0, critic 0.8', 'searched for 5% of the parameters', '')
    """
    if setting.startswith("params"):
        return f"searched for {100 * float(setting.removeprefix('params')):.4g}% of the parameters"
    parts = setting.split("_")
    if len(parts) != len(KINDS):
        return setting
    return ", ".join(f"{kind} {threshold}" for kind, threshold in zip(KINDS, parts, strict=True))


def median(values: Iterable[float | None]) -> float:
    """Of those that are known; nan where none is."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else float("nan")
