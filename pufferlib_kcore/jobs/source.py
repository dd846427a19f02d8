"""Source: a run on disk, or a checkpoint alone, as a job takes it up: with what is said over its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pufferlib_kcore.jobs import stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.stored import Over
from pufferlib_kcore.policies.restore import Restored, restore
from pufferlib_kcore.settings import Settings, resolve
from pufferlib_kcore.store import Run


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint of a source, its policy, and the settings of its environments."""

    path: Path
    restored: Restored
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """What was trained, and how it is taken up again."""

    over: Over = Over()
    vec: str = "multiprocessing"  # where its environments run, one of settings.arguments.BACKENDS
    trusted: Settings | None = None  # describe a pickled module, which can run code; None: such are refused

    @abstractmethod
    def newest(self) -> Newest:
        """Raises UserError where there is none, or it contradicts what is said over it."""

    def _read(self, path: str | Path, run: Run | None = None) -> Restored:
        trusted = self.trusted
        restored = restore(path, None if trusted is None else lambda: worlds.described(trusted))
        if run is not None:
            stored.check_origin(stored.trained_on(restored.file), run, path)
        worlds.check_preprocessing(restored.file.env, self.vec, path)
        return restored


@dataclass(frozen=True, kw_only=True)
class RunSource(Source):
    """A run, with all its checkpoints."""

    run: Run

    def check(self) -> None:
        """Raise UserError where what is said contradicts the run, see `stored.check_run`."""
        stored.check_run(self.run, self.over)

    def settings(self, spec: dict[str, Any] | None = None) -> Settings:
        """The run's settings under what is said over them, see `stored.stored_settings`."""
        return stored.stored_settings(self.run, self.over, spec)

    def read(self, path: str | Path) -> Restored:
        """The policy of a checkpoint in the run's folder.

        Raises UserError unless it was trained on the run's environment, and on the preprocessing of --vec.
        """
        return self._read(path, self.run)

    def newest(self) -> Newest:
        """Raises UserError as `read` and `settings` do."""
        path = self.run.latest()[1]
        return Newest(path, self.read(path), self.settings())


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """A checkpoint alone, which says itself what it was trained on."""

    path: Path

    def newest(self) -> Newest:
        """This one.  Raises UserError where it is of another environment or policy than is said."""
        restored, over = self._read(self.path), self.over
        env = restored.file.env
        if env is None:  # a pickled module says nothing of its environment
            assert self.trusted is not None
            return Newest(self.path, restored, self.trusted)
        stored.check_env(over.env, env.name, self.path)

        def settings_over(overrides: dict[str, str]) -> Settings:
            played = {f"env.{key}": value for key, value in env.kwargs.items()}
            return resolve(env.name, {**played, **overrides}, over.config)

        stored.check_policy(restored.spec, over.overrides, self.path, settings_over)
        return Newest(self.path, restored, settings_over(over.overrides))
