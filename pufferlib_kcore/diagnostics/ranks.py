"""Ranks: in how many directions the features of a batch of states extend. Low rank alone proves nothing.

"An empirical study of implicit regularization in deep offline RL" (Gulcehre et al., 2022, 2207.02099) finds
policies of low rank that act well: no detector here decides by a rank alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

DELTA = 0.01  # of srank: the part of the sum that may be left out
LEAST = 1e-12  # of the largest: a singular value below is zero


def singular_values(features: Tensor) -> Tensor:
    """features: (N, d), one row a state -> (min(N, d),) float64, the largest first."""
    return torch.linalg.svdvals(features.detach().double())


def effective_rank(sigma: Tensor) -> float:
    """exp(H(p)), H(p) = -sum_i p_i ln p_i, p_i = sigma_i / sum_j sigma_j.  In [1, d]; 0 of nothing

    sigma: singular values (d,).  Roy & Vetterli, 2007, "The effective rank".
    """
    if not float(sigma.sum()):
        return 0.0
    p = sigma / sigma.sum()
    return float(torch.special.entr(p).sum().exp())


def srank(sigma: Tensor, delta: float = DELTA) -> int:
    """min {k : sum_{i<=k} sigma_i / sum_i sigma_i >= 1 - delta}; 0 of nothing

    sigma: singular values (d,), the largest first.  Kumar et al., 2020, "Implicit under-parameterization
    inhibits data-efficient deep RL", 2010.14498.
    """
    if not float(sigma.sum()):
        return 0
    held = sigma.cumsum(0) / sigma.sum()
    return int((held < 1 - delta - LEAST).sum()) + 1


def stable_rank(sigma: Tensor) -> float:
    """sum_i sigma_i^2 / max_i sigma_i^2.  In [1, d]; 0 of nothing

    sigma: singular values (d,).  Rudelson & Vershynin, 2007, "Sampling from large matrices".
    """
    return float((sigma**2).sum() / sigma.max() ** 2) if float(sigma.sum()) else 0.0


def feature_rank(sigma: Tensor, states: int, epsilon: float = 0.01) -> int:
    """#{i : sigma_i / sqrt(N) > epsilon}: directions in which features vary by more than epsilon

    sigma: singular values (d,) of the features of N states.  Lyle et al., 2022, "Understanding and preventing
    capacity loss in reinforcement learning", 2204.09560.
    """
    return int((sigma / states**0.5 > epsilon).sum())
