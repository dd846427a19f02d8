"""Counterfactuals against values that are known in closed form, and chances that are rollouts' own."""

import copy
import random
import threading

import gymnasium
import numpy as np
import pytest
from noisy import MU, Noisy

from pufferlib_kcore.environments.career import CareerEnv
from pufferlib_kcore.environments.gridworld import CoinGrid
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import CounterfactualAnalyzer, Decision
from pufferlib_kcore.failure_lab.introspection.chances import copied, generators


def always(action):
    return lambda observation: action


def started(env, seed=0):
    env.reset(seed=seed)
    return env


def true_values(then, horizon, gamma):
    return MU + MU[then] * sum(gamma**k for k in range(1, horizon))


@pytest.mark.parametrize("then, horizon, gamma", [(0, 1, 1.0), (1, 5, 1.0), (2, 8, 0.9), (1, 6, 0.0)])
def test_values_without_noise_are_those_of_the_formula(then, horizon, gamma):
    analyzer = CounterfactualAnalyzer(started(Noisy(sigma=0.0)), horizon, rollouts=2, gamma=gamma)
    found = analyzer.analyze(1, always(then))
    np.testing.assert_allclose(found.values, true_values(then, horizon, gamma), atol=1e-12)
    assert found.best == 2 and found.taken == 1 and found.mistake
    np.testing.assert_allclose([found.regret, *found.interval], 2.0, atol=1e-12)


def test_values_with_noise_and_a_spread_over_rollouts_that_is_the_environments():
    horizon, rollouts = 6, 2000
    env = started(Noisy(sigma=0.5))
    found = CounterfactualAnalyzer(env, horizon, rollouts, gamma=0.9).analyze(0, always(1))
    deviation = 0.5 * sum(0.9 ** (2 * k) for k in range(horizon)) ** 0.5
    np.testing.assert_allclose(found.spread, deviation, rtol=0.07)
    np.testing.assert_allclose(found.values, true_values(1, horizon, 0.9), atol=4 * deviation / rollouts**0.5)


def test_plain_copies_would_all_be_one_rollout():
    """What this is for: a deep copy meets the chances of its original."""
    env = started(Noisy())
    assert copy.deepcopy(env).step(0)[1] == copy.deepcopy(env).step(0)[1]
    found = CounterfactualAnalyzer(env, 1, 5).analyze(0, always(0))
    assert len(np.unique(found.returns[0])) == 5


def test_actions_meet_the_same_chances_within_a_rollout():
    found = CounterfactualAnalyzer(started(Noisy(sigma=9.0)), 4, 5).analyze(0, always(1))
    np.testing.assert_allclose(found.returns - found.returns[0], np.tile(MU[:, None], 5), atol=1e-9)
    assert found.mistake and np.allclose(found.interval, found.regret)


def test_the_environment_is_left_as_it_was():
    env, twin = started(Noisy()), started(Noisy())
    CounterfactualAnalyzer(env).analyze(0, always(2))
    assert env.time == 0 and env.step(1)[1] == twin.step(1)[1]


def test_the_same_seed_gives_the_same_and_another_call_other_chances():
    first, second = (CounterfactualAnalyzer(started(Noisy()), seed=3) for _ in range(2))
    one, other = first.analyze(0, always(0)).returns, second.analyze(0, always(0)).returns
    assert np.array_equal(one, other)
    assert not np.array_equal(one, first.analyze(0, always(0)).returns)
    third = CounterfactualAnalyzer(started(Noisy()), seed=4)
    assert not np.array_equal(one, third.analyze(0, always(0)).returns)


def test_rollouts_end_with_the_episode():
    found = CounterfactualAnalyzer(started(Noisy(0.0, length=3)), 10, 1).analyze(0, always(1))
    np.testing.assert_allclose(found.values, MU + 2)
    limited = gymnasium.wrappers.TimeLimit(Noisy(0.0), 4)
    found = CounterfactualAnalyzer(started(limited), 10, 1).analyze(0, always(1))
    np.testing.assert_allclose(found.values, MU + 3)


