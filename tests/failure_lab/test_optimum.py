"""Optimum: no more and no less than what its policy is paid, and better than what looks at less."""

import numpy as np
import pytest

from pufferlib_kcore.environments.career import REGIMES, EnvironmentParams, get_reward
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.optimum import Grid, nearest, optimum, simulate, weights

SMALL = Grid(41, 31, 9)


def always(action):
    return lambda observations, times: np.full(len(observations), action)


def adaptive(observations, times):
    return observations[:, 1] > 0.5


@pytest.mark.parametrize("regime", REGIMES)
def test_its_policy_is_paid_its_value_and_nobody_more(regime):
    params = EnvironmentParams.for_regime(regime)
    best = optimum(params, grid=SMALL)
    paid = simulate(best, params, 4000)
    assert abs(paid.mean() - best.value) < 0.02 * abs(best.value)
    assert abs(paid.mean() - best.value) < 2 * best.error + 4 * paid.std() / 4000**0.5 + 0.1
    for other in (always(0), always(1), adaptive):
        theirs = simulate(other, params, 4000)
        assert theirs.mean() < best.value + best.error + 4 * theirs.std() / 4000**0.5


def test_with_patience_one_must_look():
    params = EnvironmentParams.for_preset("patience")
    best = optimum(params)
    paid = simulate(best, params, 4000).mean()
    assert abs(paid - best.value) < 0.02 * best.value
    assert paid > 1.5 * max(simulate(always(a), params, 4000).mean() for a in (0, 1))


def test_a_short_career_worked_by_all_sequences_of_actions():
    """Without chance, the best of all plans is the optimum: here 50 steps, of which few matter."""
    params = EnvironmentParams(
        salary_volatility=0.0, switching_risk=1.0, burnout_rate=0.01, max_steps=50, salary_growth=0.3
    )
    best = optimum(params, grid=Grid(121, 101, 3))
    plans = []
    for first in range(0, 50):  # stay so long, then switch once, then stay
        plan = np.zeros(50, int)
        plan[first] = 1
        plans.append(simulate(lambda o, t, plan=plan: plan[t], params, 200).mean())
    stay = simulate(always(0), params, 200).mean()
    assert best.value > max(plans) - 2 * best.error - 0.2 and best.value > stay - 2 * best.error - 0.2


def test_other_rewards_have_their_own_and_those_that_remember_none():
    params = EnvironmentParams()
    base, other = optimum(params, grid=SMALL), optimum(params, get_reward("short_term_v1"), SMALL)
    assert np.isclose(base.value - other.value, 0.1 * params.max_steps, atol=0.3)
    with pytest.raises(UserError, match="delayed_v1 has no optimum here"):
        optimum(params, get_reward("delayed_v1"))


def test_interpolation_keeps_means_and_sums():
    points, x = np.geomspace(1, 9, 7), np.random.default_rng(0).uniform(1, 9, (4, 5))
    w = weights(points, x)
    assert np.allclose(w.sum(-1), 1) and np.allclose(w @ points, x) and (w >= 0).all()
    assert np.array_equal(nearest(points, points), np.arange(7))
    far = np.abs(points - x.ravel()[:, None]).argmin(1)
    assert np.array_equal(nearest(points, x.ravel()), far)
