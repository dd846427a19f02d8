"""Policies: how varied the actions of a policy are over a fixed batch of states, and how fast they change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.distributions import ActionDistribution, Continuous, Discrete, Joint

PAIRS = 64  # of each state with others, at most, that `action_diversity` compares


def entropy(p: ActionDistribution) -> float:
    """E_s H(p(. | s)), in nats."""
    return float(p.entropy().mean())


def relative_entropy(p: ActionDistribution) -> float:
    """E_s H(p(. | s)) / log n: 0 where an action is sure, 1 where all n are alike; nan where continuous."""
    largest = _log_outcomes(p)
    return entropy(p) / largest if largest else math.nan


def action_diversity(p: ActionDistribution) -> float:
    """How differently a policy acts in different states: 0 where all are one to it.

    Discrete: the mean over pairs of states of JS(p(. | s), p(. | s')), from 0 to log 2 nats. Continuous: of
    |mean(s) - mean(s')|_2 / sigma, sigma the root mean square of the policy's deviations in each dimension.
    All pairs of at most 65 states; of more, each state with the 64 that follow it, around the end.
    """
    p = _flat(p)
    states = _length(p)
    if states < 2:
        return 0.0
    total = 0.0
    shifts = range(1, min(PAIRS, states - 1) + 1)
    for shift in shifts:
        other = p.map(lambda x, shift=shift: x.roll(shift, 0))
        if isinstance(p, Continuous):
            total += float(((p.loc - other.loc) / _sigma(p)).norm(dim=-1).mean())  # type: ignore[attr-defined]
        else:
            total += float(p.js(other).mean())
    return total / len(shifts)


def policy_variance(p: ActionDistribution) -> float:
    """sum_a Var_s p(a | s), over actions a; of continuous ones sum_i Var_s mean_i(s) / sigma_i^2.

    0 where states are all one to the policy. Of several actions together: the sum over them.
    """
    if isinstance(p, Joint):
        return sum(policy_variance(part) for part in p.parts)
    p = _flat(p)
    values = p.log_p.exp() if isinstance(p, Discrete) else p.loc / _sigma(p)  # type: ignore[attr-defined]
    return float(values.var(0, correction=0).sum())


def churn(before: ActionDistribution, now: ActionDistribution) -> float:
    """The share of states whose greedy action is another one than before; of continuous actions, the mean of
    |mean - mean before|_2 / sigma before.

    Schaul et al., 2022, "The phenomenon of policy churn", 2206.00730.
    """
    before, now = _flat(before), _flat(now)
    if isinstance(before, Continuous):
        return float(((now.mode() - before.mode()) / _sigma(before)).norm(dim=-1).mean())
    apart = before.mode() != now.mode()
    return float((apart.any(-1) if apart.ndim > 1 else apart).float().mean())


def dominance(p: ActionDistribution) -> float:
    """The share of states in which the commonest greedy action is greedy; nan of continuous actions."""
    if isinstance(p, Continuous):
        return math.nan
    modes = _flat(p).mode()
    _, counts = torch.unique(modes, dim=0, return_counts=True)
    return float(counts.max() / len(modes))


def trend(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Theil's slope and Kendall's tau of values over their places, holes (nan) left out.

    -> slope, the median of (v_j - v_i) / (j - i) over i < j, a unit of v for each place; and tau in [-1, 1]:
    how many pairs rise, less those that fall, in parts of all that differ.
    Sen, 1968, "Estimates of the regression coefficient based on Kendall's tau".
    """
    v = np.asarray(values, float)
    places = np.flatnonzero(np.isfinite(v))
    if len(places) < 2:
        return 0.0, 0.0
    i, j = np.triu_indices(len(places), 1)
    rise = v[places[j]] - v[places[i]]
    moving = np.count_nonzero(rise)
    tau = float(np.sign(rise).sum() / moving) if moving else 0.0
    return float(np.median(rise / (places[j] - places[i]))), tau


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); nan where the returns do not vary."""
    variance = returns.var()
    return math.nan if variance == 0 else float(1 - (returns - values).var() / variance)


def _flat(p: ActionDistribution) -> ActionDistribution:
    return p.map(lambda x: x.flatten(0, -2))


def _length(p: ActionDistribution) -> int:
    return len(next(iter(p.named().values())))


def _sigma(p: ActionDistribution) -> Tensor:
    """(d,)"""
    return p.scale.square().mean(0).sqrt()  # type: ignore[attr-defined]


def _log_outcomes(p: ActionDistribution) -> float:
    if isinstance(p, Joint):
        return sum(_log_outcomes(part) for part in p.parts)
    return math.log(p.logits.shape[-1]) if isinstance(p, Discrete) else math.nan
