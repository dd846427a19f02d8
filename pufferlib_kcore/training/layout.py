"""Layout: how a policy and its optimizer lie in memory, so that training is fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pufferlib_kcore.training.unroll import is_recurrent


def channels_last(policy: nn.Module) -> None:
    """Lay weights of convolutions out channel by channel, in place."""
    policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_policy(policy: nn.Module, mode: str) -> None:
    """Compile what a policy does to a batch, in place; an LSTM between encoder and heads stays as it is."""
    core: Any = policy.policy if is_recurrent(policy) else policy
    core.encode_observations = torch.compile(core.encode_observations, mode=mode)
    core.decode_actions = torch.compile(core.decode_actions, mode=mode)


def make_optimizer(policy: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """PufferLib's choice: Adam with eps 1e-5, its fused kernel."""
    return torch.optim.Adam(policy.parameters(), lr=learning_rate, eps=1e-5, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """load_state_dict, with every moment laid out in memory as fused Adam takes it."""
    optimizer.load_state_dict(state)
    lay_out_moments(optimizer)


def lay_out_moments(optimizer: torch.optim.Optimizer) -> None:
    """Lay every moment out like its parameter, in place: fused Adam takes memory as it lies."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            moments = optimizer.state.get(p, {})
            for name, moment in moments.items():
                if isinstance(moment, torch.Tensor) and moment.shape == p.shape:
                    moments[name] = torch.empty_like(p).copy_(moment)
