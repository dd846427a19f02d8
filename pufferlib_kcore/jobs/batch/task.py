"""Task: one run of a batch, what it is trained by, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass

from pufferlib_kcore.store import MettaFolder, names


@dataclass(frozen=True)
class Task:
    """One run of the grid."""

    name: str
    exp: str
    epoch: int
    kind: str
    setting: tuple[float, ...]
    seed: int | None
    collapse: tuple[str, ...]  # the arguments that say which collapse; () for the original
    argv: tuple[str, ...]  # of demo.py
    folder: MettaFolder
    steps: int  # where it ends

    def is_done(self) -> bool:
        """Whether its newest checkpoint, which it would go on from, is its end."""
        found = self.folder.checkpoints()
        name = names.parse_metta_checkpoint(found[-1][1].name) if found else None
        return name is not None and name.agent_steps >= self.steps

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self.folder.checkpoints())
