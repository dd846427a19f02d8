"""SymmetryBreaker: recycles neurons that compute the same while a policy trains, whoever trains it.

And, by the same switch, the published ways that it is compared with: see `plasticity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.graph.bounds import Bounds
from pufferlib_kcore.graph.breaking import (
    Candidate,
    by_activations,
    by_weights,
    candidates,
    drawn,
    recycle,
)
from pufferlib_kcore.graph.colorings import THRESHOLD, thresholds_by_space
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.faithfulness import Divergence
from pufferlib_kcore.graph.nested import tensors_of
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
from pufferlib_kcore.graph.traced import Traced, traced_of

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

    policy, example_inputs  as `kcore.trace` takes them, with value, ignore and outputs in `places`; or what
               `kcore.trace` returned, and None, as of a policy that is called by another method than forward
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

    A space is left alone where a weight that writes or reads it takes no gradient: nothing fresh would learn.
    `state_dict` and `load_state_dict` carry ages, counts and chance over a restart.
    Raises UserError for numbers out of range, an optimizer of other parameters, and where the policy cannot
    be traced, has nothing to merge, or returns no actions or values to be bounded.
    """

    def __init__(
        self,
        policy: nn.Module | Traced,
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
        self.method, self.colors, self.optimizer, self.threshold = method, colors, optimizer, threshold
        self.every, self.begin, self.fraction, self.maturity = every, after, fraction, maturity
        self._check_settings()
        self.traced = traced_of(policy, example_inputs, places)
        self.bounds = Bounds(
            self.traced, list(probe) or [self.traced.example.inputs], actions, max_kl, max_value_error
        )
        self.initial = initial or (lambda seed: drawn(self.policy, seed))
        self.generator = torch.Generator().manual_seed(seed)
        self.ages = {
            s.name: np.zeros(s.units, np.int64)
            for s in self.traced.network.spaces
            if not (s.whole or s.name in frozen(self.traced))
        }
        self.total = 0
        self._check_policy()
        self.thresholds = thresholds_by_space(
            threshold if method == "fibers" else THRESHOLD, self.traced.network.spaces
        )
        own = self.policy.named_parameters() if method == "l2-init" else ()
        self.first = {name: p.detach().clone() for name, p in own}
        self.utility: dict[str, Tensor] = {}
        self.owed = dict.fromkeys(self.ages, 0.0)

    def _check_settings(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("colors", self.colors, COLORS)):
            if value not in known:
                raise UserError(f"{name} is {value!r}: expected one of {', '.join(known)}")
        number = isinstance(self.threshold, (int, float))
        if self.method != "fibers" and not (number and 0 <= self.threshold <= 1):  # type: ignore[operator]
            raise UserError(f"threshold is {self.threshold}: {self.method} takes a part, from 0 to 1")
        if not (number or isinstance(self.threshold, Mapping)):
            raise UserError(f"threshold is {self.threshold!r}: expected a cosine distance from 0 to 2")
        if not 0 < self.fraction <= 1:
            raise UserError(
                f"fraction is {self.fraction}: expected a part of the neurons, above 0, at most 1"
            )
        counts = (("every", self.every, 1), ("after", self.begin, 0), ("maturity", self.maturity, 0))
        for name, count, least in counts:
            if count < least:
                raise UserError(f"{name} is {count}: expected {least} or more")

    def _check_policy(self) -> None:
        name = type(self.policy).__name__
        if not self.ages:
            every = [f"{s.name}: {s.whole or 'it is frozen'}" for s in self.traced.network.spaces]
            why = "; ".join(every) or "it has no layers"
            raise UserError(f"nothing in {name} can be merged, so nothing is superfluous ({why})")
        if self.optimizer is not None:
            held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
            if held.isdisjoint(map(id, self.policy.parameters())):
                raise UserError(f"the optimizer trains no parameter of {name}: give the one that does")
        self.traced.tensors()  # refuses NaN
        self.bounds.check()

    @property
    def policy(self) -> nn.Module:
        return self.traced.policy

    @property
    def probe(self) -> Inputs:
        """Recorded inputs on which it is measured what a step does; set it to recent ones."""
        return self.bounds.probe

    @probe.setter
    def probe(self, inputs: Inputs) -> None:
        self.bounds.probe = inputs

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
            every = candidates(self.traced.network, tensors_of(self.policy), merges, seen)
            found = [one for one in every if one.space in self.ages]
            ripe = [one for one in found if self.ages[one.space][one.unit] > self.maturity]
            ripe = ripe[: math.ceil(self.fraction * len(ripe))]
            chosen, off = self.bounds.most(ripe, lambda some: self._off(some, merges))
        elif self.method in ("redo", "regrama", "cbp"):
            found = chosen = self._dormant()
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
        network, by_fibers = self.traced.network, self.method == "fibers"
        if by_fibers and self.colors == "activations":
            return by_activations(network, self.bounds.activations(), self.thresholds)
        minding_size = not by_fibers or self.colors == "faithful"
        return by_weights(network, self.traced.tensors(), self.thresholds, minding_size), None

    def _gradients(self) -> dict[str, Tensor]:
        """By parameter; none where any is infinite or NaN, as of a step that a gradient scaler leaves out."""
        found = {n: p.grad for n, p in self.policy.named_parameters() if p.grad is not None}
        if not found:
            raise UserError(
                f"{self.method} reads the gradients of the last backward, and {type(self.policy).__name__} "
                "has none: call step after backward, and before zero_grad"
            )
        return found if all(bool(g.isfinite().all()) for g in found.values()) else {}

    def _fresh(self) -> Mapping[str, Tensor]:
        return self.initial(int(torch.randint(2**31, (), generator=self.generator)))

    def _dormant(self) -> list[Candidate]:
        """What a rival makes fresh."""
        network, part = self.traced.network, float(self.threshold)  # type: ignore[arg-type]
        if self.method == "redo":
            h = self.bounds.activations()
            return quiet({n: activity(h[n].reshape(-1, network[n].units)) for n in self.ages if n in h}, part)
        if self.method == "regrama":
            rows = by_unit(network, self._gradients(), "out")
            learn = [n for n in self.ages if n in rows and rows[n].any()]  # else none is quieter than others
            return quiet({n: gradient_activity(rows[n]) for n in learn}, part)
        for name, ages in self.ages.items():
            self.owed[name] += part * int((ages > self.maturity).sum())
        known = {name: self.utility[name] for name in self.ages if name in self.utility}
        found = least_useful(known, self.ages, self.maturity, self.owed)
        self.owed = {name: owed - int(owed) for name, owed in self.owed.items()}
        return found

    def _follow_utility(self) -> None:
        network, h = self.traced.network, self.bounds.activations()
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
        off = self.bounds.off(self.policy, before=old)
        after = self._fibers(self._color()[0])
        return Broken(epoch, {}, before, after, 0, off.kl, off.value_error, count)

    def _off(self, chosen: Sequence[Candidate], merges: Mapping[str, Merge]) -> Divergence:
        """What is drawn has no say in it: nobody reads it yet."""
        if not chosen:
            return Divergence(0.0, 0.0, 0.0)
        tried = copy_of(self.policy)
        recycle(tried, self.traced.network.table, merges, chosen, tensors_of(self.policy))
        return self.bounds.off(tried)

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
        """Go on with it.  Raises UserError where it is no such state, or of a policy of other widths."""
        if missing := self.state_dict().keys() - state.keys():
            raise UserError(f"this is no symmetry breaker's state: it has no {min(missing)}")
        ages = {name: x.cpu().numpy().astype(np.int64) for name, x in state["ages"].items()}
        if {n: len(x) for n, x in ages.items()} != {n: len(x) for n, x in self.ages.items()}:
            raise UserError("the symmetry breaker's state is of a policy of other spaces or widths")
        self.ages, self.total = ages, int(state["total"])
        self.generator.set_state(state["generator"].cpu())
        if self.method == "l2-init":  # of one that was another's before, where it is now
            self.first = dict(state["first"]) or self.first
        self.utility, self.owed = dict(state["utility"]), {**self.owed, **state["owed"]}


def frozen(traced: Traced) -> set[str]:
    """The spaces that a parameter which takes no gradient writes or reads."""
    still = {name for name, p in traced.policy.named_parameters() if not p.requires_grad}
    table = traced.network.table
    found = {part.space for name in still & table.keys() for axis in table[name] for part in axis}
    return {space for space in found if space}
