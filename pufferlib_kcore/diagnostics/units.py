"""Units: which neurons of a space no longer take part, by what they answer and by how they learn."""

from __future__ import annotations

from torch import Tensor

from pufferlib_kcore.graph.plasticity import activity, gradient_activity

__all__ = ["TAU", "activity", "dead", "dormant", "gradient_activity", "overfitting_underfitting"]

TAU = 0.025  # of dormancy, as published


def dormant(h: Tensor, tau: float = TAU) -> Tensor:
    """Whether s_i <= tau, s as `activity` has it.  h: (N, d) activations -> (d,) of bool"""
    return activity(h) <= tau


def dead(h: Tensor) -> Tensor:
    """Units that answer 0 to every state: ReLUs that nothing wakes.  h: (N, d) -> (d,) of bool"""
    return (h == 0).all(0)


def overfitting_underfitting(h: Tensor) -> float:
    """OUI: how differently states switch a space's units on.  h: (N, d), N >= 2 -> in [0, 1]

        OUI = min(1, 2 / d  sum_i  2 k_i (N - k_i) / (N (N - 1)))

    k_i states of the batch make unit i positive. The sum over i is the share of units, on average over all
    pairs of states, that one state switches on and the other does not: 0 where each unit is always on or
    always off, 1 (and, of few states, above) where each is on in half of them.
    Fernandez-Hernandez et al., 2026, "When learning rates go wrong: early structural signals in PPO
    actor-critic", 2603.09950: the form for a batch.
    """
    n = len(h)
    k = (h > 0).sum(0).double()
    return min(1.0, float(2 * (2 * k * (n - k) / (n * (n - 1))).mean()))
