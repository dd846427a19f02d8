"""Summary: a line as its file has it: returns at each place, barriers, whether it is stable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pufferlib_kcore.connectivity import barriers
from pufferlib_kcore.connectivity.lines import Line


def summary(line: Line, chance: float) -> dict[str, Any]:
    """Plain data of a line.  chance: the mean return of a random policy

    instability and mean_barrier are Frankle's, barrier is against the chord; is_stable judges the latter in
    parts (`relative`) of the ends' height over a random policy; None where there is no such height.
    """
    means = line.returns.mean(1)
    ends = (float(means[0]), float(means[-1]))
    chord = barriers.chord_barrier(line.alphas, line.returns)
    frankle = barriers.mean_barrier(line.alphas, line.returns)
    height = barriers.relative(chord, ends, chance)
    places = zip(line.alphas, means, line.returns.std(1), strict=True)
    return {
        "fork1_reward": ends[0],
        "fork2_reward": ends[1],
        "random_reward": chance,
        "interpolation": [
            {"alpha": float(a), "mean_reward": float(m), "std_reward": float(s)} for a, m, s in places
        ],
        "instability": frankle.value,
        "is_stable": bool(barriers.is_stable(chord, ends, chance)),
        "barrier": plain(chord),
        "mean_barrier": plain(frankle),
        "relative": height if np.isfinite(height) else None,
        "episodes": int(line.returns.shape[1]),
    }


def plain(barrier: barriers.Barrier) -> dict[str, float | None]:
    """None where an interval has no end, as of one episode alone."""
    held = {"value": barrier.value, "low": barrier.low, "high": barrier.high, "alpha": barrier.alpha}
    return {name: float(x) if np.isfinite(x) else None for name, x in held.items()}


def told(found: Mapping[str, Any]) -> str:
    """A barrier in words: `barrier 12.3 [4.5, 20.1]`, and whether it is one."""
    b = found["barrier"]
    low, high = (("?" if b[k] is None else f"{b[k]:.4g}") for k in ("low", "high"))
    one = "no barrier" if b["low"] is None or b["low"] <= 0 else "a barrier"
    height = "" if found["relative"] is None else f", {found['relative']:.1%} of the height over chance"
    return f"{one}: {b['value']:.4g} [{low}, {high}]{height}"
