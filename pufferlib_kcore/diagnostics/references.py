"""References: what a task pays without skill, which decides whether a return is a failure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pufferlib_kcore.store import atomic


@dataclass(frozen=True, kw_only=True)
class References:
    """Mean episode returns."""

    uniform: float  # of actions drawn alike
    constant: float  # of the best action, always
    best: float | None = None  # that is known to be possible
    episodes: int | None = None  # that each is the mean of

    @property
    def blind(self) -> float:
        """What does not ask for looking at a single observation."""
        return max(self.uniform, self.constant)

    def save(self, path: str | Path) -> Path:
        return atomic.write(path, (json.dumps(asdict(self), indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> References | None:
        """None where there is no such file, or it is none of these."""
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError):
            return None
