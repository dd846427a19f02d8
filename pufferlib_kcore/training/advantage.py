"""Advantage: generalized advantage estimation, one environment's segment at a time.

Schulman et al. 2016, equation 16, by PufferLib's compiled `compute_gae`. Alignment is PufferLib's: reward,
terminal and truncation at t arrived together with observation t, as the result of action t-1.
"""

from __future__ import annotations

import numpy as np
from c_gae import compute_gae


def advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    terminals: np.ndarray,
    truncations: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Advantage of every action of a rollout.

        delta_t = r_{t+1} + gamma V_{t+1} (1 - terminal_{t+1}) - V_t
        A_t     = delta_t + gamma gae_lambda (1 - end_{t+1}) A_{t+1}      end = terminal or truncation

    All arguments are (N, T+1): N environments, T actions, and a last column that bootstraps.
    At a terminal the future is worth nothing; at a truncation it is worth the value of the last observation,
    which PufferLib hands out before the reset (`values` holds it); nothing flows across either.
    compute_gae runs over one flat array, so each environment gets a call of its own.
    -> (N, T) float32; entries at dummy steps (where terminals or truncations are set) are meaningless.
    """
    ended = (terminals | truncations).astype(np.float32)
    bootstrapped = (rewards + gamma * values * (truncations & ~terminals)).astype(np.float32)
    values = values.astype(np.float32)
    rows = [
        compute_gae(ended[n], values[n], bootstrapped[n], gamma, gae_lambda)[:-1] for n in range(len(rewards))
    ]
    return np.stack(rows)
