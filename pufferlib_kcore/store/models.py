"""model_*.pt: a policy's weights, and what the file says of their origin. Nothing else knows its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import checkpoints


@dataclass(frozen=True, kw_only=True)
class EnvFacts:
    """The environment that a policy was trained on."""

    name: str  # as --env takes it
    package: str | None = None  # kind of environment: atari, classic_control, ...
    kwargs: dict[str, Any] = field(default_factory=dict)  # the [env] settings
    preprocessing: str = "pufferlib"  # of screens: pufferlib or ale; older files do not say it


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What every model file of a run repeats."""

    policy: dict[str, Any]  # spec: name, rnn, policy_args, rnn_args, observation_space, action_space
    env: EnvFacts | None = None  # None: it does not say, as a pickled module does not
    versions: dict[str, str | None] | None = None  # of Python and packages, see store.provenance
    git_commit: str | None = None
    collapse: dict[str, Any] | None = None  # of what, and how; None: never collapsed


@dataclass(frozen=True, kw_only=True)
class ModelFile(Facts):
    """A policy at one epoch."""

    state_dict: Mapping[str, Tensor]
    epoch: int  # rollouts and updates so far
    agent_steps: int  # steps so far, over all environments
    seed: int | None = None  # of the run

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The size of each parameter and buffer: a collapsed policy's are smaller than its spec's."""
        return {name: list(tensor.shape) for name, tensor in self.state_dict.items()}

    @property
    def facts(self) -> Facts:
        """What the next file of this run repeats."""
        return Facts(**{f.name: getattr(self, f.name) for f in fields(Facts)})

    @classmethod
    def load(cls, path: str | Path, foreign: Callable[[nn.Module], ModelFile] | None = None) -> ModelFile:
        """Read a file onto the CPU.

        foreign: only for a file whose maker is trusted, since loading it can run code: what a pickled module,
            as published PufferLib 2.0 checkpoints are, would be as a file of ours.
        Raises UserError as `checkpoints.load`, and where shapes and weights disagree.
        """
        held = checkpoints.load(path, trust=foreign is not None, format=checkpoints.MODEL)
        if held["format"] == "module" and foreign is not None:
            return foreign(held["module"])
        env = checkpoints.known(EnvFacts, held.get("env") or {})
        found = cls(**{**checkpoints.known(cls, held), "env": EnvFacts(**env) if env else None})
        for name, said in held["shapes"].items():
            own = found.shapes.get(name)
            if own is None or list(said) != own:
                has = None if own is None else tuple(own)
                raise UserError(f"{path} says that {name} has shape {tuple(said)}, and holds {has}")
        return found

    def save(self, path: str | Path) -> Path:
        """Write the file atomically.  Raises as `checkpoints.save`."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict.items()}
        held = {
            "policy": self.policy,
            "env": self.env and asdict(self.env),
            "versions": self.versions,
            "git_commit": self.git_commit,
            "collapse": self.collapse,
            "format": checkpoints.MODEL,
            "version": checkpoints.VERSION,
            "shapes": self.shapes,
            "state_dict": weights,
            "epoch": self.epoch,
            "agent_steps": self.agent_steps,
            "seed": self.seed,
        }
        unsaid = {key for key in ("env", "versions", "seed") if held[key] is None}
        return checkpoints.save(path, {key: held[key] for key in held if key not in unsaid})
