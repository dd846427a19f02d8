"""Metta's arena: its observation and its reward tell the same story."""

import numpy as np
import pytest

from pufferlib_kcore.environments import make_creator, metta
from pufferlib_kcore.errors import UserError

NAME = "arena_basic_easy_shaped"


def played(env, seed, steps=2000):
    """Random play.  -> observations, rewards, and whether the episode was cut off"""
    rng = np.random.default_rng(seed)
    first, _ = env.reset(seed=seed)
    seen, rewards, over = [first], [], False
    while not over and len(rewards) < steps:
        observation, reward, terminated, over, _ = env.step(int(rng.integers(env.action_space.n)))
        assert not terminated and env.observation_space.contains(observation)
        seen.append(observation)
        rewards.append(reward)
    return np.stack(seen), rewards, over


def test_without_the_package_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(metta.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs mettagrid, which is not installed"):
        make_creator(NAME)()


def test_an_episode_is_worth_what_is_held_at_its_end():
    pytest.importorskip("mettagrid")
    env = metta.make(NAME, size=9, each=4, max_steps=2000)
    ever = set()
    for seed in range(4):
        seen, rewards, over = played(env, seed)
        held = dict(zip(metta.REWARDS, np.rint(10 * seen[-1, -5:, 5, 5]), strict=True))
        worth = sum(weight * min(held[name], most) for name, (weight, most) in metta.REWARDS.items())
        assert over and len(rewards) == 2000
        if held["heart"] < 10:  # more do not show
            assert np.isclose(sum(rewards), worth, atol=1e-4)
        ever |= {name for name, top in zip(held, seen[:, -5:, 5, 5].max(0), strict=True) if top}
    assert ever == set(metta.REWARDS)


def test_the_agent_stands_in_the_middle_and_walls_around_the_arena():
    pytest.importorskip("mettagrid")
    env = metta.make(NAME, size=9)
    seen, _, _ = played(env, 0, 100)
    kinds = {name: i for i, name in env.tags.items()}
    assert (seen[:, kinds["type:agent"], 5, 5] == 1).all() and seen[:, kinds["type:wall"]].any((1, 2)).all()
    assert seen[:, : len(env.tags)].sum(1).max() == 1  # one object to a cell


def test_the_same_seed_is_the_same_arena():
    pytest.importorskip("mettagrid")
    one, other = (played(metta.make(NAME), 3, 50)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one[0], played(metta.make(NAME), 4, 1)[0][0])


def test_pufferlib_takes_it():
    pytest.importorskip("mettagrid")
    env = make_creator(NAME, max_steps=5)()
    env.reset(seed=1)
    for _ in range(5):
        *_, infos = env.step(0)
    assert infos["episode_length"] == 5
