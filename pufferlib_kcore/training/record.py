"""Record: what a policy sees while it acts, as arguments of its forward, to calibrate a collapse on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pufferlib_kcore.training import actions as act
from pufferlib_kcore.training.unroll import State, initial_state, reset, step

STATES = 1024  # in one call of forward, about


@torch.no_grad()
def record(policy: nn.Module, vec, seed: int, states: int) -> list[tuple]:
    """Let the policy act in every environment of `vec` (one group), for `states` steps over all of them.

    -> arguments of forward, call by call: (obs (B, *obs),), or, of a recurrent policy, stretches of episodes
    of one length, (obs (B, T, *obs), (h, c)), with its state at their start, each (layers, B, hidden).
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(policy.parameters()).device
    state, starts = initial_state(policy, vec.num_envs), torch.ones(vec.num_envs, dtype=torch.bool)
    seen, started, before = [], [], []
    vec.reset(seed)
    for _ in range(-(-states // vec.num_envs)):
        got = vec.recv(0)
        obs = torch.as_tensor(got.obs).clone().to(device)
        if state is not None:
            state = reset(state, starts.to(device))
            before.append(state)
        seen.append(obs)
        started.append(starts)
        output, _, state = step(policy, obs, state)
        starts = torch.as_tensor(got.terminals | got.truncations).clone()
        vec.send(0, act.sample(output, generator)[0].cpu().numpy())
    if state is None:
        return [(some,) for some in torch.cat(seen).split(STATES)]
    return list(_stretches(torch.stack(seen, 1), torch.stack(started, 1), before))


def _stretches(obs: Tensor, starts: Tensor, before: list[State]) -> Iterator[tuple]:
    """Cut (B, T, *obs) at the starts of episodes; those of one length go together."""
    by_length = defaultdict(list)
    for env, started in enumerate(starts):
        cuts = [0, *(t for t in range(1, len(started)) if started[t]), len(started)]
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            by_length[last - first].append((env, first))
    for length, places in by_length.items():
        together = max(1, STATES // length)
        for some in (places[i : i + together] for i in range(0, len(places), together)):
            state = (torch.cat([before[t][k][:, env : env + 1] for env, t in some], 1) for k in (0, 1))
            yield torch.stack([obs[env, t : t + length] for env, t in some]), tuple(state)
