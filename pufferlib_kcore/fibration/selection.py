"""Selection: the units of a space from which its readers can make up all others, by linear combination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.fibration.partition import number
from pufferlib_kcore.fibration.quotient import Merge

CROWD = 0.05  # of a unit's variance, added to what is left of it: near copies of picked units are passed over
STILL = 1e-10  # a unit with less than this part of the largest variance is constant, and a bias replaces it


@dataclass(frozen=True)
class Reader:
    """What one layer receives of a space, and how it weighs it."""

    covariance: Tensor  # (n, n) float64, of the units' activations
    metric: Tensor  # (n, n) float64, W^T W of the layer's matrix W, over all of its rows and places
    rounding: Tensor | float = 0.0  # (n,) the variance that rounding alone gives a constant unit

    def moving(self) -> Tensor:
        """Units that are not constant.  -> (n,) of bool"""
        variance = self.covariance.diagonal()
        return variance > torch.maximum(
            STILL * variance.max(), torch.as_tensor(self.rounding, dtype=torch.float64)
        )


def select(readers: Sequence[Reader], threshold: float = 0.0) -> np.ndarray:
    """Pick units greedily until every other one is nearly a combination of those picked.  -> (k,), k >= 1

    threshold  cosine distance in [0, 2] between a unit's activation, its mean taken off, and the nearest
               combination of the picked ones', for every reader: what is farther off is picked

    Each step picks the unit that takes most off the error of what the readers compute, tr(metric @ residual),
    in parts of what there was: column subset selection (Farahat et al., 2011, "An efficient greedy method for
    unsupervised feature selection"), for the pre-activations that the columns are there for.
    """
    residuals = [r.covariance.clone() for r in readers]
    variances = [r.covariance.diagonal().clone() for r in readers]
    metrics = [r.metric / (r.metric * r.covariance).sum().clamp_min(1e-300) for r in readers]
    weighed = [m @ c for m, c in zip(metrics, residuals, strict=True)]
    picked: list[int] = []
    units = len(variances[0])
    moving = [r.moving() for r in readers]
    for _ in range(units):
        gain, needed = torch.zeros(units, dtype=torch.float64), torch.zeros(units, dtype=torch.bool)
        for residual, variance, weigh, moves in zip(residuals, variances, weighed, moving, strict=True):
            left = residual.diagonal()
            explained = (1 - left / variance.clamp_min(1e-300)).clamp(0, 1)
            needed |= moves & (1 - explained.sqrt() > max(threshold, 1e-9))
            gain += torch.where(
                moves, (residual * weigh).sum(0) / (left + CROWD * variance).clamp_min(1e-300), 0
            )
        if not needed.any():
            break
        best = int(torch.where(needed, gain, -1).argmax())
        picked.append(best)
        for residual, metric, weigh in zip(residuals, metrics, weighed, strict=True):
            column = residual[:, best] / residual[best, best].clamp_min(1e-300).sqrt()
            weigh -= torch.outer(metric @ column, column)
            residual -= torch.outer(column, column)
    return np.array(picked or [0])


def ranked(readers: Sequence[Reader], threshold: float = 0.0) -> tuple[np.ndarray, int]:
    """All units, those first that `select` picks, in its order; and how many it picks.  -> (n,), k"""
    picked = select(readers, threshold)
    rest = np.setdiff1d(np.arange(len(readers[0].covariance)), picked)
    return np.concatenate([picked, rest]), len(picked)


def gather(readers: Sequence[Reader], picked: np.ndarray) -> Merge:
    """Give every unit to the picked one that it moves with most.  Fibers are numbered by first member.

    A unit that is constant for all readers has gain 0: it is left to their biases.
    """
    covariance = torch.zeros_like(readers[0].covariance)
    for reader in readers:
        moving = reader.moving().double()
        moved = reader.covariance * torch.outer(moving, moving)
        covariance += moved / moved.diagonal().mean().clamp_min(1e-300)
    variance = covariance.diagonal()[picked]
    shared = covariance[:, picked] / torch.where(variance > 0, variance, torch.inf)
    nearest = (shared.abs() * variance.sqrt()).argmax(1).numpy()
    nearest[picked] = np.arange(len(picked))
    gain = shared.numpy()[np.arange(len(nearest)), nearest]
    gain[picked] = 1
    return Merge.onto(number(nearest), picked, gain)
