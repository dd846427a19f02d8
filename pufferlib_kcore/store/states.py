"""model_*.state.pt: what training goes on with beside the weights. Nothing else knows its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pufferlib_kcore.store import checkpoints


@dataclass(frozen=True, kw_only=True)
class StateFile:
    """The state of a training at one epoch."""

    optimizer: dict[str, Any]  # a torch optimizer's state_dict
    epoch: int  # rollouts and updates so far
    agent_steps: int  # steps so far, over all environments
    rng: dict[str, Any] | None = None  # random number generators; None after a collapse: drawn anew
    schedule: dict[str, float] | None = None  # {"learning_rate": of the last update}; None after a collapse
    algorithm: dict[str, Any] | None = None  # its name, and what else it goes on with; older files have none
    companions: dict[str, Any] = field(default_factory=dict)  # name: plain state; older files have none

    @classmethod
    def load(cls, path: str | Path) -> StateFile:
        """Read a file onto the CPU.  Raises UserError as `checkpoints.load`."""
        return cls(**checkpoints.known(cls, checkpoints.load(path, format=checkpoints.STATE)))

    def save(self, path: str | Path) -> Path:
        """Write the file atomically.  Raises as `checkpoints.save`."""
        held = {
            "format": checkpoints.STATE,
            "version": checkpoints.VERSION,
            "optimizer": self.optimizer,
            "epoch": self.epoch,
            "agent_steps": self.agent_steps,
            "rng": self.rng,
            "schedule": self.schedule,
            "algorithm": self.algorithm,
            "companions": self.companions or None,
        }
        return checkpoints.save(path, {key: value for key, value in held.items() if value is not None})
