"""Collapse: a policy's base, of the same class, computed from its weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pufferlib_kcore.graph.colorings import THRESHOLD
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.traced import Traced, traced_of


def collapse(
    policy: nn.Module | Traced,
    example_inputs: Any = None,
    threshold: float | Mapping[str, float] = THRESHOLD,
    *,
    published: bool = False,
    calibrate: Inputs = (),
    colors: str = "weights",
    round_to: int = 1,
    **how: Any,
) -> Collapse:
    """Merge neurons that compute (nearly) the same; the argument is untouched.

    policy, example_inputs, how  as `trace` has them; or a Traced alone
    threshold and what follows   as `Traced.color` has them; `calibrate` also as `Traced.merge` has it
    """
    traced = traced_of(policy, example_inputs, how)
    coloring = traced.color(
        threshold, colors=colors, published=published, calibrate=calibrate, round_to=round_to
    )
    return traced.merge(coloring, calibrate=calibrate)