def test_intervals_hold_the_true_regret_as_often_as_they_say():
    """300 times 5 rollouts of unpaired noise; 95% promised, four standard errors below it allowed."""
    env = started(Noisy(sigma=2.0, common=False))
    analyzer = CounterfactualAnalyzer(env, horizon=1, rollouts=5)
    held = {taken: 0 for taken in range(3)}
    for _ in range(300):
        for taken in held:
            low, high = analyzer.analyze(taken, always(0)).interval
            held[taken] += low - 1e-12 <= MU.max() - MU[taken] <= high + 1e-12
    assert min(held.values()) > 300 * 0.95 - 4 * (300 * 0.95 * 0.05) ** 0.5


def test_regret_and_interval_by_hand():
    """Differences to action 0 are (1, 3) and (-1, -1): means 2 and -1, standard errors 1 and 0."""
    found = Decision(np.arange(3), np.array([[0.0, 0.0], [1.0, 3.0], [-1.0, -1.0]]), 0)
    assert found.regret == 2 and found.best == 1
    np.testing.assert_allclose(found.interval, (0, 2 + 25.4517), atol=1e-3)  # t at 1 - 0.05 / 4, 1 freedom
    tie = Decision(np.arange(2), np.array([[1.0, 2.0], [2.0, 1.0]]), 1)
    assert tie.best == 1 and tie.regret == 0
    rounded = Decision(np.arange(2), np.array([[0.3, 0.3], [0.1 + 0.2, 0.1 + 0.2]]), 0)
    assert rounded.returns[1, 0] > 0.3 and rounded.best == 0 and rounded.regret == 0 and not rounded.mistake
    lone = Decision(np.arange(2), np.array([[1.0], [2.0]]), 0)
    assert np.isnan(lone.interval).all() and np.isnan(lone.spread).all() and not lone.mistake
    assert lone.to_plain()["low"] is None and lone.to_plain()["values"] == {"0": 1.0, "1": 2.0}


def test_a_trajectory_of_known_regrets(tmp_path):
    analyzer = CounterfactualAnalyzer(Noisy(sigma=0.3, length=6), horizon=3, rollouts=4)
    taken = [2, 0, 1, 2, 2, 0]
    found = analyzer.trajectory(always(2), taken, seed=5)
    np.testing.assert_allclose(found.regret, MU.max() - MU[taken], atol=1e-9)
    assert found.mistakes == [1, 2, 5] and [one.best for one in found.decisions] == [2] * 6
    env = started(Noisy(sigma=0.3, length=6), 5)
    np.testing.assert_array_equal(found.rewards, [env.step(a)[1] for a in taken])
    plain = found.to_plain()
    assert plain["mistakes"] == [1, 2, 5] and np.isclose(plain["mean_regret"], 8 / 6)
    found.plot(tmp_path / "regret.png")
    assert (tmp_path / "regret.png").read_bytes().startswith(b"\x89PNG")


def test_a_policy_that_acts_is_followed_and_makes_no_mistake():
    class Agent:
        def act(self, observation):
            assert observation.shape == (1,)
            return np.array(2)

    found = CounterfactualAnalyzer(Noisy(sigma=0.1, length=5), 3, 3).trajectory(Agent())
    assert found.regret.max() == 0 and not found.mistakes and len(found.rewards) == 5


def test_worlds_of_the_lab():
    env = started(CareerEnv())
    found = CounterfactualAnalyzer(env, 20, 40).analyze(0, always(1))
    assert (found.spread > 0).all() and np.isfinite(found.interval).all()
    grid = CoinGrid()
    grid.reset(seed=0)
    grid.place = np.array([4, 3])
    found = CounterfactualAnalyzer(grid, 1, 2).analyze(1, always(0))
    np.testing.assert_allclose(found.values, [0.99, -0.01, -0.01, -0.01])
    assert found.best == 0 and found.interval == (1.0, 1.0)
    wrapped = gymnasium.make("CartPole-v1")
    wrapped.reset(seed=0)
    assert CounterfactualAnalyzer(wrapped).analyze(1, always(0)).returns.shape == (2, 5)


