"""SymmetryBreaker: recycles neurons that compute the same while a policy trains, whoever trains it."""

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
from pufferlib_kcore.graph.breaking import Candidate, candidates, drawn, recycle
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.faithfulness import divergence
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.traced import Traced, trace

Initial = Callable[[int], Mapping[str, Tensor]]  # seed -> parameters and buffers as they are before training


@dataclass(frozen=True)
class Broken:
    """What one step did."""

    epoch: int
    recycled: dict[str, np.ndarray]  # space -> units that are fresh now
    before: dict[str, int]  # space -> fibers, of those that can merge
    after: dict[str, int]
    candidates: int  # neurons that another one made superfluous, old enough or not
    kl: float | None  # nats, of the policy before to the one after; None where nobody measured it

    @property
    def count(self) -> int:
        return sum(map(len, self.recycled.values()))


class SymmetryBreaker:
    """Keeps one neuron of each fiber, and makes others of it fresh (see `graph.breaking`), in place.

    policy, example_inputs  as `kcore.trace` takes them, with method, value, ignore and outputs in `places`
    optimizer  the policy's, whose state of recycled weights is cleared
    threshold  cosine distance up to which neurons count as one, as `collapse` takes it; 0: only what is
               identical. Scaled copies are one where that is exact, and apart where it is not.
    every, after  a step acts at epochs after, after + every, ..
    fraction   of those neurons that are old enough, the nearest to their fiber first, are recycled
    maturity   steps that a neuron must have been left alone for
    max_kl     nats: recycle as many as keep the mean KL to the policy before within this, on `probe`
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
        probe: Sequence[tuple] = (),
        initial: Initial | None = None,
        seed: int = 0,
        actions: str | int = 0,
        **places: Any,
    ):
        if not 0 < fraction <= 1:
            raise UserError(f"fraction is {fraction}: expected a part of the neurons, above 0, at most 1")
        for name, value, least in (("every", every, 1), ("after", after, 0), ("maturity", maturity, 0)):
            if value < least:
                raise UserError(f"{name} is {value}: expected {least} or more")
        if max_kl is not None and not max_kl >= 0:
            raise UserError(f"max_kl is {max_kl}: expected nats, 0 or more")
        self.traced: Traced = trace(policy, example_inputs, **places)
        self.optimizer, self.threshold = optimizer, threshold
        self.every, self.begin, self.fraction, self.maturity = every, after, fraction, maturity
        self.max_kl, self.actions = max_kl, actions
        self.probe = list(probe) or [self.traced.example.inputs]
        self.initial = initial or (lambda seed: drawn(policy, seed))
        self.generator = torch.Generator().manual_seed(seed)
        self.ages = {s.name: np.zeros(s.units, np.int64) for s in self.traced.network.spaces if not s.whole}
        self.total = 0
        if not self.ages:
            raise UserError(f"nothing in {type(policy).__name__} can be merged: see `spaces` for the reasons")
        self.traced.color(threshold)  # refuses a threshold now, not at the first epoch

    @property
    def policy(self) -> nn.Module:
        return self.traced.policy

    def step(self, epoch: int) -> Broken | None:
        """Call after each update.  -> what was done, None at an epoch at which nothing is"""
        for ages in self.ages.values():
            ages += 1
        if epoch < self.begin or (epoch - self.begin) % self.every:
            return None
        merges = self.traced.color(self.threshold, colors="faithful").merges
        found = candidates(self.traced.network, tensors_of(self.policy), merges)
        ripe = [one for one in found if self.ages[one.space][one.unit] > self.maturity]
        chosen, kl = self._within_budget(ripe[: math.ceil(self.fraction * len(ripe))], merges)
        before = self._fibers(merges)
        recycled = {
            name: np.array(sorted(one.unit for one in chosen if one.space == name), np.int64)
            for name in dict.fromkeys(one.space for one in chosen)
        }
        if chosen:
            fresh = self.initial(int(torch.randint(2**31, (), generator=self.generator)))
            recycle(self.policy, self.traced.network.table, merges, chosen, fresh, self.optimizer)
            for name, units in recycled.items():
                self.ages[name][units] = 0
            self.total += len(chosen)
            merges = self.traced.color(self.threshold, colors="faithful").merges
        return Broken(epoch, recycled, before, self._fibers(merges), len(found), kl)

    def _within_budget(
        self, ripe: Sequence[Candidate], merges: Mapping[str, Merge]
    ) -> tuple[Sequence[Candidate], float | None]:
        """As many of the candidates, from the first on, as the policy bears; and how far off it is then."""
        if not ripe:
            return [], 0.0
        kl = self._kl(ripe, merges)
        if self.max_kl is None or kl <= self.max_kl:
            return ripe, kl
        some, low, high = 0.0, 0, len(ripe)  # `low` are within, `high` are not
        while high - low > 1:
            middle = (low + high) // 2
            off = self._kl(ripe[:middle], merges)
            low, high, some = (middle, high, off) if off <= self.max_kl else (low, middle, some)
        return ripe[:low], some

    def _kl(self, chosen: Sequence[Candidate], merges: Mapping[str, Merge]) -> float:
        """What is drawn has no say in it: nobody reads it yet."""
        tried = copy_of(self.policy)
        recycle(tried, self.traced.network.table, merges, chosen, tensors_of(self.policy))
        return divergence(self.traced, tried, self.probe, actions=self.actions).kl

    def _fibers(self, merges: Mapping[str, Merge]) -> dict[str, int]:
        return {name: int(merges[name].labels.max()) + 1 for name in self.ages}

    def state_dict(self) -> dict[str, Any]:
        """Ages of the units, in steps, how many were recycled, and the generator: tensors and plain data."""
        return {
            "ages": {name: torch.from_numpy(ages.copy()) for name, ages in self.ages.items()},
            "total": self.total,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it.  Raises UserError where it is of a policy of other widths."""
        ages = {name: x.numpy().astype(np.int64) for name, x in state["ages"].items()}
        if {n: len(x) for n, x in ages.items()} != {n: len(x) for n, x in self.ages.items()}:
            raise UserError("the symmetry breaker's state is of a policy of other spaces or widths")
        self.ages, self.total = ages, int(state["total"])
        self.generator.set_state(state["generator"])
