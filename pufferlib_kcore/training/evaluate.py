"""Evaluate: whole episodes of a policy, as many from each environment, so that short ones do not crowd in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pufferlib_kcore import distributions
from pufferlib_kcore.training.unroll import initial_state, reset, step


@dataclass(frozen=True)
class Played:
    """Returns and lengths (episodes,), in the order of environments."""

    returns: np.ndarray
    lengths: np.ndarray

    def __str__(self) -> str:
        n = len(self.returns)
        spread = f" +- {self.returns.std(ddof=1) / n**0.5:.3g} (standard error)" if n > 1 else ""
        return (
            f"episode_return={self.returns.mean():.6g}{spread} "
            f"episode_length={self.lengths.mean():.6g} episodes={n} "
            f"min={self.returns.min():.6g} max={self.returns.max():.6g}"
        )


@torch.no_grad()
def play(
    policy: nn.Module,
    vec,
    seed: int,
    episodes: int,
    *,
    greedy: bool = False,
    watch: Callable[[int], None] = lambda step: None,
) -> Played:
    """Play until every environment of `vec` (one group) finished its share of the episodes.

    episodes: a multiple of vec.num_envs; greedy: take the most likely action instead of sampling;
    watch(step) is called before each step, with what an episode ended with still in sight.
    """
    share = -(-episodes // vec.num_envs)
    generator = torch.Generator().manual_seed(seed)
    device = next(policy.parameters()).device
    state, starts = initial_state(policy, vec.num_envs), torch.ones(vec.num_envs, dtype=torch.bool)
    finished: list[list[tuple[float, float]]] = [[] for _ in range(vec.num_envs)]
    vec.reset(seed)
    steps = 0
    while min(map(len, finished)) < share:
        watch(steps)
        got = vec.recv(0)
        ended = torch.as_tensor(got.terminals) | torch.as_tensor(got.truncations)
        for n, info in zip(np.flatnonzero(ended.numpy()), got.infos, strict=True):  # one each, in their order
            finished[n].append((info["episode_return"], info["episode_length"]))
        if state is not None:
            state = reset(state, starts.to(device))
        output, _, state = step(policy, torch.as_tensor(got.obs).to(device), state)
        actions = distributions.of(output).mode() if greedy else distributions.of(output).sample(generator)
        starts = ended.clone()
        vec.send(0, actions.cpu().numpy())
        steps += 1
    kept = [episode for own in finished for episode in own[:share]]
    return Played(np.array([r for r, _ in kept]), np.array([n for _, n in kept]))
