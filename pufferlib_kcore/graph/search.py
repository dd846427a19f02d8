"""Search: the smallest policy that still acts as the original does, each space at a width of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.quotient import Merge, Tensors
from pufferlib_kcore.fibration.selection import Reader, gather, ranked
from pufferlib_kcore.graph.calibration import Targets, readers_of, refit
from pufferlib_kcore.graph.colorings import Coloring, common_widths
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.faithfulness import Answers, divergence
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.nested import arguments
from pufferlib_kcore.graph.rebuild import parameters_at, rebuild
from pufferlib_kcore.graph.traced import Traced, traced_of

STEPS = (0.75, 0.9, 0.97)  # a space is narrowed to this part of its width; to the next where that is too much


@dataclass(frozen=True)
class Point:
    """One policy on the way."""

    size: float  # parameters, in parts of the original's
    params: int
    kl: float
    value_error: float
    widths: dict[str, int]  # space -> fibers


@dataclass(frozen=True)
class Search:
    """The policy that was found, and those on the way to it, from the largest on."""

    collapse: Collapse
    frontier: list[Point]


def search(
    policy: nn.Module | Traced,
    example_inputs: Any = None,
    calibrate: Inputs = (),
    held_out: Inputs = (),
    *,
    max_kl: float | None = None,
    target_params: float | None = None,
    actions: str | int = 0,
    round_to: int = 1,
    watch: Callable[[Point], None] = lambda point: None,
    **how: Any,
) -> Search:
    """Narrow one space after the other, always the one whose parameters cost the least divergence.

    policy, example_inputs, how  as `trace` has them; or a Traced alone
    calibrate      recorded inputs, on which units are chosen and readers refitted (see `collapse`)
    held_out       others, on which divergence is measured
    max_kl         nats: end before the mean KL to the original is above this
    target_params  end as soon as so many of the parameters are left, as a part in (0, 1]
    actions        their path in the output, as of `divergence`
    round_to       widths are multiples of this, where a space has that many units
    watch          called with each point of the frontier
    Raises UserError without a budget or recorded inputs, where the policy has nothing to merge or no actions
    to bound, and for NaN or infinity in its weights or in what it computes on these inputs.
    """
    if max_kl is None and target_params is None:
        raise UserError("a search needs a budget: max_kl, target_params or both")
    if target_params is not None and not 0 < target_params <= 1:
        raise UserError(
            f"target_params is {target_params}: expected a part of the parameters, above 0, at most 1"
        )
    if max_kl is not None and not max_kl >= 0:
        raise UserError(f"max_kl is {max_kl}: expected nats, 0 or more")
    if not calibrate or not held_out:
        raise UserError("a search needs recorded inputs, to calibrate on and held out: one list is empty")
    traced = traced_of(policy, example_inputs, how)
    calibrate, held_out = ([arguments(one) for one in some] for some in (calibrate, held_out))
    tensors = traced.tensors()
    readers = readers_of(traced.policy, traced.network, calibrate)
    if not readers:
        name = type(traced.policy).__name__
        raise UserError(f"nothing in {name} can be merged: see `spaces` for the reasons")
    Answers(traced.policy, held_out[:1], traced.network, actions).bound_by(max_kl)
    walk = _Walk(traced, tensors, readers, calibrate, held_out, round_to, actions)
    frontier = [walk.start()]
    watch(frontier[0])
    steps = list(STEPS)
    while steps and frontier[-1].size > (target_params or 0):
        point = walk.narrower(frontier[-1], steps[0], inf if max_kl is None else max_kl, target_params or 0)
        if point is None:
            steps.pop(0)
        else:
            frontier.append(point)
            watch(point)
    coloring = Coloring.of(traced.network, walk.merges(frontier[-1].widths))
    return Search(traced.merge(coloring, calibrate=calibrate), frontier)


class _Walk:
    """Policies of any widths, and how far from the original they are."""

    def __init__(
        self,
        traced: Traced,
        tensors: Tensors,
        readers: Mapping[str, list[Reader]],
        calibrate: Inputs,
        held_out: Inputs,
        round_to: int,
        actions: str | int,
    ):
        self.traced, self.policy, self.network = traced, traced.policy, traced.network
        self.tensors, self.readers, self.held_out = tensors, readers, held_out
        self.targets = Targets(self.policy, self.network, calibrate)
        self.round_to, self.actions = round_to, actions
        self.order = {name: ranked(seen) for name, seen in readers.items()}
        tied = {name: group for group in self.network.same_width for name in group}
        self.groups = list(dict.fromkeys(tied.get(name, (name,)) for name in readers))
        self.price = dict.fromkeys(self.groups, -1.0)  # nats for a parameter, when it was last narrowed

    def start(self) -> Point:
        """As many units as are linearly independent: the rest goes for free."""
        needed = {name: count for name, (_, count) in self.order.items()}
        whole = {space.name: space.units for space in self.network.spaces}
        return self.at(common_widths(self.network, whole | needed, self.round_to)[0])

    def narrower(self, now: Point, step: float, max_kl: float, target: float) -> Point | None:
        """The cheapest of the policies with one group of spaces narrowed; None where all exceed the budget.

        A group's last price stands until it is the lowest: only then is the group tried again.
        """
        found: dict[tuple[str, ...], Point] = {}
        groups = [group for group in self.groups if now.widths[group[0]] > self.round_to]
        while groups:
            group = min(groups, key=self.price.__getitem__)
            if group in found:
                return found[group]
            tried = self.at(self.narrowed(now.widths, group, step, target))
            self.price[group] = (tried.kl - now.kl) / (now.params - tried.params)
            if tried.kl > max_kl:
                groups.remove(group)
            found[group] = tried
        return None

    def narrowed(
        self, widths: dict[str, int], group: tuple[str, ...], step: float, target: float
    ) -> dict[str, int]:
        """The widths with this group's cut to a part, but not further than the target asks."""
        full = widths[group[0]]
        lowest = max(self.round_to, int(step * full))
        for units in range((full - 1) // self.round_to * self.round_to, 0, -self.round_to):
            cut = widths | dict.fromkeys(group, units)
            if units <= lowest or self.params(cut) <= target * self.params({}):
                break
        return cut

    def params(self, widths: Mapping[str, int]) -> int:
        return parameters_at(self.policy, self.network, widths)

    def merges(self, widths: Mapping[str, int]) -> dict[str, Merge]:
        return {
            name: gather(seen, self.order[name][0][: widths[name]]) for name, seen in self.readers.items()
        }

    def at(self, widths: dict[str, int]) -> Point:
        """Merge, refit, and measure."""
        merges = self.merges(widths)
        tensors = quotient.collapse(self.tensors, self.network.table, merges)
        smaller = rebuild(self.policy, self.network, tensors, widths)
        refit(smaller, merges, self.targets)
        found = divergence(self.traced, smaller, self.held_out, fibers=merges, actions=self.actions)
        params = self.params(widths)
        return Point(params / self.params({}), params, found.kl, found.value_error, widths)
