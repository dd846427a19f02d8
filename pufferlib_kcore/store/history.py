"""fibers_over_time.json: the fibers of each space at each checkpoint. Nothing else knows its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

PARAMS = ("params", "params_collapsed")


@dataclass(frozen=True)
class SpaceCount:
    """One space at one checkpoint."""

    kind: str  # linear, cnn, lstm, critic
    units: int
    fibers: int


@dataclass(frozen=True, kw_only=True)
class Count:
    """The fibers of one checkpoint."""

    epoch: int
    env: str | None = None  # that it was trained on, where it says so
    spaces: dict[str, SpaceCount]
    params: int | None = None  # parameters of the policy
    params_collapsed: int | None = None  # parameters that a collapse would leave
    digest: str | None = None  # of the checkpoint's file, see `checkpoints.digest`

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Count:
        """A count from its plain data.  Raises KeyError, TypeError or AttributeError where one is missing."""
        spaces = {
            name: SpaceCount(space["kind"], space["units"], space["fibers"])
            for name, space in entry["spaces"].items()
        }
        return cls(**{f.name: entry[f.name] for f in fields(cls) if f.name != "spaces"}, spaces=spaces)


@dataclass(frozen=True)
class SpaceHistory:
    """One space over n checkpoints; nan where a checkpoint lacks it."""

    kind: str
    units: np.ndarray  # (n,)
    fibers: np.ndarray  # (n,)


@dataclass(frozen=True)
class FiberHistory:
    """Each space at n checkpoints of one run, and its parameters before and after a collapse there."""

    epochs: np.ndarray  # (n,) int64
    spaces: dict[str, SpaceHistory]
    params: np.ndarray  # (n,) parameters of the policy, nan where not known
    params_collapsed: np.ndarray  # (n,) parameters that a collapse would leave, nan where not known
    thresholds: float | dict[str, float] | None = None  # cosine distance, one or by kind
    counts: tuple[Count, ...] = ()  # the same by checkpoint, where it was counted from them

    @classmethod
    def of(cls, source: FiberHistory | Mapping | str | Path) -> FiberHistory:
        """A history from itself, its plain data (as to_dict gives it), or its file.

        Raises UserError where the file is missing or damaged, or lists differ in length.
        """
        if isinstance(source, FiberHistory):
            return source
        content = source if isinstance(source, Mapping) else _read(Path(source))
        try:
            epochs = np.array(content["epochs"], dtype=np.int64)
            spaces = {
                name: SpaceHistory(space["kind"], _numbers(space["units"]), _numbers(space["fibers"]))
                for name, space in content["spaces"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"a fiber history is not as expected ({error!r}); make it again") from error
        params, collapsed = (_numbers(content.get(key) or [None] * len(epochs)) for key in PARAMS)
        lengths = {len(column) for space in spaces.values() for column in (space.units, space.fibers)}
        if (lengths | {len(params), len(collapsed)}) - {len(epochs)}:
            raise UserError(f"a fiber history's lists are not all {len(epochs)} epochs long; make it again")
        return cls(epochs, spaces, params, collapsed, content.get("thresholds"), tuple(_counts(content)))

    @classmethod
    def from_counts(cls, counts: Sequence[Count], thresholds: Any = None) -> FiberHistory:
        """The history that the checkpoints' counts, in any order, are."""
        counts = tuple(sorted(counts, key=lambda count: count.epoch))
        kinds = {name: space.kind for count in counts for name, space in count.spaces.items()}

        def column(name: str, key: str) -> np.ndarray:
            return _numbers([getattr(count.spaces.get(name), key, None) for count in counts])

        return cls(
            np.array([count.epoch for count in counts], dtype=np.int64),
            {n: SpaceHistory(kind, column(n, "units"), column(n, "fibers")) for n, kind in kinds.items()},
            _numbers([count.params for count in counts]),
            _numbers([count.params_collapsed for count in counts]),
            thresholds,
            counts,
        )

    @classmethod
    def known(cls, path: str | Path, thresholds: Any) -> list[Count]:
        """The counts at these thresholds in a file, as far as it is whole; none where there is no file."""
        try:
            content = _read(Path(path))
        except UserError:
            return []
        return _counts(content) if content.get("thresholds") == thresholds else []

    def to_dict(self) -> dict[str, Any]:
        """Plain data: thresholds, epochs, spaces: {name: {kind, units, fibers}}, params, params_collapsed."""
        spaces = {
            name: {"kind": space.kind, "units": _plain(space.units), "fibers": _plain(space.fibers)}
            for name, space in self.spaces.items()
        }
        params = {"params": _plain(self.params), "params_collapsed": _plain(self.params_collapsed)}
        return {"thresholds": self.thresholds, "epochs": self.epochs.tolist(), "spaces": spaces, **params}

    def save(self, path: str | Path) -> Path:
        """Write the history, usually as Run.history_path."""
        entries = {"entries": [asdict(count) for count in self.counts]} if self.counts else {}
        return atomic.write(path, json.dumps({**self.to_dict(), **entries}).encode())


def _read(path: Path) -> dict[str, Any]:
    cure = f"make it with `{program.COMMAND} --mode fibers --exp-id RUN`"
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {cure}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged or no fiber history; {cure}") from error
    if not isinstance(content, dict) or not {"epochs", "spaces"} <= content.keys():
        raise UserError(f"{path} is no fiber history (no epochs, no spaces); {cure}")
    return content


def _counts(content: Mapping[str, Any]) -> list[Count]:
    """The entries of a history that are whole."""
    found, entries = [], content.get("entries")
    for entry in entries if isinstance(entries, list) else ():
        try:
            found.append(Count.of(entry))
        except (KeyError, TypeError, AttributeError):
            continue
    return found


def _numbers(values: Sequence) -> np.ndarray:
    """(n,) float64, None as nan."""
    return np.array(values, dtype=np.float64)


def _plain(values: np.ndarray) -> list[int | float | None]:
    whole = [float(value) for value in values]
    return [None if value != value else int(value) if value == int(value) else value for value in whole]
