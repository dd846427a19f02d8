"""The objective that PPO minimizes, and what it says of an update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LOSSES = ("policy_loss", "value_loss", "entropy", "old_approx_kl", "approx_kl", "clipfrac")


def objective(
    log_prob: Tensor,
    entropy: Tensor,
    value: Tensor,
    old_log_prob: Tensor,
    old_value: Tensor,
    advantage: Tensor,
    returns: Tensor,
    train: Any,
    moments: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's loss (Schulman et al. 2017, equations 7 and 9), all (M,), dummy steps already left out.

        L = policy_loss + vf_coef value_loss - ent_coef mean(entropy)
        policy_loss = mean max(-r A, -clip(r, 1 - e, 1 + e) A)      r = exp(log_prob - old_log_prob)
        value_loss  = mean max((V - R)^2, (V' - R)^2) / 2          V' = old_V + clip(V - old_V, -v, v)

    with e = clip_coef, v = vf_clip_coef and the coefficients of `train`, the [train] settings; without
    clip_vloss, V' is V; with norm_adv, A = (advantage - mean) / (std + 1e-8), by `moments` (mean and standard
    deviation), None for its own.

    -> scalar loss, and LOSSES stacked (6,), detached.  old_approx_kl = mean(-log r); approx_kl is the k3
    estimator of Schulman's note, mean((r - 1) - log r); clipfrac = mean(|r - 1| > e).
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    if train.norm_adv:
        mean, std = moments or (float(advantage.mean()), float(advantage.std()))
        advantage = (advantage - mean) / (std + 1e-8)
    clipped = ratio.clamp(1 - train.clip_coef, 1 + train.clip_coef)
    policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()

    value_error = (value - returns) ** 2
    if train.clip_vloss:
        near = old_value + (value - old_value).clamp(-train.vf_clip_coef, train.vf_clip_coef)
        value_error = torch.max(value_error, (near - returns) ** 2)
    value_loss = 0.5 * value_error.mean()
    mean_entropy = entropy.mean()
    total = policy_loss - train.ent_coef * mean_entropy + train.vf_coef * value_loss
    with torch.no_grad():
        kl = ((ratio - 1) - log_ratio).mean()
        clipfrac = ((ratio - 1).abs() > train.clip_coef).float().mean()
        terms = torch.stack([policy_loss, value_loss, mean_entropy, -log_ratio.mean(), kl, clipfrac])
    return total, terms


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); nan where the returns do not vary."""
    variance = returns.var()
    return float("nan") if variance == 0 else float(1 - (returns - values).var() / variance)
