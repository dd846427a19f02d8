"""fibers.pkl: the coloring of each space. Nothing else knows its keys.

It is read back by an unpickler that knows plain data and arrays only.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

VERSION = 1
FIELDS = {"kind", "labels", "units", "fibers", "reason"}  # of each space
AGAIN = f"make it again with `{program.COMMAND} --mode collapse --env ENV`"

_reconstruct = np.zeros(0).__reduce__()[0]
ADMITTED = {  # what an array needs to be rebuilt, as numpy 1 and numpy 2 name it
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


@dataclass(frozen=True, eq=False)
class SpaceFibers:
    """How the neurons of one space merge."""

    kind: str  # linear, cnn, lstm, critic
    labels: np.ndarray  # (units,) int64: each unit's fiber, 0..fibers-1, numbered by first member
    reason: str | None = None  # why the space was left whole
    params_before: int | None = None  # parameters of what produces the space, before and after the collapse
    params_after: int | None = None

    @property
    def units(self) -> int:
        return len(self.labels)

    @property
    def fibers(self) -> int:
        return len(np.unique(self.labels))


@dataclass(frozen=True, kw_only=True, eq=False)
class FibersFile:
    """The coloring of a checkpoint by which it was collapsed."""

    epoch: int
    thresholds: float | dict[str, float] | None  # cosine distance, one or by kind; None: found by a search
    spaces: dict[str, SpaceFibers]

    def save(self, path: str | Path) -> Path:
        """Write the file atomically.  Raises ValueError where labels are not numbered by first member."""
        held = {
            "version": VERSION,
            "epoch": self.epoch,
            "thresholds": self.thresholds,
            "spaces": {name: _entry(space) for name, space in self.spaces.items()},
        }
        complaint = _complaint(held)
        if complaint:
            raise ValueError(f"cannot save {path}: {complaint}")
        return atomic.write(path, pickle.dumps(held, protocol=4))

    @classmethod
    def load(cls, path: str | Path) -> FibersFile:
        """Read a file.  Raises UserError where it is missing, damaged, hostile or foreign."""
        path = Path(path)
        try:
            with open(path, "rb") as file:
                held = _Plain(file).load()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; name a fibers.pkl, or {AGAIN}") from error
        except _Refused as error:
            does = f"would run {error} when loaded, as no fibers.pkl does"
            raise UserError(f"{path} {does}; {AGAIN}") from error
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise UserError(f"{path} is damaged or no fibers.pkl; {AGAIN}") from error
        complaint = _complaint(held)
        if complaint:
            raise UserError(f"{path} is no fibers.pkl that can be read: {complaint}; {AGAIN}")
        given = [f.name for f in fields(SpaceFibers)]
        spaces = {
            name: SpaceFibers(**{key: space[key] for key in given if key in space})
            for name, space in held["spaces"].items()
        }
        return cls(epoch=held["epoch"], thresholds=held["thresholds"], spaces=spaces)


def _entry(space: SpaceFibers) -> dict[str, Any]:
    """A space as the file holds it."""
    sizes = {key: getattr(space, key) for key in ("params_before", "params_after")}
    return {
        "kind": space.kind,
        "labels": space.labels,
        "units": space.units,
        "fibers": space.fibers,
        "reason": space.reason,
        **{key: size for key, size in sizes.items() if size is not None},
    }


class _Refused(Exception):
    """A pickle asked for a name that is not admitted."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise _Refused(f"{module}.{name}")
        return ADMITTED[module, name]


def _complaint(fibers: Any) -> str | None:
    """What is wrong with the fibers, None where nothing is."""
    if not isinstance(fibers, dict) or not {"version", "epoch", "thresholds", "spaces"} <= fibers.keys():
        return "expected a dict of version, epoch, thresholds and spaces"
    if fibers["version"] != VERSION:
        return f"version is {fibers['version']!r}, expected {VERSION}"
    for name, space in fibers["spaces"].items():
        if not isinstance(space, dict) or not FIELDS <= space.keys():
            return f"space '{name}' lacks one of {', '.join(sorted(FIELDS))}"
        labels = space["labels"]
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
            return f"labels of '{name}' are no flat int64 array"
        if len(labels) != space["units"]:
            return f"'{name}' has {len(labels)} labels for {space['units']} units"
        members, first = np.unique(labels, return_index=True)
        if not np.array_equal(members, np.arange(space["fibers"])) or (np.diff(first) < 0).any():
            return f"labels of '{name}' are not 0..{space['fibers']}-1 numbered by first member"
    return None
