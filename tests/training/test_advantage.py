"""Advantages against hand-worked cases and a direct sum of the definition."""

import numpy as np

from pufferlib_kcore.training.advantage import advantages

GAMMA, LAMBDA = 0.9, 0.5


def column(*values):
    return np.array([values], dtype=np.float32)


def flags(*values):
    return np.array([values], dtype=bool)


def by_definition(rewards, values, terminals, truncations, gamma, lam):
    """Sum of (gamma lambda)^k delta_{t+k} up to the end of the episode, one action at a time."""
    N, columns = rewards.shape
    out = np.zeros((N, columns - 1))
    for n in range(N):
        for t in range(columns - 1):
            weight = 1.0
            for k in range(t, columns - 1):
                future = 0.0 if terminals[n, k + 1] else values[n, k + 1]
                out[n, t] += weight * (rewards[n, k + 1] + gamma * future - values[n, k])
                weight *= gamma * lam
                if terminals[n, k + 1] or truncations[n, k + 1]:
                    break
    return out


def test_termination_ends_the_future():
    # two actions, the second ends the episode with reward 1: its advantage is 1 - V, no bootstrap
    got = advantages(column(0, 0, 1), column(2, 4, 100), flags(0, 0, 1), flags(0, 0, 0), GAMMA, LAMBDA)
    second = 1 - 4
    first = 0 + GAMMA * 4 - 2 + GAMMA * LAMBDA * second
    assert np.allclose(got, [[first, second]])


def test_truncation_bootstraps_from_the_last_observation():
    got = advantages(column(0, 0, 1), column(2, 4, 10), flags(0, 0, 0), flags(0, 0, 1), GAMMA, LAMBDA)
    second = 1 + GAMMA * 10 - 4
    assert np.allclose(got, [[GAMMA * 4 - 2 + GAMMA * LAMBDA * second, second]])


def test_a_rollout_cut_short_bootstraps_from_its_last_column():
    got = advantages(column(0, 1), column(2, 10), flags(0, 0), flags(0, 0), GAMMA, LAMBDA)
    assert np.allclose(got, [[1 + GAMMA * 10 - 2]])


def test_environments_do_not_leak_into_each_other():
    """PufferLib's compute_gae runs over one flat array; two environments must give what each gives alone."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 2, 6)).astype(np.float32)
    never = np.zeros((2, 6), dtype=bool)
    both = advantages(rewards, values, never, never, GAMMA, LAMBDA)
    for n in range(2):
        alone = advantages(rewards[n : n + 1], values[n : n + 1], never[:1], never[:1], GAMMA, LAMBDA)
        assert np.array_equal(both[n], alone[0])


def test_equals_the_definition():
    rng = np.random.default_rng(1)
    for _ in range(20):
        rewards, values = rng.normal(size=(2, 3, 9)).astype(np.float32)
        terminals, truncations = rng.random((2, 3, 9)) < 0.2
        want = by_definition(rewards, values, terminals, truncations, 0.97, 0.8)
        assert np.allclose(advantages(rewards, values, terminals, truncations, 0.97, 0.8), want, atol=1e-5)