class Dice:
    def __init__(self):
        self.chance = random.Random(0)

    def roll(self):
        return self.chance.random()


class Deep(Noisy):
    """Generators in places that they are found in, one of them twice."""

    def __init__(self):
        super().__init__()
        own = np.random.default_rng(7)
        self.parts = {"a": [own, (own,)], "old": (np.random.RandomState(0),)}
        self.parts["self"] = self
        self.draw = Dice().roll


def test_every_generator_is_made_fresh_and_shared_as_before():
    env = started(gymnasium.wrappers.TimeLimit(Deep(), 5))
    assert len(generators(env)) == 4
    seeds = np.random.SeedSequence(0).spawn(2)
    one, again, other = (copied(env, seeds[i]).unwrapped for i in (0, 0, 1))
    assert one.parts["a"][0] is one.parts["a"][1][0] and one.parts["self"] is one

    def drawn(env):
        return [
            env.np_random.random(),
            env.parts["a"][0].random(),
            env.parts["old"][0].rand(),
            env.draw(),
        ]

    assert len({*(first := drawn(one)), *drawn(other), *drawn(env.unwrapped)}) == 12
    assert first == drawn(again)


def test_the_environments_own_generator_is_made_where_it_is_not_yet():
    one, other = (CounterfactualAnalyzer(Noisy()).analyze(0, always(0)).returns for _ in range(2))
    assert np.array_equal(one, other)


def test_generators_that_copies_would_share_are_refused():
    own = np.random.default_rng(0)
    for draw in (own.random, lambda: own.random()):
        env = started(Noisy())
        env.draw = draw
        with pytest.raises(UserError, match="a function of it keeps a generator"):
            CounterfactualAnalyzer(env).analyze(0, always(0))
    env.draw = lambda: 0.5
    assert CounterfactualAnalyzer(env).analyze(0, always(0)).returns.shape == (3, 5)


def test_actions_may_start_at_another_number():
    class Later(Noisy):
        action_space = gymnasium.spaces.Discrete(2, start=1)

    found = CounterfactualAnalyzer(started(Later(0.0)), 1, 2).analyze(1, always(1))
    assert found.actions.tolist() == [1, 2] and found.values.tolist() == [1, 3] and found.best == 2
    with pytest.raises(UserError, match="action 0 is none of"):
        CounterfactualAnalyzer(started(Later())).analyze(0, always(1))


class Itself(Noisy):
    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda: CounterfactualAnalyzer(gymnasium.make("Pendulum-v1")), "actions are Box"),
        (lambda: CounterfactualAnalyzer(3), "actions are None"),
        (lambda: CounterfactualAnalyzer(Noisy(), rollouts=0), "rollouts=0"),
        (lambda: CounterfactualAnalyzer(Noisy(), horizon=0), "horizon=0"),
        (lambda: CounterfactualAnalyzer(Noisy(), gamma=1.5), "gamma=1.5"),
        (lambda: CounterfactualAnalyzer(started(Noisy())).analyze(3, always(0)), "action 3 is none of"),
        (lambda: CounterfactualAnalyzer(started(Noisy())).analyze(0, "ppo"), "a str is no policy"),
        (lambda: CounterfactualAnalyzer(started(Itself())).analyze(0, always(0)), "its copy is itself"),
        (
            lambda: CounterfactualAnalyzer(gymnasium.make("CartPole-v1")).analyze(0, always(0)),
            "call env.reset",
        ),
        (lambda: CounterfactualAnalyzer(Noisy()).trajectory(always(0), []), "without a step"),
    ],
)
def test_mistakes_are_told_in_one_sentence(mistake, said):
    with pytest.raises(UserError, match=said) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_an_environment_that_cannot_be_copied_is_refused():
    env = started(Noisy())
    env.handle = threading.Lock()
    with pytest.raises(UserError, match="cannot copy the environment .*TypeError"):
        CounterfactualAnalyzer(env).analyze(0, always(0))
