"""Unroll: all at once with resets equals one step at a time."""

import pytest
import torch
from worlds import Countdown, tiny_policy

from pufferlib_kcore.training.unroll import initial_state, is_recurrent, reset, step, unroll


@pytest.mark.parametrize("layers", [1, 2])
def test_sequences_with_resets_equal_single_steps(layers):
    policy = tiny_policy(Countdown([3, 3]), layers=layers).double()
    B, T = 5, 7
    obs = torch.randn(B, T, 4, dtype=torch.float64)
    starts = torch.rand(B, T, generator=torch.Generator().manual_seed(3)) < 0.3
    state = tuple(torch.randn_like(s, dtype=torch.float64) for s in initial_state(policy, B))
    policy.policy.encoder.register_forward_pre_hook(lambda m, x: (x[0].double(),))  # Default casts to float32
    logits, values = unroll(policy, obs, state, starts)

    now = state
    for t in range(T):
        if t:
            now = reset(now, starts[:, t])
        one, value, (h, c) = policy(obs[:, t], now)
        now = (h, c)
        assert torch.allclose(logits.view(B, T, -1)[:, t], one, atol=1e-12)
        assert torch.allclose(values.view(B, T)[:, t].double(), value.flatten(), atol=1e-6)


def test_feed_forward_policies_have_no_state():
    policy = tiny_policy(Countdown([3]), recurrent=False)
    assert not is_recurrent(policy) and initial_state(policy, 4) is None
    obs = torch.randn(2, 3, 4)
    logits, values = unroll(policy, obs, None, torch.zeros(2, 3, dtype=torch.bool))
    one, value, state = step(policy, obs[:, 1], None)
    assert state is None and torch.allclose(logits.view(2, 3, -1)[:, 1], one)
    assert torch.allclose(values.view(2, 3)[:, 1], value)


@pytest.mark.parametrize(
    "lstm", [dict(num_layers=1), dict(num_layers=2), dict(bias=False), dict(num_layers=2, dropout=0.5)]
)
def test_one_step_is_what_the_policy_does(lstm):
    policy = tiny_policy(Countdown([3, 3]))
    size = policy.recurrent.hidden_size
    policy.recurrent = torch.nn.LSTM(policy.recurrent.input_size, size, **lstm)
    obs, state = torch.randn(5, 4), tuple(torch.randn_like(s) for s in initial_state(policy, 5))
    found = []
    for run in (policy, lambda obs, state: step(policy, obs, state)):
        torch.manual_seed(0)  # of the dropout
        logits, value, (h, c) = run(obs, state)
        found.append((logits, value.flatten(), h, c))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
