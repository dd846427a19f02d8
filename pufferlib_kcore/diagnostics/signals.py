"""Signals: what a noisy column of metrics did, epochs without a number left out."""

from __future__ import annotations

import numpy as np


def filled(x: np.ndarray) -> np.ndarray:
    """Holes take the number before them; those at the start the first there is; nan where there is none."""
    known = np.flatnonzero(np.isfinite(x))
    if not len(known):
        return np.full(len(x), np.nan)
    last = np.maximum.accumulate(np.where(np.isfinite(x), np.arange(len(x)), known[0]))
    return x[last]


def smooth(x: np.ndarray, width: int) -> np.ndarray:
    """The median of each number and those up to `width` - 1 before it.  (n,) -> (n,)"""
    x = filled(x)
    padded = np.concatenate([np.full(width - 1, x[0] if len(x) else np.nan), x])
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def noise(x: np.ndarray) -> float:
    """1.48 median |d - median d| / sqrt 2 of the differences d from number to number: their deviation."""
    known = x[np.isfinite(x)]
    if len(known) < 3:
        return 0.0
    d = np.diff(known)
    return float(1.4826 * np.median(np.abs(d - np.median(d))) / 2**0.5)


def sustained(holds: np.ndarray, length: int) -> int | None:
    """The first of `length` places in a row at which it holds; None where there are none.  (n,) of bool"""
    if length > len(holds):
        return None
    whole = np.lib.stride_tricks.sliding_window_view(holds, length).all(1)
    return int(whole.argmax()) if whole.any() else None


def mostly(holds: np.ndarray, width: int) -> np.ndarray:
    """Where it holds in more than half of `width` places around.  (n,) of bool -> (n,) of bool"""
    return (
        np.convolve(holds, np.ones(width), "same")
        > np.convolve(np.ones(len(holds)), np.ones(width), "same") / 2
    )


def since(holds: np.ndarray) -> int | None:
    """From where on it holds to the end; None where it does not hold at the end.  (n,) of bool"""
    if not len(holds) or not holds[-1]:
        return None
    broken = np.flatnonzero(~holds)
    return int(broken[-1]) + 1 if len(broken) else 0


def late(x: np.ndarray, part: float = 0.2) -> float:
    """The median of the last part of its numbers; nan of nothing."""
    known = x[np.isfinite(x)]
    return float(np.median(known[-max(1, round(part * len(known))) :])) if len(known) else float("nan")


def early(x: np.ndarray, part: float = 0.1) -> float:
    """The median of the first part of its numbers; nan of nothing."""
    known = x[np.isfinite(x)]
    return float(np.median(known[: max(1, round(part * len(known)))])) if len(known) else float("nan")
