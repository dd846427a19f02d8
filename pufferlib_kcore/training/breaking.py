"""Breaking: a companion that turns superfluous neurons into fresh ones while a policy trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.breaker import Broken, SymmetryBreaker
from pufferlib_kcore.training.companions import Companion, Epoch, Said, companions
from pufferlib_kcore.training.probing import example, on, probe_of

SECTION = "breaking"
ASKED = "watch/break"  # the metric by which another companion asks for it now


@companions.register("break")
class Breaking(Companion):
    """`graph.SymmetryBreaker` on the policy in training; says `breaking/..` at each epoch at which it acts.

    Its settings are the breaker's. states: of the last rollout, on which the KL is measured, and what looks
    at activations does. Fresh weights are those of the run's own policy, built anew.
    breaking/recycled, total: units made fresh, now and so far; age: of units, in epochs, on average; weights:
    single weights (swr); candidates: units that another made superfluous, or dormant ones; fibers_before,
    fibers_after; kl: nats; value_error: squared, in parts of the values' variance.
    """

    def __init__(
        self,
        *,
        threshold: float | None = None,
        method: str = "fibers",
        colors: str = "faithful",
        every: int = 10,
        after: int = 10,
        fraction: float = 1.0,
        maturity: int = 10,
        max_kl: float | None = 0.005,
        max_value_error: float | None = 0.05,
        states: int = 256,
    ):
        if threshold is None:
            raise UserError("nobody says which neurons count as one: --break-symmetry 0.3")
        self.states = states
        self.settings: dict[str, Any] = {
            "threshold": threshold,
            "method": method,
            "colors": colors,
            "every": every,
            "after": after,
            "fraction": fraction,
            "maturity": maturity,
            "max_kl": max_kl,
            "max_value_error": max_value_error,
        }
        self.breaker: SymmetryBreaker | None = None
        self.state: dict[str, Any] = {}  # to go on with, as soon as there is a breaker
        self.first: dict[str, Tensor] = {}

    def start(self, epoch: Epoch) -> None:
        if self.settings["method"] == "l2-init" and not self.state.get("first"):
            self.first = {name: p.detach().clone() for name, p in epoch.policy.named_parameters()}

    def after(self, epoch: Epoch) -> Said:
        inputs = probe_of(epoch.rollout, self.states, epoch.generator)
        inputs = [on(one, epoch.device) for one in inputs]
        breaker = self._breaker(epoch, inputs)
        breaker.probe, breaker.optimizer = inputs, epoch.optimizer
        done = breaker.step(epoch.number)
        if done is None and epoch.metrics.get(ASKED):
            done = breaker.act(epoch.number)
        if done is None:
            return Said()
        changed = bool(done.count or done.weights or breaker.method in ("l2-init", "shrink-perturb"))
        return Said(metrics_of(done, breaker), changed=changed)

    def _breaker(self, epoch: Epoch, inputs: list[tuple]) -> SymmetryBreaker:
        if self.breaker is None:
            breaker = SymmetryBreaker(
                epoch.policy,
                example(inputs),
                epoch.optimizer,
                seed=0 if self.state else int(torch.randint(2**31, (), generator=epoch.generator)),
                initial=lambda seed: fresh(epoch, breaker.traced, seed),
                **self.settings,
            )
            breaker.first = self.first or breaker.first
            if self.state:
                breaker.load_state_dict(self.state)
            self.first, self.state = {}, {}
            self.breaker = breaker
        return self.breaker

    def state_dict(self) -> dict[str, Any]:
        return self.state if self.breaker is None else self.breaker.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)


def fresh(epoch: Epoch, traced: graph.Traced, seed: int) -> Mapping[str, Tensor]:
    """Parameters and buffers of the run's policy, untrained; of a collapsed one, of its widths."""
    untrained: nn.Module = epoch.untrained(seed)
    tensors = dict(untrained.state_dict())
    if all(tensors[name].shape == x.shape for name, x in traced.policy.state_dict().items()):
        return tensors
    now = {space.name: space.units for space in traced.network.spaces if not space.whole}
    generator = torch.Generator().manual_seed(seed)
    inputs = untrained_inputs(untrained, traced.example.inputs)
    smaller = graph.reinitialize(untrained, inputs, now, generator=generator)
    return dict(smaller.policy.state_dict())


def untrained_inputs(policy: nn.Module, inputs: tuple) -> tuple:
    """The same arguments for a policy of full size: its recurrent state is wider."""
    first, *state = inputs
    width = getattr(policy, "hidden_size", None)
    wide = [tuple(x.new_zeros(*x.shape[:-1], width or x.shape[-1]) for x in s) for s in state]
    return (first.cpu(), *wide)


def metrics_of(done: Broken, breaker: SymmetryBreaker) -> dict[str, float]:
    ages = [int(age) for own in breaker.ages.values() for age in own]
    found = {
        "recycled": float(done.count),
        "total": float(breaker.total),
        "age": sum(ages) / len(ages),
        "candidates": float(done.candidates),
        "fibers_before": float(sum(done.before.values())),
        "fibers_after": float(sum(done.after.values())),
    }
    found |= {"weights": float(done.weights)} if done.weights else {}
    found |= {"kl": done.kl}
    found |= {} if math.isnan(done.value_error) else {"value_error": done.value_error}
    return {f"{SECTION}/{name}": value for name, value in found.items()}
