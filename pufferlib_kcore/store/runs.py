"""Run folders: where a run keeps its checkpoints, metrics and settings, and where its collapses go."""

import json
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic, metrics, names
from pufferlib_kcore.store.lock import locked


@dataclass(frozen=True)
class Run:
    """One training run: <root>/<env>-<8 hex>/ and the files in it."""

    path: Path

    @classmethod
    def create(cls, root: str | Path, env: str, exp_id: str | None = None) -> "Run":
        """A new folder below root, which is made where missing: <env>-<8 hex>, or exp_id as it stands.

        root: experiments/, or a collapse folder.  A folder exp_id that holds no checkpoint is taken over.
        Raises UserError where it holds one, where exp_id is no folder's name, where the disk refuses.
        """
        if exp_id is not None:
            cls.check_name(exp_id)
        run = cls(Path(root) / (exp_id or names.run_folder(env, secrets.token_hex(4))))
        if run.checkpoints():
            raise UserError(f"{run.path} holds a run; continue it with --resume, or choose another --exp-id")
        try:
            run.path.mkdir(parents=True, exist_ok=exp_id is not None)
        except OSError as error:
            raise UserError(f"cannot make {run.path}: {error.strerror}; choose another folder") from error
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with run.lock():  # another process may train in it that has saved nothing yet
            run._write_config({"run": {"env": env, "exp_id": run.exp_id, "created": created}})
        return run

    @staticmethod
    def check_name(exp_id: str) -> None:
        """Raise UserError where a new run cannot be called so."""
        if not exp_id or "/" in exp_id or exp_id.startswith("."):
            raise UserError(f"--exp-id {exp_id!r} cannot name a new run, expected one word such as 'my_run'")
        if names.parse_collapse_folder(exp_id):
            raise UserError(f"--exp-id {exp_id!r} is a collapse folder's name; choose another one")

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The run in a folder.  Raises UserError where the folder is missing or holds no run."""
        run = cls(Path(path))
        if not run.exists():
            what = "holds no run (no config.json, no model_*.pt)" if run.path.is_dir() else "does not exist"
            raise UserError(f"{path} {what}; name a run's folder, or make one with `{train_command('ENV')}`")
        return run

    def exists(self) -> bool:
        """Whether the folder holds a run: a configuration or a checkpoint."""
        return (self.path / "config.json").is_file() or bool(self.checkpoints())

    # --- names -----------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder that holds the top-level run, usually experiments/."""
        folder = self.path.absolute().parent
        while names.parse_collapse_folder(folder.name):
            folder = folder.parent.parent
        return folder

    @property
    def exp_id(self) -> str:
        """The run's name, or its path below the root where it was resumed from a collapse."""
        return self.path.absolute().relative_to(self.root).as_posix()

    @property
    def env(self) -> str | None:
        """The env's name, as the configuration or else the folder's name tells it."""
        try:
            recorded = self.config().get("run")
        except UserError:  # whoever asks for the settings hears of it; the run is found all the same
            recorded = None
        if isinstance(recorded, dict) and recorded.get("env"):
            return recorded["env"]
        name = names.parse_run_folder(self.path.name)
        return name.env if name else None

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def history_path(self) -> Path:
        """Fibers at each checkpoint, see FiberHistory."""
        return self.path / "fibers_over_time.json"

    @property
    def probe_path(self) -> Path:
        """The states that looks at its policies are of, see ProbeFile."""
        return self.path / "probe.pt"

    @property
    def diagnosis_path(self) -> Path:
        """Metrics of its checkpoints, made afterwards: one JSON object a line."""
        return self.path / "diagnosis.jsonl"

    @property
    def references_path(self) -> Path:
        """What its task pays without skill, see diagnostics.references."""
        return self.path / "references.json"

    @property
    def findings_path(self) -> Path:
        """What went wrong with it, see diagnostics.findings: one JSON object a line."""
        return self.path / "findings.jsonl"

    @property
    def lines_path(self) -> Path:
        """Returns on the lines from its policies to its collapse, see jobs.valley."""
        return self.path / "connectivity.json"

    @property
    def forks_picture(self) -> Path:
        """The lines between the children of its forks, see jobs.children."""
        return self.path / "connectivity" / "fork_analysis" / "overview.png"

    def model_path(self, epoch: int) -> Path:
        return self.path / names.model_file(epoch)

    def state_path(self, epoch: int) -> Path:
        return self.path / names.model_file(epoch, state=True)

    def new_files(self, epoch: int, agent_steps: int, seconds: float) -> tuple[Path, Path]:
        """Where the model and the state of an epoch that was just trained go.  Some layouts name the rest."""
        return self.model_path(epoch), self.state_path(epoch)

    # --- checkpoints -----------------------------------------------------------------------------

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(epoch, path) of each model, by epoch; neither states nor unfinished files count."""
        return self._files(state=False)

    def states(self) -> list[tuple[int, Path]]:
        """(epoch, path) of each optimizer state, by epoch."""
        return self._files(state=True)

    def nearest(self, epoch: int) -> tuple[int, Path]:
        """The checkpoint nearest to epoch, the later one of two.  Raises UserError where there is none."""
        return min(self._some_checkpoints(), key=lambda found: (abs(found[0] - epoch), -found[0]))

    def latest(self, with_state: bool = False) -> tuple[int, Path]:
        """The newest checkpoint; with_state: the newest that training can resume from."""
        return (self.resumable() if with_state else self._some_checkpoints())[-1]

    def resumable(self) -> list[tuple[int, Path]]:
        """The checkpoints that have an optimizer state.  Raises UserError where there is none."""
        states = dict(self.states())
        found = [(epoch, path) for epoch, path in self._some_checkpoints() if epoch in states]
        if not found:
            raise UserError(
                f"{self.path} has no checkpoint with an optimizer state (model_*.state.pt) to resume from; "
                f"train anew with `{self.train_command(anew=True)}`"
            )
        return found

    def set_aside(self, epoch: int) -> list[Path]:
        """Rename the files of a checkpoint that is damaged to *.bad, so that it no longer counts as one."""
        files = [path for path in (self.model_path(epoch), self.state_path(epoch)) if path.is_file()]
        return [path.rename(path.with_name(path.name + ".bad")) for path in files]

    def prune_states(self, keep: str = "auto", collapse_epochs: Sequence[int] = (50,)) -> list[Path]:
        """Delete the states that nothing will need; returns what was deleted.

        keep: 'all', or 'auto' for the newest two and the one nearest to each collapse epoch.
        """
        self.check_keep(keep)
        states = self.states()
        if keep == "all" or not states:
            return []
        kept = {epoch for epoch, _ in states[-2:]} | {self.nearest(epoch)[0] for epoch in collapse_epochs}
        dropped = [path for epoch, path in states if epoch not in kept]
        for path in dropped:
            path.unlink(missing_ok=True)
        return dropped

    @staticmethod
    def check_keep(keep: str) -> None:
        """Raise UserError for a word that does not say which states to keep."""
        if keep not in ("auto", "all"):
            raise UserError(f"--train.keep-state is {keep!r}, expected 'auto' or 'all'")

    def train_command(self, anew: bool = False) -> str:
        """The command that trains this run, or anew: another one on its environment."""
        return train_command(self.env, self.root, None if anew else self.exp_id)

    def _some_checkpoints(self) -> list[tuple[int, Path]]:
        found = self.checkpoints()
        if not found:
            raise UserError(f"{self.path} has no checkpoint yet; train it with `{self.train_command()}`")
        return found

    def _files(self, state: bool) -> list[tuple[int, Path]]:
        paths = self.path.iterdir() if self.path.is_dir() else ()
        parsed = [(names.parse_model_file(path.name), path) for path in paths]
        wanted = [(name.epoch, path) for name, path in parsed if name and name[1:] == (False, state)]
        return sorted((epoch, path) for epoch, path in wanted if path.is_file())

    # --- collapse --------------------------------------------------------------------------------

    def collapse_folder(
        self, thresholds: names.Thresholds, epoch: int, colors: str = "weights"
    ) -> "CollapseFolder":
        """Where the collapse of this run's checkpoint at epoch belongs; nothing is made on disk."""
        return CollapseFolder(self.path / names.collapse_folder(thresholds, epoch, colors), type(self))

    def search_folder(self, budget: Mapping[str, float], epoch: int) -> "CollapseFolder":
        """The same for a collapse that a search within a budget finds."""
        return CollapseFolder(self.path / names.search_folder(budget, epoch), type(self))

    def collapses(self) -> list["CollapseFolder"]:
        """The collapse folders in this run, by name."""
        found = [path for path in self.path.iterdir() if names.parse_collapse_folder(path.name)]
        return [CollapseFolder(path, type(self)) for path in sorted(found) if path.is_dir()]

    # --- metrics and settings --------------------------------------------------------------------

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to metrics.jsonl."""
        metrics.append(self.metrics_path, record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, without lines that a killed process left unfinished."""
        return metrics.read(self.metrics_path)

    def truncate_metrics(self, epoch: int) -> None:
        """Drop the records after epoch, before a run resumes from it (0: all of them)."""
        metrics.truncate(self.metrics_path, epoch)

    def write_config(self, config: dict[str, Any]) -> None:
        """Keep the resolved settings in config.json, beside what the run recorded of itself ('run')."""
        self._write_config({"run": self.config().get("run"), **config})

    def config(self) -> dict[str, Any]:
        """config.json; empty where there is none.  Raises UserError where it is damaged."""
        path = self.path / "config.json"
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is no JSON object ({error}); mend it or delete it") from error

    def _write_config(self, config: dict[str, Any]) -> None:
        atomic.write(self.path / "config.json", (json.dumps(config, indent=2, default=str) + "\n").encode())

    # --- one trainer at a time -------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator["Run"]:
        """Hold the run while training in it.  Raises UserError where another process does.

        The system frees the lock when this process dies, by whatever means.  Unfinished files of
        killed processes are swept away, since nobody else writes here.
        """
        with locked(self.path):
            atomic.sweep(self.path)
            yield self


