"""Diagnosing: a companion that looks at the policy after each epoch, on states that it recorded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore import graph
from pufferlib_kcore.diagnostics import policies
from pufferlib_kcore.diagnostics.capacity import capacity
from pufferlib_kcore.diagnostics.look import fibers_of, look
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import ProbeFile, Run
from pufferlib_kcore.training.companions import Companion, Epoch, Said, companions
from pufferlib_kcore.training.probing import example, on, probe_of

SECTION = "diagnosis"


@companions.register("diagnose")
class Diagnosing(Companion):
    """Reports `diagnosis/..`: what `diagnostics.look` says, and the churn since the last look.

    every     epochs from look to look
    states    in the probe, which is recorded in the first epoch and kept with the run
    capacity  gradient steps of `diagnostics.capacity`, at checkpoints alone; 0: it is left out
    Fibers are counted at checkpoints alone.
    """

    def __init__(self, *, every: int = 1, states: int = 256, capacity: int = 0):
        self.every, self.states, self.capacity = every, states, capacity
        self.probe: ProbeFile | None = None
        self.before: list[Tensor] | None = None  # the actions that the last look saw, by their tensors
        self.traced: graph.Traced | None = None

    def start(self, epoch: Epoch) -> None:
        path = Run(epoch.folder).probe_path
        if epoch.number and path.is_file():
            probe = ProbeFile.load(path)
            self.probe = probe if probe.epoch <= epoch.number else None

    def after(self, epoch: Epoch) -> Said:
        if epoch.number % self.every and not epoch.saved:
            return Said()
        if self.probe is None:
            inputs = probe_of(epoch.rollout, self.states, epoch.generator)
            self.probe = ProbeFile(inputs=inputs, epoch=epoch.number)
            self.probe.save(Run(epoch.folder).probe_path)
        inputs = [on(one, epoch.device) for one in self.probe.inputs]
        if self.traced is None:
            self.traced = traced(epoch.policy, inputs)
        seen = look(self.traced, inputs)
        metrics = dict(seen.metrics)
        if self.before is not None:
            before = iter(self.before)
            metrics["churn"] = policies.churn(seen.actions.map(lambda x: next(before)), seen.actions)
        self.before = list(seen.actions.named().values())
        if epoch.saved:
            metrics |= fibers_of(self.traced)
            if self.capacity:
                metrics["capacity"] = capacity(self.traced, inputs, self.capacity)
        return Said({f"{SECTION}/{name}": value for name, value in metrics.items()})

    def state_dict(self) -> dict[str, Any]:
        return {} if self.before is None else {"before": self.before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.before = state.get("before")


def traced(policy: torch.nn.Module, inputs: list[tuple]) -> graph.Traced:
    """Raises UserError where the policy cannot be traced."""
    try:
        return graph.trace(policy, example(inputs))
    except UserError as error:
        raise UserError(f"{error}; train without --diagnose") from None
