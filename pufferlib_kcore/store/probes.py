"""probe.pt: the states on which a run's policies are looked at. Nothing else knows its keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pufferlib_kcore.store import checkpoints


@dataclass(frozen=True, kw_only=True)
class ProbeFile:
    """Recorded states: positional arguments of a policy's forward, call by call."""

    inputs: list[tuple]  # (obs (B, *obs),), or (obs, (h, c)) with the state that the policy had there
    epoch: int  # that they were recorded in
    env: str | None = None  # as --env takes it

    @property
    def states(self) -> int:
        return sum(len(one[0]) for one in self.inputs)

    @classmethod
    def load(cls, path: str | Path) -> ProbeFile:
        """Read a file onto the CPU.  Raises UserError as `checkpoints.load`."""
        return cls(**checkpoints.known(cls, checkpoints.load(path, format=checkpoints.PROBE)))

    def save(self, path: str | Path) -> Path:
        """Write the file atomically.  Raises as `checkpoints.save`."""
        held = {"format": checkpoints.PROBE, "version": checkpoints.VERSION, **vars(self)}
        return checkpoints.save(path, {key: value for key, value in held.items() if value is not None})
