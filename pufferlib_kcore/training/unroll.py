"""Unroll: a policy over a batch of sequences, its recurrent state reset where an episode starts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


def is_recurrent(policy: Any) -> bool:
    """Whether the policy is like an LSTMWrapper: `recurrent`, and a `policy` that encodes and decodes."""
    return isinstance(getattr(policy, "recurrent", None), nn.LSTM)


def initial_state(policy: Any, batch: int) -> State | None:
    """Zeros (layers, batch, hidden) twice, or None for a policy without memory."""
    if not is_recurrent(policy):
        return None
    lstm: Any = policy.recurrent
    device = lstm.weight_ih_l0.device
    shape = (lstm.num_layers, batch, lstm.hidden_size)
    return torch.zeros(shape, device=device), torch.zeros(shape, device=device)


def reset(state: State, starts: Tensor) -> State:
    """Zero the state of the rows that start an episode.  state: 2 x (L, B, H), starts: (B,) bool"""
    keep = (~starts).to(state[0].dtype)[None, :, None]
    return state[0] * keep, state[1] * keep


def step(policy: nn.Module, obs: Tensor, state: State | None):
    """One step.  obs: (B, *obs) -> (output, value (B,), state)"""
    if state is None:
        output, value = policy(obs)
        return output, value.float().reshape(-1), None
    lstm: Any = policy.recurrent
    if obs.is_cuda or lstm.dropout or lstm.proj_size or lstm.bidirectional:
        output, value, state = policy(obs, state)
    else:  # cell by cell: on a CPU the layer's own kernel packs its weights anew for every step
        core: Any = policy.policy
        hidden, lookup = core.encode_observations(obs)
        cells = []
        for layer, weights in enumerate(lstm.all_weights):
            cells.append(torch.lstm_cell(hidden, (state[0][layer], state[1][layer]), *weights))
            hidden = cells[-1][0]
        output, value = core.decode_actions(hidden, lookup)
        state = tuple(torch.stack(part) for part in zip(*cells, strict=True))  # type: ignore[assignment]
    return output, value.float().reshape(-1), (state[0].float(), state[1].float())


def unroll(policy: nn.Module, obs: Tensor, state: State | None, starts: Tensor):
    """A batch of sequences.  obs: (B, T, *obs), state: 2 x (L, B, H) or None, starts: (B, T) bool

    -> (output over B*T rows, value (B*T,)).  Observations are encoded, and hidden states decoded, at once;
    the LSTM runs in as few pieces as the episode starts allow (one may start in any row at any step).
    starts[:, 0] is ignored: `state` is the state before the first observation, already reset where due.
    """
    B, T = obs.shape[:2]
    flat = obs.reshape(B * T, *obs.shape[2:])
    if state is None:
        output, value = policy(flat)
        return output, value.float().reshape(-1)

    core: Any = policy.policy
    lstm: Any = policy.recurrent
    hidden, lookup = core.encode_observations(flat)
    hidden = hidden.reshape(B, T, -1).transpose(0, 1)  # (T, B, H)
    cuts = [t for t in range(1, T) if bool(starts[:, t].any())]
    pieces = []
    for first, last in zip([0, *cuts], [*cuts, T], strict=True):
        if first:
            state = reset(state, starts[:, first])
        out, state = lstm(hidden[first:last], state)
        pieces.append(out)
    hidden = torch.cat(pieces).transpose(0, 1).reshape(B * T, -1)
    output, value = core.decode_actions(hidden, lookup)
    return output, value.float().reshape(-1)
