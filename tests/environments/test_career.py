"""Career: Gymnasium's contract, its dynamics by hand and by the vectorized way, its parameters."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pufferlib_kcore.environments import make_creator
from pufferlib_kcore.environments.career import CareerEnv, CareerVectorEnv, EnvironmentParams, dynamics
from pufferlib_kcore.environments.career.params import PRESETS, RANGES, REGIMES
from pufferlib_kcore.errors import UserError


@pytest.mark.parametrize("regime", REGIMES)
def test_it_is_an_environment_of_gymnasiums(regime):
    check_env(CareerEnv(market_regime=regime), skip_render_check=True)


def roll(env, seed, actions):
    seen = [env.reset(seed=seed)[0]]
    paid = []
    for a in actions:
        observation, reward, ended, cut, _ = env.step(a)
        seen.append(observation)
        paid.append(reward)
        if ended or cut:
            seen.append(env.reset()[0])
    return np.array(seen), np.array(paid)


def test_a_seed_is_all_that_it_takes_and_a_reset_without_one_goes_on():
    actions = np.random.default_rng(0).integers(0, 2, 300)
    first, again, other = (roll(CareerEnv(), seed, actions) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    env = CareerEnv()
    starts = [env.reset(seed=5)[0][3], env.reset()[0][3], env.reset()[0][3]]
    assert len(set(starts)) == 3, "each episode has a market of its own"


def test_a_stay_and_a_switch_worked_by_hand():
    p = EnvironmentParams(
        salary_growth=0.06, salary_volatility=0.2, burnout_rate=0.1, switching_risk=0.3,
        job_availability=0.5, salary_multiplier=1.1,
    )  # fmt: skip
    at = dynamics.Career(60_000.0, 0.3, 4.0, 0.5)
    u, z = [0.29, 0.5, 1.0, 0.25, 0.75], [1.0, -2.0]
    stayed = dynamics.transition(p, at, False, u, z)
    salary = 60_000 * (1 + (0.06 + 0.04 + 0.2 * 1.25 * 1.0) / 12)
    burnout = 0.3 + 0.1 * (1 + 0.3 * (salary / 50_000 - 1)) * 0.9
    assert np.allclose(stayed, (salary, burnout, 5, 0.9 * 0.5 - 0.2), atol=1e-12)
    badly = dynamics.transition(p, at, True, u, z)
    rested = 0.3 - 0.02 * 1.25 - 0.125
    assert np.allclose(badly, (60_000 * 0.85, rested, 0, 0.25), atol=1e-12)
    well = dynamics.transition(p, at, True, [0.3, *u[1:]], z)
    assert np.allclose(well, (60_000 * (1 + 0.15 * 0.5) * 1.1, rested, 0, 0.25), atol=1e-12)
    assert np.isclose(dynamics.base_reward(well), (well.salary - 30e3) / 270e3 - rested + 0.1)
    assert np.isclose(dynamics.base_reward(well._replace(burnout=0.5)), (well.salary - 30e3) / 270e3 - 0.5)


def test_tenure_pays_up_to_its_bound_and_salaries_stay_within_theirs():
    p = EnvironmentParams(salary_volatility=0.0, salary_growth=0.0)
    u, z = [0.5] * 5, [0.0, 0.0]
    for tenure, growth in ((3, 0.03), (15, 0.15), (90, 0.15)):
        after = dynamics.transition(p, dynamics.Career(60e3, 0.0, tenure, 0.0), False, u, z)
        assert np.isclose(after.salary, 60e3 * (1 + growth / 12))
    high = dynamics.transition(p, dynamics.Career(300e3, 0.0, 15, 0.0), False, u, z)
    low = dynamics.transition(p, dynamics.Career(30e3, 0.9, 0, 1.0), True, [0.0, 0, 1.0, 0, 0], [0, 9])
    assert high.salary == 300e3 and low.salary == 30e3 and low.market == 1
    assert dynamics.transition(p, dynamics.Career(3e5, 0.99, 0, 0), False, u, z).burnout == 1


def test_many_careers_are_as_many_single_ones():
    """The same draws give the same numbers, whichever way they are stepped."""
    n, rng = 64, np.random.default_rng(0)
    p = EnvironmentParams.for_regime("volatile", max_steps=60)
    many, single = CareerVectorEnv(n, p), [CareerEnv(p) for _ in range(n)]
    seen, _ = many.reset(seed=0)
    for i, env in enumerate(single):
        env.reset(seed=0)
        env.career = dynamics.Career(*(float(x[i]) for x in many.career))
    for _ in range(150):
        actions = rng.random(n) < 0.4
        chance = np.random.Generator(np.random.PCG64())
        chance.bit_generator.state = many.np_random.bit_generator.state
        u, z = chance.random((5, n)), chance.standard_normal((2, n))
        fresh = chance.standard_normal(n)
        seen, rewards, ended, cut, info = many.step(actions)
        for i, env in enumerate(single):
            env._np_random = Told(u[:, i], z[:, i])
            observation, reward, one_ended, one_cut, _ = env.step(int(actions[i]))
            assert (reward, one_ended, one_cut) == (rewards[i], ended[i], cut[i])
            if one_ended or one_cut:
                assert np.array_equal(info["final_obs"][i], observation) and info["_final_obs"][i]
                env._np_random = Told(None, fresh[i])
                observation, _ = env.reset()
            assert np.array_equal(observation, seen[i])


class Told:
    """A generator whose numbers are told."""

    def __init__(self, u, z):
        self.u, self.z = u, z

    def random(self, n):
        return self.u

    def standard_normal(self, n=None):
        return self.z


def test_an_explicit_parameter_beats_the_preset_and_that_the_regime():
    assert EnvironmentParams.for_regime("recession").switching_risk == 0.5
    default = EnvironmentParams().switching_risk
    assert EnvironmentParams.for_regime("recession", switching_risk=default).switching_risk == default
    harsh = EnvironmentParams(market_regime="boom", preset="harsh_recession")
    assert harsh.burnout_rate == 0.25 and harsh.salary_growth == -0.02
    assert EnvironmentParams(preset="long_horizon").max_steps == 500
    assert EnvironmentParams(preset="long_horizon", max_steps=60).max_steps == 60


@pytest.mark.parametrize("name", RANGES)
def test_numbers_out_of_range_are_refused(name):
    for value in (RANGES[name].low - 0.01, RANGES[name].high + 0.01):
        with pytest.raises(UserError, match=f"{name} = .*expected a number from"):
            EnvironmentParams(**{name: value})


def test_what_there_is_not_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="unknown regime 'recesion': did you mean recession"):
        EnvironmentParams.for_regime("recesion")
    with pytest.raises(UserError, match="unknown preset 'rapid_burnot': did you mean rapid_burnout"):
        EnvironmentParams.for_preset("rapid_burnot")
    with pytest.raises(UserError, match="no parameter 'burnout': did you mean burnout_rate"):
        CareerEnv(burnout=0.2)
    with pytest.raises(UserError, match="cannot hide 'pay'"):
        CareerEnv(hidden=("pay",))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_within_the_ranges(preset):
    EnvironmentParams.for_preset(preset)


def test_hidden_features_are_not_shown_and_the_rest_is():
    actions = [0, 1, 0, 0]
    shown, _ = roll(CareerEnv(), 1, actions)
    hidden, _ = roll(CareerEnv(hidden=("burnout", "market")), 1, actions)
    assert (hidden[:, [1, 3]] == 0).all() and np.array_equal(hidden[:, [0, 2]], shown[:, [0, 2]])


def test_the_trainers_environments_tell_the_true_return():
    env = make_creator("career", regime="boom", reward="short_term_v1", max_steps=50).gymnasium()
    base = make_creator("career", regime="boom", max_steps=50).gymnasium()
    ends = []
    for one in (env, base):
        one.reset(seed=0)
        over = False
        while not over:
            _, _, ended, cut, info = one.step(1)
            over = ended or cut
        ends.append(info)
    assert np.isclose(ends[0]["true_return"], ends[1]["episode_return"])
    assert np.isclose(ends[0]["episode_return"], ends[1]["episode_return"] - 0.1 * 50)
    assert isinstance(env, gymnasium.Env)
    with pytest.raises(UserError, match="unknown reward 'short_term_v3'"):
        make_creator("career", reward="short_term_v3").gymnasium()
