"""Evaluation: two routes to one return, common random numbers, what is kept of the way."""

import numpy as np

from pufferlib_kcore.environments.career import EnvironmentParams
from pufferlib_kcore.failure_lab.agents import create_heuristic_agent
from pufferlib_kcore.failure_lab.evaluation import evaluate
from pufferlib_kcore.failure_lab.optimum import simulate
from pufferlib_kcore.failure_lab.references import Constant, known
from pufferlib_kcore.failure_lab.worlds import World


def test_returns_are_those_of_many_careers_at_once():
    agent = create_heuristic_agent("aggressive")
    played = evaluate(agent, World(), 400, 0)
    params = EnvironmentParams()
    other = simulate(lambda x, t: agent.distribution(x).argmax(1), params, 4000)
    error = played.true_returns.std() / 20 + other.std() / 4000**0.5
    assert abs(played.true_returns.mean() - other.mean()) < 4 * error


def test_own_and_meant_returns_and_the_way_to_them():
    agent = create_heuristic_agent("adaptive")
    played = evaluate(agent, World(reward="short_term_v1"), 30, 3)
    base = evaluate(agent, World(), 30, 3)
    assert np.allclose(played.true_returns, base.returns)
    for e in range(30):
        states, actions, rewards = played.trajectory(e)
        assert len(states) == len(actions) == len(rewards) == played.lengths[e]
        assert np.isclose(rewards.sum(), played.returns[e])
        assert np.array_equal(agent.distribution(states).argmax(1), actions)
    taken = np.concatenate([played.trajectory(e)[1] for e in range(30)])
    assert np.allclose(played.actions, np.bincount(taken, minlength=2) / len(taken))
    assert played.entropy == 0 and played.values is None


def test_agents_meet_the_same_episodes_and_chance_its_own():
    one, other = (evaluate(Constant(a, 4, 2), World(), 10, 5) for a in (0, 1))
    assert np.array_equal(one.observations[0], other.observations[0])
    again = evaluate(Constant(0, 4, 2), World(), 10, 5)
    assert np.array_equal(one.returns, again.returns)
    assert not np.array_equal(one.returns, evaluate(Constant(0, 4, 2), World(), 10, 6).returns)
    drawn = [evaluate(create_heuristic_agent("random", seed=s), World(), 10, 5) for s in (0, 1)]
    assert np.array_equal(drawn[0].returns, drawn[1].returns), "chance is the evaluation's"
    assert len(set(drawn[0].returns)) == 10


def test_references_are_the_returns_of_what_looks_at_nothing():
    r = known(World("coin_grid", {"coin": 0.5}))
    assert r.optimum is None and r.share(1.0) is None
    assert len(r.constants) == 4 and r.true_constant < 0 < r.uniform
    career = known(World())
    assert np.isclose(career.share(career.optimum), 1) and career.share(career.true_uniform) == 0
    assert career.optimum > career.true_uniform + 100
    assert career.references.uniform == career.uniform
