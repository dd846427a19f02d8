"""Merging: what the engine finds in a policy, up to thresholds or within a budget, fitted to its states."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan, log
from typing import Any

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph import distillation
from pufferlib_kcore.jobs.progress import Tell, Watch, unwatched
from pufferlib_kcore.jobs.recording import Recorded, RecordRequest, record_states
from pufferlib_kcore.settings import CollapseSettings

BLIND = 0.01  # nats: a policy whose actions differ less from their mean hardly looks at its input


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """How to merge a policy's neurons, and the recording of it that may be needed for that."""

    settings: CollapseSettings
    recording: RecordRequest
    insist: bool = False  # on calibrating: where no states can be recorded, merging alone will not do

    def traced(self) -> graph.Traced:
        """The policy and its network."""
        restored = self.recording.restored
        return graph.trace(restored.policy, restored.example_inputs)


@dataclass(frozen=True)
class Found:
    """What the engine answered, and what there is to say of it."""

    result: graph.Collapse
    notes: list[str]
    frontier: list[graph.Point] = field(default_factory=list)
    apart: graph.Divergence | None = None  # from the original, on states that it was not fitted to
    recorded: dict[str, Any] | None = None  # what a recording was made with, where it had a say


def merge(request: MergeRequest, watch: Watch = unwatched) -> Found:
    """Merge up to thresholds, or with threshold = "auto" as far as the budget of a search allows.

    Raises UserError where states are needed and cannot be recorded.
    """
    return (search if request.settings.searches else merged)(request, watch)


def merged(request: MergeRequest, watch: Watch) -> Found:
    """Merge up to a threshold; where anything merges, refit on recorded states."""
    c, traced, coloring = request.settings, request.traced(), None
    thresholds = c.one_or_by_kind()
    if c.colors != "activations":
        coloring = traced.color(thresholds, colors=c.colors, round_to=c.round_to)
        if c.colors == "weights" and not (c.calibrate and coloring.merging):
            return Found(traced.merge(coloring), [])
    try:
        seen = record_states(request.recording, watch)
    except UserError as error:
        if coloring is None or request.insist:
            raise
        why = f"not calibrated, no states could be recorded: {error}"
        return Found(traced.merge(coloring), [why], recorded={"failed": str(error)})
    if coloring is None:
        coloring = traced.color(thresholds, colors=c.colors, calibrate=seen.calibrate, round_to=c.round_to)
    result = traced.merge(coloring, calibrate=seen.calibrate)
    return taught(request, traced, Found(result, []), seen, watch)


def search(request: MergeRequest, watch: Watch = unwatched) -> Found:
    """As small as the budget of --collapse auto allows."""
    c, traced, seen = request.settings, request.traced(), record_states(request.recording, watch)
    budget = c.budget()
    with watch("searching for the widths") as tell:
        found = graph.search(
            traced,
            calibrate=seen.calibrate,
            held_out=seen.held_out,
            max_kl=budget.get("max_kl"),
            target_params=budget.get("target_params"),
            round_to=c.round_to,
            watch=lambda point: tell_point(tell, point, c.target_params),
        )
    return taught(request, traced, Found(found.collapse, [], found.frontier), seen, watch)


def taught(request: MergeRequest, traced: graph.Traced, found: Found, seen: Recorded, watch: Watch) -> Found:
    """Distill after a search, or where that is asked for, and say how near the policies are."""
    c, result = request.settings, found.result
    steps = c.distill
    if steps is None:
        steps = distillation.STEPS if c.searches and seen.test else 0
    if steps:
        with watch(f"distilling: {steps} gradient steps on the recorded states") as tell:
            result = graph.distill(traced, result, seen.calibrate, seen.held_out, steps, watch=tell)
    if not seen.test:
        return Found(result, [seen.text], found.frontier, recorded=seen.by)
    apart = graph.divergence(traced, result.policy, seen.test, fibers=result.merges)
    return Found(result, [seen.text, nearness(apart)], found.frontier, apart, seen.by)


def nearness(apart: graph.Divergence) -> str:
    """How near a smaller policy is to its original, for people."""
    words = (
        f"on states that it was not fitted to, the smaller policy's action probabilities are KL "
        f"{apart.kl:.3g} nats from the original's (0: the same); blind, acting always as the original does "
        f"on average, it would be {apart.look:.3g} off"
    )
    if apart.look < BLIND:
        words += " (so the original hardly looks at its observations yet)"
    if not isnan(apart.value_error):
        words += f"; its values' squared error is {100 * apart.value_error:.3g}% of their variance"
    return words


def tell_point(tell: Tell, point: graph.Point, target: float | None) -> None:
    """How far a search is, by a point of it."""
    part = min(1.0, log(point.size) / log(target)) if target and target < 1 else 0.0
    widths = " ".join(f"{name}={width}" for name, width in point.widths.items())
    errors = f"kl={point.kl:.4g} value_error={point.value_error:.4g}"
    line = f"size={point.size:.4f} {errors} {widths}"
    tell(part, f"{point.size:.1%} of the parameters, KL {point.kl:.2g}", line)
