"""Actions: sampling and scoring them from what a policy returns.

A PufferLib policy returns logits (B, n) for a Discrete space, a list of logits for a MultiDiscrete one,
or a `torch.distributions.Normal` with mean (B, d) for a Box. B is the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal


def sample(output, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw one action per row.  -> actions (B,), (B, k) or (B, d) and their log probability (B,).

    Drawn on the generator's device, and there they stay: a seed means the same with and without a GPU.
    """
    if generator is not None:
        output = _moved(output, generator.device)
    if isinstance(output, Normal):
        mean, std = output.loc.float(), output.scale.float()
        actions = mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)
    elif isinstance(output, Tensor):
        actions = _categorical(output, generator)
    else:
        actions = torch.stack([_categorical(logits, generator) for logits in output], dim=-1)
    return actions, score(output, actions)[0]


def _moved(output, device: torch.device):
    if isinstance(output, Normal):
        return Normal(output.loc.to(device), output.scale.to(device), validate_args=False)
    return output.to(device) if isinstance(output, Tensor) else [logits.to(device) for logits in output]


def mode(output) -> Tensor:
    """The most likely action per row, for deterministic evaluation."""
    if isinstance(output, Normal):
        return output.loc
    if isinstance(output, Tensor):
        return output.argmax(-1)
    return torch.stack([logits.argmax(-1) for logits in output], dim=-1)


def score(output, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability and entropy of `actions`, summed over action dimensions.  -> (B,), (B,)"""
    if isinstance(output, Normal):
        normal = Normal(output.loc.float(), output.scale.float(), validate_args=False)
        return normal.log_prob(actions).sum(-1), normal.entropy().sum(-1)
    if isinstance(output, Tensor):
        return _score_logits(output, actions)
    scores = [_score_logits(logits, actions[..., i]) for i, logits in enumerate(output)]
    return sum(s[0] for s in scores), sum(s[1] for s in scores)  # type: ignore[return-value]


def _categorical(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(torch.softmax(logits.float(), -1), 1, generator=generator).squeeze(-1)


def _score_logits(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(logits.float(), -1)
    return log_p.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def empty_actions(action_space, *lead: int) -> Tensor:
    """A buffer (*lead, *action shape) with the dtype that the policy's actions have."""
    shape = tuple(action_space.shape or ())
    is_float = np.issubdtype(action_space.dtype, np.floating)
    return torch.zeros(*lead, *shape, dtype=torch.float32 if is_float else torch.int64)
