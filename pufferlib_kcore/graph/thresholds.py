"""Thresholds: which of them would leave how much of a policy, found by coloring alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pufferlib_kcore.fibration.refinement import color_spaces
from pufferlib_kcore.graph.collapsing import common_widths
from pufferlib_kcore.graph.network import Network, network_of
from pufferlib_kcore.graph.rebuild import parameters_at

STEP = 0.01  # between thresholds that are told apart
NEAR = 0.05  # as near as this to a part is near enough
ALL = 0.95  # what keeps more than this part keeps nearly all
HIGHEST = 1.0  # beyond it neurons merge whose weights point against each other


def thresholds_for(
    policy: nn.Module,
    example_inputs: tuple,
    parts: Sequence[float] = (0.8, 0.5, 0.2),
    *,
    method: str = "forward",
    value: str | int | None = None,
    ignore: Sequence[str] = (),
    by_size: bool = False,
    round_to: int = 1,
) -> dict[float, float]:
    """Thresholds for all spaces that keep about these parts of the parameters; nothing is merged or run.

    by_size  as colors="faithful" of `collapse` has it
    -> {threshold: part of the parameters that it keeps}, rising, up to 1; fewer than parts where sizes leap,
    and none that keeps nearly all.  Bisection, each coloring used for every part: sizes nearly always fall as
    thresholds rise.
    """
    network = network_of(policy, example_inputs, method, value, ignore)
    part_kept = sizes_of(policy, network, by_size, round_to)
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


def sizes_of(
    policy: nn.Module, network: Network, by_size: bool = False, round_to: int = 1
) -> Callable[[float], float]:
    """Threshold of all spaces -> the part of the parameters that a collapse keeps, by coloring alone."""
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    whole = parameters_at(policy, network, {})

    def part_kept(threshold: float) -> float:
        same = {space.name: threshold for space in network.spaces}
        merges = color_spaces(network.spaces, tensors, network.table, same, by_size=by_size)
        counts = {name: int(merge.labels.max()) + 1 for name, merge in merges.items()}
        widths, _ = common_widths(network, counts, round_to)
        return parameters_at(policy, network, widths) / whole

    return part_kept
