"""Capacity: how well a network still learns, from targets that have nothing to do with its task."""

from __future__ import annotations

import torch
from torch import Tensor

from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.nested import arguments, tensors_in
from pufferlib_kcore.graph.running import aside, chance_kept
from pufferlib_kcore.graph.traced import Traced

RATE = 1e-3  # of Adam


def capacity(traced: Traced, inputs: Inputs, steps: int, seed: int = 0) -> float:
    """1 - MSE after / MSE before: 1 where a copy of the policy fits fresh targets, 0 where it learns nothing.

    The targets are what the policy returns now plus standard normal noise, one number for each state and
    output, so that all begin equally far from them: after so many steps of Adam on all states at once. Random
    targets, as in Lyle et al., 2022, "Understanding and preventing capacity loss in reinforcement learning",
    2204.09560; there they are a random network's. Compare numbers of one probe and one number of steps alone.
    """
    policy = copy_of(traced.policy)
    with chance_kept(policy, seed), aside(policy), torch.enable_grad():
        rows = [arguments(one) for one in inputs]
        with torch.no_grad():
            targets = [x + torch.randn(x.shape).to(x) for one in rows for x in _outputs(traced, policy, one)]
        optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=RATE)
        errors = []
        for step in range(steps + 1):
            told = [x for one in rows for x in _outputs(traced, policy, one)]
            scale = [(t - x.detach()).square().mean() for t, x in zip(targets, told, strict=True)]
            if step == 0:
                sizes = scale
            loss = torch.stack(
                [(t - x).square().mean() / s for t, x, s in zip(targets, told, sizes, strict=True)]
            ).mean()
            errors.append(float(loss.detach()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return 1 - errors[-1] / errors[0]


def _outputs(traced: Traced, policy: torch.nn.Module, inputs: tuple) -> list[Tensor]:
    """Actions and values; recurrent state is none of them."""
    example = traced.network.example.at(copy_of(inputs))
    found = [
        x for i, x in enumerate(tensors_in(example.answer(policy))) if i not in traced.network.state_outputs
    ]
    return [x.float() for x in found if x.requires_grad or not torch.is_grad_enabled()]
