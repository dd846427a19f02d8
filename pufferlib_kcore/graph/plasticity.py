"""Plasticity: the published ways to keep a network able to learn, to compare symmetry breaking with.

Each says which neurons to make fresh, or moves weights itself. h: {space: (N, units)} activations, as
`activations` gives them; gradients: {parameter: tensor of its shape}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.fibration.quotient import Segment
from pufferlib_kcore.graph.breaking import Candidate
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.network import Network

ETA = 0.99  # of the running mean of a utility


def activity(h: Tensor) -> Tensor:
    """s_i = E_x |h_i(x)| / (1/d sum_j E_x |h_j(x)|).  h: (N, d) -> (d,), of mean 1; 0 where all are silent

    Sokar et al., 2023, "The dormant neuron phenomenon in deep reinforcement learning", 2302.12902.
    """
    return in_parts_of_the_mean(h.detach().double().abs().mean(0))


def gradient_activity(gradient: Tensor) -> Tensor:
    """G_i = |dL/dw_i| / (1/d sum_j |dL/dw_j|), |.| the mean of absolute values.  (d, fan_in) -> (d,)

    gradient: of the rows that write each unit. Where it is at most tau, a unit no longer learns.
    Liu et al., 2025, "Measure gradients, not activations! Enhancing neuronal activity in deep reinforcement
    learning", 2505.24061 (GraMa).
    """
    return in_parts_of_the_mean(gradient.detach().double().abs().flatten(1).mean(1))


def contribution(h: Tensor, outgoing: Tensor) -> Tensor:
    """E_x |h_i(x)| sum_k |w_ki|: what a unit passes on.  h: (N, d), outgoing: (d, readers) -> (d,)

    Dohare et al., 2024, "Loss of plasticity in deep continual learning", whose utility is the running mean
    u_i <- eta u_i + (1 - eta) times this.
    """
    return h.detach().double().abs().mean(0) * outgoing.detach().double().abs().sum(1)


def in_parts_of_the_mean(x: Tensor) -> Tensor:
    mean = x.mean()
    return x / mean if float(mean) else torch.zeros_like(x)


def quiet(scores: Mapping[str, Tensor], tau: float) -> list[Candidate]:
    """The units whose score is at most tau, the quietest first (ReDo of `activity`, ReGraMa of
    `gradient_activity`); nobody takes over what they pass on."""
    found = [
        Candidate(space, int(unit), None, float(score[unit]))
        for space, score in scores.items()
        for unit in (score <= tau).nonzero().flatten()
    ]
    return sorted(found, key=lambda one: one.distance)


def least_useful(
    utility: Mapping[str, Tensor], ages: Mapping[str, np.ndarray], maturity: int, owed: Mapping[str, float]
) -> list[Candidate]:
    """The floor(owed) least useful units of each space, among those that are older than `maturity`."""
    found = []
    for space, u in utility.items():
        ripe = np.flatnonzero(ages[space] > maturity)
        worst = ripe[np.argsort(u[ripe].numpy(), kind="stable")][: int(owed[space])]
        found += [Candidate(space, int(unit), None, float(u[unit])) for unit in worst]
    return found


def by_unit(network: Network, tensors: Mapping[str, Tensor], role: str) -> dict[str, Tensor]:
    """What parameters say unit by unit: of what writes it ("out"), or reads it ("in").

    -> {space: (units, numbers)}
    """
    rows: dict[str, list[Tensor]] = {}
    for name, x in tensors.items():
        for segment, part in _segments(network, name, x):
            if segment.space and segment.role == role:
                part = part.reshape(segment.outer, segment.units, -1)
                rows.setdefault(segment.space, []).append(part.movedim(1, 0).flatten(1))
    return {space: torch.cat(parts, 1) for space, parts in rows.items()}


def _segments(network: Network, name: str, x: Tensor) -> Iterator[tuple[Segment, Tensor]]:
    for number, axis in enumerate(network.table.get(name, ())):
        parts = x.movedim(number, 0).split([segment.length for segment in axis])
        yield from zip(axis, parts, strict=True)


@torch.no_grad()
def pull_back(policy: nn.Module, initial: Mapping[str, Tensor], strength: float) -> None:
    """theta <- theta - strength (theta - theta_0), in place: what 2 strength |theta - theta_0|^2 / 4 pulls.

    Kumar et al., 2023, "Maintaining plasticity via regenerative regularization" (L2 Init); here decoupled
    from the loss, as AdamW's decay is, and applied when it is called.
    """
    for name, p in policy.named_parameters():
        if p.requires_grad:
            p.lerp_(initial[name].to(p), strength)


@torch.no_grad()
def shrink_and_perturb(policy: nn.Module, fresh: Mapping[str, Tensor], strength: float) -> None:
    """theta <- (1 - strength) theta + strength theta', theta' drawn as the layers draw theirs, in place.

    Ash & Adams, 2020, "On warm-starting neural network training", with the initialiser as its noise.
    """
    for name, p in policy.named_parameters():
        if p.requires_grad:
            p.lerp_(fresh[name].to(p), strength)


@torch.no_grad()
def reinitialize_weights(
    policy: nn.Module,
    gradients: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    part: float,
    optimizer: torch.optim.Optimizer | None = None,
) -> int:
    """Draw anew, of each weight matrix, floor(part n) of its n weights: those of the least |w dL/dw|.

    -> how many; what the optimizer keeps of them is set to 0.  Hernandez-Garcia et al., 2025,
    "Reinitializing weights vs units for maintaining plasticity in neural networks" (selective weight
    reinitialization, with the gradient's utility).
    """
    count = 0
    tensors = tensors_of(policy)
    for name, p in policy.named_parameters():
        if p.ndim < 2 or name not in gradients or not int(part * p.numel()):
            continue
        utility = (p * gradients[name]).abs().flatten()
        worst = utility.argsort(stable=True)[: int(part * p.numel())]
        mask = torch.zeros(p.numel(), dtype=torch.bool, device=p.device)
        mask[worst] = True
        mask = mask.view(p.shape)
        p.copy_(torch.where(mask, fresh[name].to(p), p))
        for moment in ({} if optimizer is None else optimizer.state.get(tensors[name], {})).values():
            if isinstance(moment, Tensor) and moment.shape == p.shape:
                moment.masked_fill_(mask, 0)
        count += len(worst)
    return count
