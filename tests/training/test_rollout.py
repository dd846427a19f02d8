"""Rollout: columns, dummy steps, starts and states on hand-worked episodes."""

import contextlib

import pytest
import torch
from worlds import Clock, Countdown, tiny_policy

from pufferlib_kcore import distributions
from pufferlib_kcore.training.rollout import Collector, Interrupted
from pufferlib_kcore.training.unroll import unroll


def collector(vec, policy, steps=8, bptt=4):
    vec.reset(0)
    generator = torch.Generator().manual_seed(0)
    return Collector(vec, policy, steps, bptt, generator, Clock(), contextlib.nullcontext)


def test_columns_of_a_hand_worked_episode():
    vec = Countdown([3, 20], truncates=[True, False])
    data, episodes = collector(vec, tiny_policy(vec)).collect()
    # environment 0: observations 0 1 2 3(truncated, dummy) | 0 1 2 3(dummy) | bootstrap column 0
    assert data.obs[0, :, 2].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert data.truncations[0].tolist() == [False, False, False, True, False, False, False, True, False]
    assert data.valid[0].tolist() == [True, True, True, False] * 2
    assert data.starts[0].tolist() == [True, False, False, False, True, False, False, False, True]
    assert data.rewards[0].tolist() == [0, 1, 1, 1, 0, 1, 1, 1, 0]
    assert not data.terminals[0].any() and data.valid[1].all()
    assert episodes.returns == [3.0, 3.0] and episodes.lengths == [3.0, 3.0]
    # the action of column t is the one that column t+1's observation shows
    heeded = data.valid[0, :-1]
    assert torch.equal(data.obs[0, 1:, 3][heeded], data.actions[0, :-1][heeded].float())


@pytest.mark.parametrize("groups", [1, 2])
def test_the_next_rollout_goes_on_where_this_one_ended(groups):
    vec = Countdown([20, 20, 3, 20], groups=groups)
    collect = collector(vec, tiny_policy(vec))
    first = collect.collect()[0]
    bootstrap = {name: getattr(first, name)[:, -1].clone() for name in ("rewards", "terminals", "starts")}
    second = collect.collect()[0]
    for name, column in bootstrap.items():
        assert torch.equal(getattr(second, name)[:, 0], column)
    assert second.obs[0, :, 2].tolist() == list(range(8, 16))


def test_recorded_log_probs_and_values_equal_an_unroll_from_the_recorded_states():
    """Two routes to one number: stepping with carried state, and segments from stored states."""
    vec = Countdown([3, 5, 20, 7], truncates=[True, False, True, False], groups=2)
    policy = tiny_policy(vec, layers=2)
    collect = collector(vec, policy)
    collect.collect()
    data, _ = collect.collect()
    N, S, B = 4, 2, 4
    obs = data.obs.reshape(N * S, B, 4)
    starts = data.starts[:, :-1].reshape(N * S, B)
    state = (data.state_h.flatten(1, 2), data.state_c.flatten(1, 2))
    with torch.no_grad():
        logits, values = unroll(policy, obs, state, starts)
    log_probs = distributions.of(logits).log_prob(data.actions.flatten())
    assert torch.allclose(log_probs.view(N, -1), data.log_probs, atol=1e-5)
    assert torch.allclose(values.view(N, -1), data.values[:, :-1], atol=1e-5)


def test_state_is_zero_where_an_episode_starts_and_only_there():
    vec = Countdown([3, 20])
    data, _ = collector(vec, tiny_policy(vec), bptt=2).collect()
    zero = (data.state_h == 0).all(-1)[0]  # (N, S): segments start at columns 0 2 4 6
    assert zero[0].tolist() == [True, False, True, False]
    assert zero[1].tolist() == [True, False, False, False]


def test_stop_interrupts_at_once():
    vec = Countdown([3, 3])
    with pytest.raises(Interrupted):
        collector(vec, tiny_policy(vec)).collect(stop=lambda: vec.sent >= 2)
    assert vec.sent == 2
