"""A career's rewards: each constant by hand, and shaping by exact dynamic programming."""

import numpy as np
import pytest

from pufferlib_kcore.environments.career import (
    CareerEnv,
    CareerReward,
    EnvironmentParams,
    dynamics,
    get_reward,
)
from pufferlib_kcore.environments.career.rewards import CAREER_REWARDS, Seen, list_rewards
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.optimum import weights

A, B = Seen(0.2, 0.1, 0.03), Seen(0.5, 0.4, 0.04)
OUT = Seen(0.5, 1.0, 0.04)


def paid(name, *steps, **settings):
    """Rewards of (state, state, .., how it ended: None, "burnout", "cut")"""
    reward = get_reward(name, **settings)
    *states, end = steps
    reward.reset(states[0])
    last = len(states) - 2
    return [
        reward(states[i], states[i + 1], end == "burnout" and i == last, end == "cut" and i == last)
        for i in range(last + 1)
    ]


def phi(x):
    return x.s - 2 * x.b**2 + 0.5 * min(x.tau, 0.5)


def test_there_are_ten_and_each_says_its_equation_and_how_it_fails():
    assert len(list_rewards()) == 10
    for name, cls in CAREER_REWARDS.items():
        assert cls.name == name and name[-3:] in ("_v1", "_v2")
        assert cls.__doc__.startswith("r = ") and cls.fails


@pytest.mark.parametrize(
    ("name", "usual", "burned"),
    [
        ("short_term_v1", 0.5 - 0.4, 0.5 - 1 - 1),
        ("short_term_v2", 0.5 - 2 * 0.16, 0.5 - 2 - 2),
        ("long_term_shaped_v1", 0.1 + 0.99 * phi(B) - phi(A), -0.5 - 5 - phi(A)),
        ("long_term_shaped_v2", 0.1 + 0.99 * phi(B) - phi(A), -0.5 - 5 - phi(A) + 0.5 * (0.3 - 0.9)),
        ("risk_sensitive_v1", 0.1, -0.5 - 2),
        ("risk_sensitive_cvar_v1", 0.1, -0.5 - 3),
        ("sparse_v1", 0, -5),
        ("sparse_milestones_v1", 4, 4 - 5),  # 0.3 and 0.5 are passed
        ("delayed_v1", 0, 0.5 - 2 - 10),
        ("delayed_hindsight_v1", 0, 0.5 - 2 + 0.3 * 0.1 - 5),
    ],
)
def test_a_step_and_a_burnout(name, usual, burned):
    assert np.isclose(paid(name, A, B, None)[0], usual)
    assert np.isclose(paid(name, A, OUT, "burnout")[0], burned)


def test_settings_are_those_of_the_equation():
    assert np.isclose(paid("short_term_v1", A, B, None, lambda_burnout=1.5)[0], 0.5 - 0.6)
    with pytest.raises(UserError, match="no setting 'lambda'"):
        get_reward("short_term_v1", **{"lambda": 2})
    with pytest.raises(UserError, match="unknown reward 'short_term_v9': did you mean short_term_v"):
        get_reward("short_term_v9")


def test_risk_looks_back_on_twenty_from_five_on():
    x = np.random.default_rng(0).random(40)
    states = [Seen(0.0, 0.0, 0.0), *(Seen(v, 0.0, 0.0) for v in x)]
    got = paid("risk_sensitive_v1", *states, None)
    for i, r in enumerate(got):
        past = x[max(0, i - 19) : i + 1]
        assert np.isclose(r, x[i] - 0.5 * (past.var() if len(past) >= 5 else 0))


