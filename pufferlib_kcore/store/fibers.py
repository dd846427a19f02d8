"""fibers.pkl: the coloring of each space, read back by an unpickler that knows plain data and arrays only."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

VERSION = 1
FIELDS = {"kind", "labels", "units", "fibers", "reason"}  # of each space
AGAIN = "make it again with `python demo.py --mode collapse --env ENV`"

_reconstruct = np.zeros(0).__reduce__()[0]
ADMITTED = {  # what an array needs to be rebuilt, as numpy 1 and numpy 2 name it
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def save_fibers(path: str | Path, fibers: dict[str, Any]) -> Path:
    """Write a coloring atomically.

    fibers: {epoch, thresholds, spaces: {name: {kind, labels: (units,) int64, units, fibers, reason}}}
    Raises ValueError where labels and counts disagree.
    """
    fibers = {"version": VERSION, **fibers}
    complaint = _complaint(fibers)
    if complaint:
        raise ValueError(f"cannot save {path}: {complaint}")
    return atomic.write(path, pickle.dumps(fibers, protocol=4))


def load_fibers(path: str | Path) -> dict[str, Any]:
    """The coloring in path.  Raises UserError where the file is missing, damaged, hostile or foreign."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            fibers = _Plain(file).load()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a fibers.pkl, or {AGAIN}") from error
    except _Refused as error:
        raise UserError(f"{path} would run {error} when loaded, as no fibers.pkl does; {AGAIN}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is damaged or no fibers.pkl; {AGAIN}") from error
    complaint = _complaint(fibers)
    if complaint:
        raise UserError(f"{path} is no fibers.pkl that can be read: {complaint}; {AGAIN}")
    return fibers


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
