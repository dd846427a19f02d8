"""Barriers: how far returns on the line between two policies fall below those at its ends.

R_a(e) is the return of the policy (1 - a) theta_0 + a theta_1 in episode e; episodes are the same at every a
(common random numbers), so that differences between places of a line are less noisy than returns are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
STABLE = 0.05  # of the ends' height over a random policy


@dataclass(frozen=True)
class Barrier:
    """The height of a barrier, in units of return, and its interval; 0 or less where there is none.

    low, high  of all places at once, at LEVEL: the largest of so many noisy differences is above 0 by chance
               alone, and low is not
    """

    value: float
    low: float
    high: float
    alpha: float  # where it is highest

    @property
    def is_one(self) -> bool:
        """Whether its interval leaves 0."""
        return self.low > 0


def chord_barrier(alphas: np.ndarray, returns: np.ndarray, seed: int = 0) -> Barrier:
    """sup_a [(1 - a) R_0 + a R_1 - R_a], in returns; of errors L it is sup_a [L_a - (1 - a) L_0 - a L_1].

    alphas (A,) from 0 to 1; returns (A, E).  Entezari et al., 2022, "The role of permutation invariance in
    linear mode connectivity of neural networks", 2110.06296.
    """
    a = alphas[:, None]
    return _highest(alphas, (1 - a) * returns[0] + a * returns[-1] - returns, seed)


def mean_barrier(alphas: np.ndarray, returns: np.ndarray, seed: int = 0) -> Barrier:
    """(R_0 + R_1) / 2 - min_a R_a: never below half of what the ends differ by, barrier or not.

    alphas (A,) from 0 to 1; returns (A, E).  Frankle et al., 2020, "Linear mode connectivity and the lottery
    ticket hypothesis", 1912.05671, in returns for errors.
    """
    return _highest(alphas, (returns[0] + returns[-1]) / 2 - returns, seed)


def relative(barrier: Barrier, ends: tuple[float, float], random: float) -> float:
    """A barrier in parts of the ends' height over a random policy: (R_0 + R_1) / 2 - R_random.

    A scale that holds for negative returns, too; infinite where the ends are no better than chance.
    """
    height = sum(ends) / 2 - random
    return max(barrier.value, 0.0) / height if height > 0 else float("inf")


def is_stable(barrier: Barrier, ends: tuple[float, float], random: float, within: float = STABLE) -> bool:
    """Whether the line is linearly connected: no barrier, or one of at most `within` of the ends' height."""
    return not barrier.is_one or relative(barrier, ends, random) <= within


def _highest(alphas: np.ndarray, below: np.ndarray, seed: int) -> Barrier:
    """The largest mean over episodes of `below`, (A, E), with an interval that holds for all places at once.

    q is the LEVEL quantile, over bootstrap resamples of the episodes, of max_a |d*_a - d_a| / s_a:
    low = max_a (d_a - q s_a), high = max_a (d_a + q s_a); the ends, where d is 0 by construction, stay out.
    """
    episodes = below.shape[1]
    d = below.mean(1)
    best = int(d.argmax())
    if episodes < 2:
        return Barrier(float(d[best]), -np.inf, np.inf, float(alphas[best]))
    s = below.std(1, ddof=1) / episodes**0.5
    inner = s > 1e-12 * max(1.0, float(np.abs(below).max()))
    if not inner.any():  # every episode says the same
        exact = float(d[best]) if d[best] > 1e-9 * max(1.0, float(np.abs(d).max())) else 0.0
        return Barrier(exact, exact, exact, float(alphas[best]))
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(episodes, np.full(episodes, 1 / episodes), RESAMPLES) / episodes
    off = np.abs(counts @ below[inner].T - d[inner]) / s[inner]  # (RESAMPLES, places)
    q = float(np.quantile(off.max(1), LEVEL))
    low, high = d - q * s, d + q * s
    return Barrier(float(d[best]), float(low.max()), float(high.max()), float(alphas[best]))
