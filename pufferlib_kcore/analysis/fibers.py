"""Fibers over time: how many each space has at each checkpoint of a run, and what a collapse would leave."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic

FILE = "fibers_over_time.json"  # in a run folder
PARAMS = ("params", "params_collapsed")


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
    thresholds: Any = None

    @classmethod
    def of(cls, source: "FiberHistory | Mapping | Sequence[Mapping] | str | Path") -> "FiberHistory":
        """A history from itself, its dict (as to_dict gives it), its file, or a list of colorings by epoch.

        A coloring is what fibers.pkl holds: {epoch, thresholds, spaces: {name: {kind, units, fibers}}},
        with params and params_collapsed where known.
        Raises UserError where the file is missing or damaged, or lists differ in length.
        """
        if isinstance(source, FiberHistory):
            return source
        if isinstance(source, (str, Path)):
            return cls.of(_read(Path(source)))
        content = source if isinstance(source, Mapping) else _from_colorings(source)
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
        return cls(epochs, spaces, params, collapsed, content.get("thresholds"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: thresholds, epochs, spaces: {name: {kind, units, fibers}}, params, params_collapsed."""
        spaces = {
            name: {"kind": space.kind, "units": _plain(space.units), "fibers": _plain(space.fibers)}
            for name, space in self.spaces.items()
        }
        params = {"params": _plain(self.params), "params_collapsed": _plain(self.params_collapsed)}
        return {"thresholds": self.thresholds, "epochs": self.epochs.tolist(), "spaces": spaces, **params}

    def save(self, path: str | Path) -> Path:
        """Write the history, usually as <run>/fibers_over_time.json."""
        return atomic.write(path, (json.dumps(self.to_dict()) + "\n").encode())


def _from_colorings(colorings: Sequence[Mapping]) -> dict[str, Any]:
    """Colorings of single checkpoints, in any order, as one history."""
    colorings = sorted(colorings, key=lambda coloring: coloring["epoch"])
    names = {name: space["kind"] for coloring in colorings for name, space in coloring["spaces"].items()}
    spaces: dict[str, dict[str, Any]] = {name: {"kind": kind} for name, kind in names.items()}
    for name, space in spaces.items():
        for key in ("units", "fibers"):
            space[key] = [coloring["spaces"].get(name, {}).get(key) for coloring in colorings]
    params = {key: [coloring.get(key) for coloring in colorings] for key in PARAMS}
    thresholds = colorings[-1].get("thresholds") if colorings else None
    return {"thresholds": thresholds, "epochs": [c["epoch"] for c in colorings], "spaces": spaces, **params}


def _read(path: Path) -> dict[str, Any]:
    cure = "make it with `python demo.py --mode fibers --exp-id RUN`"
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {cure}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged or no fiber history; {cure}") from error
    if not isinstance(content, dict) or not {"epochs", "spaces"} <= content.keys():
        raise UserError(f"{path} is no fiber history (no epochs, no spaces); {cure}")
    return content


def _numbers(values: Sequence) -> np.ndarray:
    """(n,) float64, None as nan."""
    return np.array(values, dtype=np.float64)


def _plain(values: np.ndarray) -> list[int | float | None]:
    whole = [float(value) for value in values]
    return [None if value != value else int(value) if value == int(value) else value for value in whole]
