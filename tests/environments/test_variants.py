"""Worlds of the lab beside the career: CartPole's variants, and the grid with a coin."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pufferlib_kcore.environments import make_creator
from pufferlib_kcore.environments.gridworld import CoinGrid
from pufferlib_kcore.environments.packages import PACKAGES


def episode(env, actions, seed=0):
    seen, paid = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, ended, cut, info = env.step(action)
        seen.append(observation)
        paid.append(reward)
        if ended or cut:
            break
    return np.array(seen), np.array(paid), info


@pytest.mark.parametrize("settings", [{}, {"force": 20.0}, {"noise": 5.0}, {"delay": 3}])
def test_variants_are_environments_of_gymnasiums(settings):
    env = PACKAGES["cartpole_variant"].make("cartpole_variant", **settings)
    check_env(env, skip_render_check=True)
    seen, *_ = episode(env, [1] * 8)
    assert all(env.observation_space.contains(x) for x in seen)


def test_without_settings_it_is_cartpole():
    plain = gymnasium.make("CartPole-v1")
    actions = np.random.default_rng(0).integers(0, 2, 30)
    one, other = (episode(env, actions) for env in (make_creator("cartpole_variant").gymnasium(), plain))
    assert np.array_equal(one[0], other[0])


def test_force_noise_and_delay_do_what_they_say():
    def made(**settings):
        return make_creator("cartpole_variant", **settings).gymnasium()

    plain, strong = (episode(made(force=f), [1])[0] for f in (10.0, 20.0))
    assert np.isclose(strong[1, 1] - plain[0, 1], 2 * (plain[1, 1] - plain[0, 1]), rtol=0.05)
    late, _, _ = episode(made(delay=2), [1, 1, 1, 1, 1])
    early, _, _ = episode(made(), [0, 0, 1, 1, 1])
    assert np.array_equal(late, early)
    quiet, loud = (episode(made(noise=n), [1, 0] * 4)[0] for n in (0.0, 0.3))
    assert 0.1 < (loud - quiet).std() < 0.6


def test_the_coin_pays_whenever_it_is_entered_and_the_goal_is_what_is_meant():
    env = CoinGrid(size=3, coin=0.5, max_steps=10)
    check_env(env, skip_render_check=True)
    _, paid, info = episode(env, [2, 3, 2, 3, 2])  # on, off, on, off, on
    assert np.allclose(paid, [0.49, -0.01, 0.49, -0.01, 0.49])
    assert np.isclose(info["true_return"], -0.05)
    _, paid, info = episode(env, [0, 0, 2, 2])
    assert np.allclose(paid, [-0.01, -0.01, -0.01, 0.99]) and np.isclose(info["true_return"], 0.96)
    _, paid, _ = episode(env, [2, 1, 1])
    assert np.allclose(paid, [0.49, -0.01, -0.01]), "walls hold, and standing on it pays nothing"
    _, paid, _ = episode(env, [1] * 20)
    assert len(paid) == 10