def test_cvar_is_the_mean_of_the_worst_fifth_of_fifty_from_ten_on():
    x = np.random.default_rng(0).normal(0, 0.5, 80)
    states = [Seen(0.0, 0.0, 0.0), *(Seen(v, 0.0, 0.0) for v in x)]
    got = paid("risk_sensitive_cvar_v1", *states, None)
    for i, r in enumerate(got):
        past = np.sort(x[max(0, i - 49) : i + 1])
        worst = past[: -(-len(past) // 5)].mean()
        assert np.isclose(r, x[i] - (0.5 * max(0, -worst) if len(past) >= 10 else 0))
    assert (np.array(got) < x - 1e-9).any()


def test_goals_and_milestones():
    rich, tired = Seen(0.7, 0.3, 0.0), Seen(0.7, 0.31, 0.0)
    assert paid("sparse_v1", A, rich, "cut") == [10] and paid("sparse_v1", A, tired, "cut") == [0]
    assert paid("sparse_v1", A, Seen(0.69, 0.3, 0), "cut") == [0]
    ups = [Seen(s, 0.0, 0.0) for s in (0.1, 0.35, 0.2, 0.4, 0.95, 0.2, 0.95, 0.6)]
    assert paid("sparse_milestones_v1", *ups, "cut") == [2, 0, 0, 6, 0, 0, 10]


def test_delayed_pays_at_the_end():
    way = [A, Seen(0.4, 0.2, 0), Seen(0.9, 0.1, 0), Seen(0.7, 0.2, 0)]
    usual = 0.3 * 0.7 + 0.3 * 0.9 + 0.4 * np.mean([0.4, 0.9, 0.7]) - 2 * np.mean([0.2, 0.1, 0.2])
    assert np.allclose(paid("delayed_v1", *way, "cut"), [0, 0, usual + 8])
    assert np.allclose(
        paid("delayed_v1", *way[:3], Seen(0.6, 0.2, 0), "cut")[-1], usual + 5 - 0.7 * 0.0 - 0.03 - 0.04 / 3
    )
    # three steps, all of them switches: more than 0.3 of them
    assert np.allclose(paid("delayed_hindsight_v1", *way, "cut"), [0, 0, 0.7 - 0.4 - 0.3 * 0.3 + 3])
    stays = [A, Seen(0.4, 0.2, 0.01), Seen(0.9, 0.1, 0.02), Seen(0.7, 0.8, 0.03)]
    assert np.isclose(paid("delayed_hindsight_v1", *stays, "cut")[-1], 0.7 - 1.6 + 0.3 * 0.3 + 3)


def test_a_reward_on_the_environment_is_the_reward_of_its_states():
    env, bare = CareerReward(CareerEnv(), "long_term_shaped_v1"), CareerEnv()
    before, _ = env.reset(seed=1)
    bare.reset(seed=1)
    by_hand, true = get_reward("long_term_shaped_v1"), 0.0
    by_hand.reset()
    for action in (0, 0, 1, 0):
        after, reward, ended, cut, info = env.step(action)
        true += bare.step(action)[1]
        assert np.isclose(reward, by_hand.compute(before, action, after, info, ended, cut), atol=1e-6)
        assert np.isclose(info["true_return"], true)
        before = after
    with pytest.raises(UserError, match="is no career"):
        import gymnasium

        CareerReward(gymnasium.make("CartPole-v1"), "sparse_v1")


# --- shaping, on a career of few states ---------------------------------------------------------------


def small():
    """P (2, n, n + 1), of chance's own quadrature, and states; the last column is burnout's end."""
    p = EnvironmentParams.for_preset("patience")
    salaries, burnouts, tenures = np.geomspace(3e4, 3e5, 5), np.linspace(0, 1, 5), np.arange(3)
    states = [(s, b, t) for s in salaries for b in burnouts[:-1] for t in tenures]
    n, rng = len(states), np.random.default_rng(0)
    chance = np.zeros((2, n, 5, 5, 3))
    for action in (0, 1):
        for i, (s, b, t) in enumerate(states):
            for _ in range(20):
                at = dynamics.Career(s, b, t, 0.0)
                after = dynamics.transition(p, at, bool(action), rng.random(5), rng.standard_normal(2))
                there = np.outer(weights(salaries, after.salary), weights(burnouts, after.burnout))
                chance[action, i, :, :, int(min(after.tenure, 2))] += there / 20
    end = chance[:, :, :, -1].sum((-1, -2))
    chance = np.concatenate([chance[:, :, :, :-1].reshape(2, n, n), end[..., None]], -1)
    return chance, [Seen((s - 3e4) / 27e4, b, t / 100) for s, b, t in states]


def q_of(chance, rewards, gamma):
    """The optimal action values (2, n), by value iteration.  rewards (2, n, n + 1)"""
    q = np.zeros(chance.shape[:2])
    for _ in range(4000):
        value = np.append(q.max(0), 0.0)
        q = (chance * (rewards + gamma * value)).sum(-1)
    return q


def rewards_of(reward, chance, states):
    n = len(states)
    found = np.zeros((2, n, n + 1))
    for action in (0, 1):
        for i, before in enumerate(states):
            for j in chance[action, i].nonzero()[0]:
                after = states[j] if j < n else Seen(0.3, 1.0, 0.0)
                found[action, i, j] = reward(before, after, bool(j == n), False)
    return found


def plain(before, after, terminated, truncated):
    return after.s - after.b - 5 * terminated


def test_shaping_moves_no_optimal_policy_and_every_value_by_its_potential():
    chance, states = small()
    shaped = get_reward("long_term_shaped_v1", gamma=0.9)
    q = q_of(chance, rewards_of(plain, chance, states), 0.9)
    with_it = q_of(chance, rewards_of(shaped, chance, states), 0.9)
    potentials = np.array([phi(x) for x in states])
    assert np.allclose(with_it, q - potentials, atol=1e-10), "the first step's potential is in it"
    assert (abs(q[0] - q[1]) > 1e-6).all() and len(set(q.argmax(0))) == 2
    assert np.array_equal(with_it.argmax(0), q.argmax(0))


def test_a_reward_that_is_not_invariant_says_so_and_is_not():
    chance, states = small()
    q = q_of(chance, rewards_of(plain, chance, states), 0.9)
    other = get_reward("long_term_shaped_v2", gamma=0.9)
    assert "not invariant" in other.invariant
    assert "not" not in get_reward("long_term_shaped_v1").invariant
    found = q_of(chance, rewards_of(other, chance, states), 0.9)
    assert np.abs((found[1] - found[0]) - (q[1] - q[0])).max() > 0.05, "one action gains on the other"
    wrong = q_of(chance, rewards_of(get_reward("long_term_shaped_v1", gamma=0.5), chance, states), 0.9)
    assert not np.allclose(wrong - q, -np.array([phi(x) for x in states]), atol=1e-3)
