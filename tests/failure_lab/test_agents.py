"""Agents: rules at their thresholds, chances that add up, values that are the model's."""

import numpy as np
import pytest
import torch

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.agents import HEURISTICS, PolicyAgent, create_heuristic_agent, entropy
from pufferlib_kcore.failure_lab.learning import AGENTS, NINE, learn
from pufferlib_kcore.failure_lab.worlds import World
from pufferlib_kcore.policies import build, spec_from


def career(burnout=0.0, market=0.0, tenure=0.0, salary=0.1):
    return np.array([[salary, burnout, tenure / 100, market]], np.float32)


CASES = {  # agent: (where it stays, where it switches)
    "always_stay": ([career(1.0, 1.0, 50)], []),
    "always_switch": ([], [career()]),
    "burnout_threshold": ([career(0.59)], [career(0.61)]),
    "conservative": ([career(0.6, -0.1), career(0.49, 0.5)], [career(0.51, 0.01)]),
    "aggressive": ([career(0.29, 0.19, 20)], [career(0.31), career(market=0.21), career(tenure=21)]),
    "adaptive": (
        [career(0.69, -0.31), career(0.49, 0.0), career(0.29, 0.31)],
        [career(0.71, -0.31), career(0.51, 0.0), career(0.31, 0.31)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rules_decide_at_their_thresholds(name):
    agent = create_heuristic_agent(name)
    for wanted, states in enumerate(CASES[name]):
        for state in states:
            assert agent.act(state[0]) == wanted
            assert agent.get_policy_entropy() == 0
            assert agent.distribution(state).tolist() == [[1 - wanted, wanted]]


def test_nine_agents_and_those_by_the_same_door():
    assert len(NINE) == 9 and set(CASES) | {"random"} == set(HEURISTICS)
    assert set(AGENTS) == {*NINE, "a2c", "sac"}


def test_a_random_agent_draws_when_evaluated_too():
    agent = create_heuristic_agent("random", seed=1)
    taken = [agent.act(career()[0]) for _ in range(400)]
    assert 0.4 < np.mean(taken) < 0.6
    assert np.isclose(agent.get_policy_entropy(), np.log(2))


def test_entropy_is_that_of_the_chances():
    p = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    wanted = [-0.25 * np.log(0.25) - 0.75 * np.log(0.75), 0, np.log(2)]
    assert np.allclose(entropy(p), wanted)


def test_choices_follow_uniform_numbers():
    agent = create_heuristic_agent("random", 4, 3)
    p = np.array([[0.2, 0.5, 0.3]] * 4)
    assert agent.choose(p, True, np.array([0.1, 0.3, 0.69, 0.9])).tolist() == [0, 1, 1, 2]
    rule = create_heuristic_agent("always_stay")
    assert rule.choose(p, False, np.zeros(4)).tolist() == [1, 1, 1, 1]


def test_what_there_is_not_is_refused():
    with pytest.raises(UserError, match="unknown heuristic agent 'agressive': did you mean aggressive"):
        create_heuristic_agent("agressive")
    with pytest.raises(UserError, match="no setting 'burnout': did you mean burnout_threshold"):
        create_heuristic_agent("conservative", burnout=0.3)
    with pytest.raises(UserError, match="rule for careers"):
        create_heuristic_agent("adaptive").distribution(np.zeros((1, 2)))
    with pytest.raises(UserError, match="unknown agent 'dqm': did you mean dqn"):
        learn("dqm", World(), 10, 0, None)


def test_sac_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="sac cannot act in career: SAC's actions are real numbers"):
        learn("sac", World(), 10, 0, tmp_path)


def test_continuous_worlds_are_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="the lab's agents choose one of a few"):
        learn("dqn", World("pendulum"), 10, 0, tmp_path)


@pytest.mark.parametrize("rnn", [None, "Recurrent"])
def test_a_policys_chances_are_its_own_with_a_memory_each_episode(rnn):
    env = World().creator()
    spec = spec_from("career", "Policy", rnn, {}, {}, env.single_observation_space, env.single_action_space)
    env.close()
    torch.manual_seed(0)
    policy = build(spec)
    agent = PolicyAgent(policy, 4, 2)
    x = np.random.default_rng(0).random((5, 3, 4)).astype(np.float32)  # steps, episodes
    agent.begin(3)
    together = [agent.distribution(row) for row in x]
    assert np.allclose(np.sum(together, -1), 1)
    for e in range(3):
        agent.begin(1)
        alone = [agent.distribution(row[e : e + 1])[0] for row in x]
        assert np.allclose(alone, [p[e] for p in together], atol=1e-6)
    agent.begin(3)
    again = agent.distribution(x[4])
    assert np.allclose(again, together[4], atol=1e-6) == (rnn is None), "a memory begins anew"
    assert agent.values(x[0]).shape == (3,)


def test_a_dqns_values_and_chances_are_its_networks(tmp_path):
    learned = learn("dqn", World(), 1500, 0, tmp_path, {"learning_starts": 100}, every=500)
    agent, x = learned.agent, np.random.default_rng(0).random((6, 4)).astype(np.float32)
    with torch.no_grad():
        q = agent.model.q_net(torch.from_numpy(x)).numpy()
    assert np.allclose(agent.q_values(x), q) and np.allclose(agent.values(x), q.max(1))
    assert np.array_equal(agent.distribution(x).argmax(1), q.argmax(1))
    assert agent.distribution(x).max() == 1
    assert [row["agent_steps"] for row in learned.records] == [1000]
    assert sorted(learned.checkpoints) == [500, 1000, 1500]
    far = [np.abs(learned.checkpoints[n]().q_values(x) - q).max() for n in (500, 1500)]
    assert far[1] < 0.2 < far[0], "saved in the last step, before its update"
    again = learn("dqn", World(), 1500, 0, tmp_path)
    assert np.allclose(again.agent.q_values(x), q), "read, not trained anew"


def test_ppo_goes_on_where_it_was(tmp_path):
    first = learn("ppo", World(), 1024, 0, tmp_path, every=512)
    assert first.records[-1]["agent_steps"] == 1024 and sorted(first.checkpoints) == [512, 1024]
    more = learn("ppo", World(), 1024, 0, tmp_path)
    assert len(more.records) == len(first.records)
    with pytest.raises(UserError, match="no setting|unknown setting"):
        learn("ppo", World(), 1024, 0, tmp_path / "other", {"learnin_rate": 1})
    with pytest.raises(UserError, match="dqn cannot be made so"):
        learn("dqn", World(), 100, 0, tmp_path / "dqn", {"learnin_rate": 1})
