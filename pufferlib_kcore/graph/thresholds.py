"""Thresholds: which of them would leave how much of a policy, found by coloring alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pufferlib_kcore.graph.rebuild import parameters_at
from pufferlib_kcore.graph.traced import Traced, traced_of

STEP = 0.01  # between thresholds that are told apart
NEAR = 0.05  # as near as this to a part is near enough
ALL = 0.95  # what keeps more than this part keeps nearly all
HIGHEST = 1.0  # beyond it neurons merge whose weights point against each other


def thresholds_for(
    policy: nn.Module | Traced,
    example_inputs: Any = None,
    parts: Sequence[float] = (0.8, 0.5, 0.2),
    *,
    colors: str = "weights",
    round_to: int = 1,
    **how: Any,
) -> dict[float, float]:
    """Thresholds for all spaces that keep about these parts of the parameters; nothing is merged or run.

    policy, example_inputs, how  as `trace` has them; or a Traced alone
    colors, round_to  as `Traced.color` has them; by weights, or these minding their size
    -> {threshold: part of the parameters that it keeps}, rising, up to 1; fewer than parts where sizes leap,
    and none that keeps nearly all.  Bisection, each coloring used for every part: sizes nearly always fall as
    thresholds rise.
    """
    part_kept = sizes_of(traced_of(policy, example_inputs, how), colors, round_to)
    kept = {0.0: 1.0}

    def look(threshold: float) -> None:
        kept[threshold] = part_kept(threshold)

    for part in parts:
        while min(abs(size - part) for size in kept.values()) > NEAR:
            low = max(t for t in kept if kept[t] > part)
            high = min((t for t in kept if t > low), default=HIGHEST)
            if high - low > 1.5 * STEP:
                look(round((low + high) / 2, 2))
            elif high not in kept:
                look(high)
            else:
                break
    nearest = (min(kept, key=lambda t: abs(kept[t] - part)) for part in parts)
    return {t: kept[t] for t in sorted(set(nearest)) if kept[t] < ALL}


def sizes_of(traced: Traced, colors: str = "weights", round_to: int = 1) -> Callable[[float], float]:
    """Threshold of all spaces -> the part of the parameters that a collapse keeps, by coloring alone."""
    whole = parameters_at(traced.policy, traced.network, {})

    def part_kept(threshold: float) -> float:
        widths = traced.color(threshold, colors=colors, round_to=round_to).widths
        return parameters_at(traced.policy, traced.network, widths) / whole

    return part_kept
