"""Vectorization: any spaces on every backend, seeds that arrive, memory that is shared, what is refused."""

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from pufferlib_kcore.environments import make_creator, seeds
from pufferlib_kcore.environments.vector import make
from pufferlib_kcore.errors import UserError

from . import toys
from .rolling import actions_for, roll, same

WAYS = [("serial", None, None), ("multiprocessing", 2, 2)]


def run(creator, way, steps=40, seed=11, num_envs=4):
    vec = make(creator, way[0], num_envs, way[1], way[2])
    try:
        return roll(vec, steps, seed)
    finally:
        vec.close()


@pytest.mark.parametrize(
    "creator",
    [
        make_creator("memory_cue", delay=1),
        make_creator("pendulum", max_episode_steps=7),
        toys.Maker(toys.Mixed, spaces.MultiDiscrete([2, 3])),
    ],
    ids=["memory", "pendulum", "multidiscrete"],
)
def test_all_kinds_of_actions_and_observations_are_the_same_in_workers(creator):
    here, there = (run(creator, way) for way in WAYS)
    assert sum(len(infos) for infos in here.infos) > 0 and same(here, there)


def test_atari_is_the_same_in_workers():
    creator = make_creator("beam_rider")
    assert same(run(creator, WAYS[0], steps=15), run(creator, WAYS[1], steps=15))


@pytest.mark.parametrize("way", WAYS)
def test_the_step_after_an_end_is_a_dummy(way):
    record = run(toys.three, way, steps=9, num_envs=4)
    actions = actions_for(SimpleNamespace(num_envs=4, single_action_space=spaces.Discrete(2)), 9)
    for env in range(4):
        a = actions[:, env]
        # reset, 3 steps, terminated; dummy: new episode's first observation; 3 steps, truncated; dummy
        assert [obs[env, 0] for obs in record.obs] == [0, 1, 2, 3, 10, 11, 12, 13, 20]
        expected = [0, 1 + a[0], 1 + a[1], 1 + a[2], 0, 1 + a[4], 1 + a[5], 1 + a[6], 0]
        assert [r[env] for r in record.rewards] == expected
        assert [bool(t[env]) for t in record.terminals] == [t == 3 for t in range(9)]
        assert [bool(t[env]) for t in record.truncations] == [t == 7 for t in range(9)]
    assert [len(infos) for infos in record.infos] == [0, 0, 0, 4, 0, 0, 0, 4, 0]
    returns = [info["episode_return"] for info in record.infos[3]]
    assert returns == (3 + actions[:3].sum(axis=0)).tolist()  # in the order of the envs


@pytest.mark.parametrize("way", WAYS)
def test_every_env_has_its_own_seed(way):
    vec = make(toys.seeds, way[0], 4, way[1], way[2], seed=70)
    try:
        for seed, first in ((None, 0), (70, 0), (100, 8), (np.int64(5), 0), ((5, 64), 4)):
            vec.reset(seed, first)
            shown = np.concatenate([vec.recv(g).obs for g in range(len(vec.groups))]) @ [1000, 1]
            assert shown.tolist() == seeds.env_seeds(70 if seed is None else seed, first, 4)
    finally:
        vec.close()


def test_observations_are_views_of_shared_memory_until_the_next_send():
    vec = make(toys.three, "multiprocessing", 4, 2, 2)
    try:
        vec.reset(0)
        first = vec.recv(1)
        assert first.obs.tolist() == [[0], [0]]
        assert not first.obs.flags.owndata and not first.rewards.flags.owndata
        assert vec.recv(0).obs.tolist() == [[0], [0]]
        vec.send(1, np.zeros(2, int))
        vec.recv(1)
        assert first.obs.tolist() == [[1], [1]]
    finally:
        vec.close()


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"backend": "threads"}, "serial, multiprocessing, ray or ale"),
        ({"num_envs": 0}, "1 or more"),
        ({"num_workers": 3}, "choose a divisor"),
        ({"num_workers": 2, "env_batch_size": 3}, "must divide"),
        ({"num_workers": 2, "env_batch_size": 1}, "multiple of num_envs / num_workers = 2"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(kwargs, says):
    with pytest.raises(UserError) as refused:
        make(toys.three, **{"num_envs": 4, **kwargs})
    assert says in str(refused.value)


def test_workers_are_forked_whatever_the_global_start_method_is():
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        unpicklable = lambda: toys.three()  # noqa: E731  spawning would have to pickle it
        assert same(run(unpicklable, WAYS[1]), run(unpicklable, WAYS[0]))
    finally:
        multiprocessing.set_start_method(method, force=True)
