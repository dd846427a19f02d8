"""SymmetryBreaker: recycles neurons that compute the same while a policy trains, whoever trains it.

And, by the same switch, the published ways that it is compared with: see `plasticity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.graph.activations import all_activations
from pufferlib_kcore.graph.breaking import Candidate, by_activations, candidates, drawn, recycle
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.faithfulness import Divergence, divergence
from pufferlib_kcore.graph.nested import arguments, tensors_of
from pufferlib_kcore.graph.plasticity import (
    ETA,
    activity,
    by_unit,
    contribution,
    gradient_activity,
    least_useful,
    pull_back,
    quiet,
    reinitialize_weights,
    shrink_and_perturb,
)
from pufferlib_kcore.graph.traced import Traced, trace

METHODS = ("fibers", "redo", "regrama", "cbp", "swr", "l2-init", "shrink-perturb")
COLORS = ("weights", "faithful", "activations")
Initial = Callable[[int], Mapping[str, Tensor]]  # seed -> parameters and buffers as they are before training


@dataclass(frozen=True)
class Broken:
    """What one step did."""

    epoch: int
    recycled: dict[str, np.ndarray]  # space -> units that are fresh now
    before: dict[str, int]  # space -> fibers, of those that can merge
    after: dict[str, int]
    candidates: int  # neurons that another one made superfluous, old enough or not
    kl: float  # nats, of the policy before to the one after
    value_error: float  # squared, in parts of the variance of the values before; nan where there are none
    weights: int = 0  # single weights that are fresh now

    @property
    def count(self) -> int:
        return sum(map(len, self.recycled.values()))


class SymmetryBreaker:
    """Keeps one neuron of each fiber, and makes others of it fresh (see `graph.breaking`), in place.

    policy, example_inputs  as `kcore.trace` takes them, with method, value, ignore and outputs in `places`
    optimizer  the policy's, whose state of recycled weights is cleared
    threshold  cosine distance up to which neurons count as one, as `collapse` takes it; 0: only what is
               identical. Scaled copies are one where that is exact, and apart where it is not. Of another
               method its one number: redo, regrama: tau; cbp, swr: the part of units or weights that is
               replaced each time; l2-init, shrink-perturb: the part of the way to the weights at the start,
               or to fresh ones
    method     "fibers", or a rival of `plasticity`: "redo", "regrama", "cbp", "swr", "l2-init",
               "shrink-perturb". fraction, maturity (but of cbp) and the bounds are of fibers alone.
    colors     of fibers: what makes neurons one, "weights", "faithful", or "activations" on the probe
    every, after  a step acts at epochs after, after + every, ..
    fraction   of those neurons that are old enough, the nearest to their fiber first, are recycled
    maturity   steps that a neuron must have been left alone for
    max_kl     nats: recycle as many as keep the mean KL to the policy before within this, on `probe`
    max_value_error  and the squared error of its values, in parts of their variance
    probe      recorded inputs, tuples like example_inputs; without them, example_inputs
    initial    seed -> fresh parameters; by default each layer's own `reset_parameters`
    seed       of what is drawn

    `state_dict` and `load_state_dict` carry ages, counts and chance over a restart.
    Raises UserError for numbers out of range, and where the policy cannot be traced or has nothing to merge.
    """

    def __init__(
        self,
        policy: nn.Module,
        example_inputs: Any,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        threshold: float | Mapping[str, float] = 0.3,
        every: int = 1,
        after: int = 0,
        fraction: float = 1.0,
        maturity: int = 0,
        max_kl: float | None = None,
        max_value_error: float | None = None,
        probe: Sequence[tuple] = (),
        initial: Initial | None = None,
        seed: int = 0,
        actions: str | int = 0,
        method: str = "fibers",
        colors: str = "faithful",
        **places: Any,
    ):
        if method not in METHODS:
            raise UserError(f"method is {method!r}: expected one of {', '.join(METHODS)}")
        if colors not in COLORS:
            raise UserError(f"colors is {colors!r}: expected one of {', '.join(COLORS)}")
        if method != "fibers" and not 0 <= float(threshold) <= 1:  # type: ignore[arg-type]
            raise UserError(f"threshold is {threshold}: {method} takes a part, from 0 to 1")
        if not 0 < fraction <= 1:
            raise UserError(f"fraction is {fraction}: expected a part of the neurons, above 0, at most 1")
        for name, value, least in (("every", every, 1), ("after", after, 0), ("maturity", maturity, 0)):
            if value < least:
                raise UserError(f"{name} is {value}: expected {least} or more")
        for name, bound in (("max_kl", max_kl), ("max_value_error", max_value_error)):
            if bound is not None and not bound >= 0:
                raise UserError(f"{name} is {bound}: expected 0 or more")
        self.traced: Traced = trace(policy, example_inputs, **places)
        self.optimizer, self.threshold = optimizer, threshold
        self.every, self.begin, self.fraction, self.maturity = every, after, fraction, maturity
        self.max_kl, self.max_value_error, self.actions = max_kl, max_value_error, actions
        self.probe = list(probe) or [self.traced.example.inputs]
        self.initial = initial or (lambda seed: drawn(policy, seed))
        self.generator = torch.Generator().manual_seed(seed)
        self.ages = {s.name: np.zeros(s.units, np.int64) for s in self.traced.network.spaces if not s.whole}
        self.total = 0
        if not self.ages:
            raise UserError(f"nothing in {type(policy).__name__} can be merged: see `spaces` for the reasons")
        self.method, self.colors = method, colors
        if method == "fibers":
            self.traced.color(threshold)  # refuses a threshold now, not at the first epoch
        self.first = (
            {n: p.detach().clone() for n, p in policy.named_parameters()} if method == "l2-init" else {}
        )
        self.utility: dict[str, Tensor] = {}
        self.owed = dict.fromkeys(self.ages, 0.0)

    @property
    def policy(self) -> nn.Module:
        return self.traced.policy

    def step(self, epoch: int) -> Broken | None:
        """Call after each update.  -> what was done, None at an epoch at which nothing is

        regrama and swr read the gradients that the last backward left in the parameters.
        """
        for ages in self.ages.values():
            ages += 1
        if self.method == "cbp":
            self._follow_utility()
        if epoch < self.begin or (epoch - self.begin) % self.every:
            return None
        return self.act(epoch)

    def act(self, epoch: int) -> Broken:
        """Do it now, whatever the schedule."""
        merges, seen = self._color()
        before = self._fibers(merges)
        if self.method == "fibers":
            found = candidates(self.traced.network, tensors_of(self.policy), merges, seen)
            ripe = [one for one in found if self.ages[one.space][one.unit] > self.maturity]
            chosen, off = self._within_budget(ripe[: math.ceil(self.fraction * len(ripe))], merges)
        elif self.method in ("redo", "regrama", "cbp"):
            found = chosen = [one for one in self._dormant() if one.space in self.ages]
            off = self._off(chosen, merges)
        else:
            return self._move_weights(epoch, before)
        recycled = {
            name: np.array(sorted(one.unit for one in chosen if one.space == name), np.int64)
            for name in dict.fromkeys(one.space for one in chosen)
        }
        if chosen:
            recycle(self.policy, self.traced.network.table, merges, chosen, self._fresh(), self.optimizer)
            for name, units in recycled.items():
                self.ages[name][units] = 0
                if name in self.utility:
                    self.utility[name][units] = 0
            self.total += len(chosen)
            merges, _ = self._color()
        return Broken(epoch, recycled, before, self._fibers(merges), len(found), off.kl, off.value_error)

    def _color(self) -> tuple[Mapping[str, Merge], Mapping[str, np.ndarray] | None]:
        """How neurons make one; of rivals at a cosine distance of 0.3, which only counts fibers."""
        if self.method != "fibers":
            return self.traced.color(colors="faithful").merges, None
        if self.colors == "activations":
            assert isinstance(self.threshold, (int, float))
            return by_activations(self.traced.network, self._activations(), self.threshold)
        return self.traced.color(self.threshold, colors=self.colors).merges, None

    def _activations(self) -> dict[str, Tensor]:
        return all_activations(self.policy, self.traced.network, [arguments(one) for one in self.probe])

    def _gradients(self) -> dict[str, Tensor]:
        return {n: p.grad for n, p in self.policy.named_parameters() if p.grad is not None}

    def _fresh(self) -> Mapping[str, Tensor]:
        return self.initial(int(torch.randint(2**31, (), generator=self.generator)))

    def _dormant(self) -> list[Candidate]:
        """What a rival makes fresh."""
        network, part = self.traced.network, float(self.threshold)  # type: ignore[arg-type]
        if self.method == "redo":
            h = self._activations()
            return quiet({n: activity(h[n].reshape(-1, network[n].units)) for n in self.ages if n in h}, part)
        if self.method == "regrama":
            rows = by_unit(network, self._gradients(), "out")
            return quiet({n: gradient_activity(rows[n]) for n in self.ages if n in rows}, part)
        for name, ages in self.ages.items():
            self.owed[name] += part * int((ages > self.maturity).sum())
        known = {name: self.utility[name] for name in self.ages if name in self.utility}
        found = least_useful(known, self.ages, self.maturity, self.owed)
        self.owed = {name: owed - int(owed) for name, owed in self.owed.items()}
        return found

    def _follow_utility(self) -> None:
        network, h = self.traced.network, self._activations()
        tensors = {n: p.detach() for n, p in self.policy.named_parameters()}
        outgoing = by_unit(network, tensors, "in")
        for name in self.ages:
            if name in h and name in outgoing:
                now = contribution(h[name].reshape(-1, network[name].units), outgoing[name]).cpu()
                old = self.utility.get(name, torch.zeros_like(now))
                self.utility[name] = ETA * old + (1 - ETA) * now

    def _move_weights(self, epoch: int, before: dict[str, int]) -> Broken:
        strength, old, count = float(self.threshold), copy_of(self.policy), 0  # type: ignore[arg-type]
        if self.method == "l2-init":
            pull_back(self.policy, self.first, strength)
        elif self.method == "shrink-perturb":
            shrink_and_perturb(self.policy, self._fresh(), strength)
        else:
            fresh, gradients = self._fresh(), self._gradients()
            count = reinitialize_weights(self.policy, gradients, fresh, strength, self.optimizer)
        off = divergence(replace(self.traced, policy=old), self.policy, self.probe, actions=self.actions)
        after = self._fibers(self._color()[0])
        return Broken(epoch, {}, before, after, 0, off.kl, off.value_error, count)

    def _within_budget(
        self, ripe: Sequence[Candidate], merges: Mapping[str, Merge]
    ) -> tuple[Sequence[Candidate], Divergence]:
        """As many of the candidates, from the first on, as the policy bears; and how far off it is then."""
        off = self._off(ripe, merges)
        if self._bears(off):
            return ripe, off
        some, low, high = self._off([], merges), 0, len(ripe)  # `low` are within, `high` are not
        while high - low > 1:
            middle = (low + high) // 2
            off = self._off(ripe[:middle], merges)
            low, high, some = (middle, high, off) if self._bears(off) else (low, middle, some)
        return ripe[:low], some

    def _bears(self, off: Divergence) -> bool:
        within = self.max_kl is None or off.kl <= self.max_kl
        return within and not (self.max_value_error is not None and off.value_error > self.max_value_error)

    def _off(self, chosen: Sequence[Candidate], merges: Mapping[str, Merge]) -> Divergence:
        """What is drawn has no say in it: nobody reads it yet."""
        if not chosen:
            return Divergence(0.0, 0.0, 0.0)
        tried = copy_of(self.policy)
        recycle(tried, self.traced.network.table, merges, chosen, tensors_of(self.policy))
        return divergence(self.traced, tried, self.probe, actions=self.actions)

    def _fibers(self, merges: Mapping[str, Merge]) -> dict[str, int]:
        return {name: int(merges[name].labels.max()) + 1 for name in self.ages}

    def state_dict(self) -> dict[str, Any]:
        """Ages of the units, in steps, how many were recycled, and the generator: tensors and plain data.

        Of l2-init the weights at the start too, of cbp utilities.
        """
        return {
            "ages": {name: torch.from_numpy(ages.copy()) for name, ages in self.ages.items()},
            "total": self.total,
            "generator": self.generator.get_state(),
            "first": self.first,
            "utility": self.utility,
            "owed": self.owed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it.  Raises UserError where it is of a policy of other widths."""
        ages = {name: x.numpy().astype(np.int64) for name, x in state["ages"].items()}
        if {n: len(x) for n, x in ages.items()} != {n: len(x) for n, x in self.ages.items()}:
            raise UserError("the symmetry breaker's state is of a policy of other spaces or widths")
        self.ages, self.total = ages, int(state["total"])
        self.generator.set_state(state["generator"])
        self.first = dict(state["first"]) or self.first
        self.utility, self.owed = dict(state["utility"]), {**self.owed, **state["owed"]}
