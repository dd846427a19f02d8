"""Units: which neurons of a space no longer take part, by what they answer and by how they learn."""

from __future__ import annotations

import torch
from torch import Tensor

TAU = 0.025  # of dormancy, as published


def activity(h: Tensor) -> Tensor:
    """s_i = E_x |h_i(x)| / (1/d sum_j E_x |h_j(x)|).  h: (N, d) -> (d,), of mean 1; 0 where all are silent

    Sokar et al., 2023, "The dormant neuron phenomenon in deep reinforcement learning", 2302.12902.
    """
    return _in_parts_of_the_mean(h.detach().double().abs().mean(0))


def dormant(h: Tensor, tau: float = TAU) -> Tensor:
    """Whether s_i <= tau.  h: (N, d) activations -> (d,) of bool"""
    return activity(h) <= tau


def dead(h: Tensor) -> Tensor:
    """Units that answer 0 to every state: ReLUs that nothing wakes.  h: (N, d) -> (d,) of bool"""
    return (h == 0).all(0)


def gradient_activity(gradient: Tensor) -> Tensor:
    """G_i = |dL/dw_i| / (1/d sum_j |dL/dw_j|), |.| the mean of absolute values.  (d, fan_in) -> (d,)

    gradient: of the rows that write each unit. Where it is at most tau, a unit no longer learns.
    Liu et al., 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep reinforcement
    learning", 2505.24061 (GraMa).
    """
    return _in_parts_of_the_mean(gradient.detach().double().abs().flatten(1).mean(1))


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


def _in_parts_of_the_mean(x: Tensor) -> Tensor:
    mean = x.mean()
    return x / mean if float(mean) else torch.zeros_like(x)