@dataclass(frozen=True)
class CollapseFolder:
    """One collapse: <run>/collapsed_model_thr_03_000051/, with the runs resumed from it below.

    In Metta's layout those lie beside the collapsed run, so that there are none below.
    """

    path: Path
    layout: type[Run] = field(default=Run, compare=False)  # of the run that was collapsed

    @property
    def epoch(self) -> int:
        return self._name.epoch

    @property
    def thresholds(self) -> float | dict[str, float] | None:
        return self._name.thresholds

    def numbered(self, number: int) -> "CollapseFolder":
        """The folder of another collapse of this name, that differs in other settings: .._000051_2/"""
        return replace(self, path=self.path.with_name(names.numbered(self.path.name, number)))

    @property
    def model_path(self) -> Path:
        return self.path / names.model_file(self.epoch, collapsed=True)

    @property
    def state_path(self) -> Path:
        return self.path / names.model_file(self.epoch, collapsed=True, state=True)

    @property
    def fibers_path(self) -> Path:
        return self.path / "fibers.pkl"

    @property
    def frontier_path(self) -> Path:
        """Sizes and divergences on the way of a search; the figure beside it ends in .png."""
        return self.path / "frontier.csv"

    @property
    def source(self) -> Run:
        """The run that was collapsed."""
        return self.layout(self.path.parent)

    def runs(self) -> list[Run]:
        """The runs resumed from this collapse, oldest first."""
        return sorted(runs_in(self.path), key=age)

    @property
    def _name(self) -> names.CollapseName:
        name = names.parse_collapse_folder(self.path.name)
        if name is None:
            raise UserError(f"{self.path} is no collapse folder, expected e.g. collapsed_model_thr_03_000051")
        return name


def runs_in(folder: str | Path) -> list[Run]:
    """The runs directly in folder, by name."""
    paths = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    runs = [Run(path) for path in paths if not names.parse_collapse_folder(path.name)]
    return [run for run in runs if run.exists()]


def age(run: Run) -> int:
    """When the newest checkpoint was written, or where there is none, when the folder changed [ns]."""
    found = run.checkpoints()
    return (found[-1][1] if found else run.path).stat().st_mtime_ns


DATA_DIR = "experiments"  # where runs lie if nothing else is said


def place(root: str | Path) -> list[str]:
    """The words of a command that say where runs lie; none for the usual folder."""
    if Path(root).absolute() == Path(DATA_DIR).absolute():
        return []
    inside = Path(root).is_relative_to(Path.cwd())
    return ["--train.data-dir", str(Path(root).relative_to(Path.cwd()) if inside else root)]


def train_command(env: str | None, root: str | Path = DATA_DIR, exp_id: str | None = None) -> str:
    """The command that starts a run, for sentences that say what to do; what is not known is in capitals."""
    words = [*program.WORDS, "--mode", "train", "--env", env or "ENV"]
    return shlex.join([*words, *([] if exp_id is None else ["--exp-id", exp_id]), *place(root)])
