"""Companions: what goes along with a training, looks at each epoch, and may add to it or step in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pufferlib_kcore.environments import seeds
from pufferlib_kcore.registry import Registry
from pufferlib_kcore.training.algorithm import Algorithm


def _nobodys(seed: int) -> nn.Module:
    raise NotImplementedError("whoever made this Epoch does not say how its policy is built")


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch, as a companion sees it; modules, optimizers and rollout are the run's own.

    number: of the epochs so far, 0 before the first; metrics: this epoch's so far, by name; rollout: what the
    algorithm collected, valid until the companion returns, None before anything is. Together with other
    processes, companions are called in the one that leads: metrics are of all, the rollout is of its own
    environments.
    """

    algorithm: Algorithm
    folder: Path  # of the run
    number: int
    agent_steps: int
    metrics: Mapping[str, float]
    rollout: Any
    generator: torch.Generator  # the companion's own, seeded by run and name, saved and restored with it
    part: float = 1.0  # of the run's steps that are done
    saved: bool = False  # whether a checkpoint of this epoch will be written
    untrained: Callable[[int], nn.Module] = _nobodys  # seed -> the run's policy, untrained, at its full size

    @property
    def policy(self) -> nn.Module:
        return self.algorithm.modules["policy"]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.algorithm.optimizers["policy"]

    @property
    def device(self) -> torch.device:
        return next(self.policy.parameters()).device


@dataclass(frozen=True)
class Said:
    """What a companion says of an epoch.

    metrics: by name, with a section before a slash, as in diagnosis/churn; changed: it has set numbers in a
    module or an optimizer, in place (under torch.no_grad, no parameter taken, added or given another shape);
    stop: why the training should end after this epoch, in words.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    changed: bool = False
    stop: str | None = None


class Companion:
    """Called after each epoch. What it goes on with after a resume is its state: tensors and plain data."""

    def start(self, epoch: Epoch) -> None:
        """Called once, where the run begins or goes on: after load_state_dict, if there was a state.

        Whoever draws random numbers here keeps in its state that it has. Raises UserError where it can do
        nothing for this policy.
        """

    def after(self, epoch: Epoch) -> Said:
        """What is to say of the epoch that has just been trained."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what state_dict gave."""


# Each is called with settings alone.
companions: Registry[Callable[..., Companion]] = Registry("companion")


class Company:
    """The companions of a run, by name, each with its own generator; called in their order."""

    def __init__(self, members: Mapping[str, Companion], seed: int):
        self.members = members
        self.generators = {n: seeds.generator((seed, seeds.COMPANION, *n.encode())) for n in members}

    def __bool__(self) -> bool:
        return bool(self.members)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"generator": self.generators[name].get_state(), "state": member.state_dict()}
            for name, member in self.members.items()
        }

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Restore those that have a state.  -> sentences: who begins anew, and whose state is left behind

        A state that nobody takes up is not kept for later: by then it would be of a policy that has changed.
        """
        gone = states.keys() - self.members.keys()
        notes = [f"{name} does not go on: it is not asked for now" for name in gone]
        for name, member in self.members.items():
            if name in states:
                self.generators[name].set_state(states[name]["generator"])
                member.load_state_dict(states[name]["state"])
            else:
                notes.append(f"{name} begins anew: the checkpoint has no state of it")
        return sorted(notes)

    def start(self, epoch: Epoch) -> None:
        for name, member in self.members.items():
            member.start(replace(epoch, generator=self.generators[name]))

    def after(self, epoch: Epoch, check: Callable[[str], None]) -> Said:
        """What all say of an epoch, each hearing the metrics of those before it.

        check: called with the name of one that has changed something.  Raises ValueError for a metric without
        a section, or of a name that is there already.
        """
        found: dict[str, float] = {}
        changed, reasons = False, []
        for name, member in self.members.items():
            known = {**epoch.metrics, **found}
            said = member.after(replace(epoch, metrics=known, generator=self.generators[name]))
            for metric in said.metrics:
                section, _, rest = metric.partition("/")
                if not section or not rest or metric in known:
                    raise ValueError(f"{name} reports the metric {metric!r}: expected a new one, {name}/x")
            found |= said.metrics
            if said.changed:
                check(name)
            changed |= said.changed
            reasons += [f"{name}: {said.stop}"] if said.stop else []
        return Said(found, changed, "; ".join(reasons) or None)
