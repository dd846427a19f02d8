"""Colorings: how the neurons of every space of a network merge, at widths that its modules can have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.fibration.refinement import Space
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.settings.sections import KINDS, Colors

THRESHOLD = 0.3
COLORS = get_args(Colors)


@dataclass(frozen=True)
class Coloring:
    """What is to become of each space; nothing is done to a policy yet."""

    merges: dict[str, Merge]  # space -> how its neurons become one of each fiber
    thresholds: dict[str, float]  # space -> cosine distance; empty where it was chosen otherwise
    reasons: dict[str, str | None]  # space -> why it is left whole, or padded

    @classmethod
    def of(
        cls,
        network: Network,
        merges: Mapping[str, Merge],
        thresholds: Mapping[str, float] = {},
        notes: Mapping[str, str] = {},
    ) -> Coloring:
        """These merges; spaces that are not named stay whole.  notes: space -> what else is to be said"""
        whole = {space.name: Merge.mean(np.arange(space.units)) for space in network.spaces}
        reasons = {space.name: space.whole or notes.get(space.name) for space in network.spaces}
        return cls(whole | dict(merges), dict(thresholds), reasons)

    @property
    def fibers(self) -> dict[str, np.ndarray]:
        """Space -> int64 labels (units,), numbered by first member."""
        return {name: merge.labels for name, merge in self.merges.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Space -> how many fibers."""
        return {name: int(labels.max()) + 1 for name, labels in self.fibers.items()}

    @property
    def merging(self) -> dict[str, Merge]:
        """The merges of those spaces of which any neurons merge."""
        return {name: merge for name, merge in self.merges.items() if self.widths[name] < len(merge.labels)}


def thresholds_by_space(threshold: float | Mapping[str, float], spaces: Sequence[Space]) -> dict[str, float]:
    """Space -> threshold: by its name, else its kind, else the default."""
    given = dict(threshold) if isinstance(threshold, Mapping) else {"default": threshold}
    known = ["default", *KINDS, *(space.name for space in spaces)]
    for name, distance in given.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1) or [" or ".join(known[:5])]
            raise UserError(f"threshold for '{name}': no such kind or space; did you mean {nearest[0]}?")
        if not 0 <= distance <= 2:
            raise UserError(f"threshold for '{name}' is {distance}: expected a cosine distance from 0 to 2")
    default = given.get("default", THRESHOLD)
    return {space.name: float(given.get(space.name, given.get(space.kind, default))) for space in spaces}


def common_widths(
    network: Network, fibers: Mapping[str, int], round_to: int = 1
) -> tuple[dict[str, int], dict[str, str]]:
    """Widths that modules can have: layers of one recurrent module as wide as the widest, all rounded up.

    fibers    space -> how many it needs
    round_to  widths are multiples of this, or all units
    Returns widths, and {space: note} for those that got more than they need.
    """
    if round_to < 1:
        raise UserError(f"round_to is {round_to}: expected 1 or more units")
    widths, notes = dict(fibers), {}
    for space in network.spaces:
        if not space.whole:
            rounded = min(space.units, -(-widths[space.name] // round_to) * round_to)
            if rounded > widths[space.name]:
                notes[space.name] = (
                    f"{rounded - widths[space.name]} fibers more than needed, for round_to={round_to}"
                )
            widths[space.name] = rounded
    for layers in network.same_width:
        widest = max(layers, key=lambda name: widths[name])
        for name in layers:
            if (missing := widths[widest] - widths[name]) > 0:
                notes[name] = f"{missing} fibers more than needed, to be as wide as {widest}"
                widths[name] = widths[widest]
    return widths, notes
