"""Vectorization: the same numbers on every backend, PufferLib's dummy step, seeds, groups in any rhythm."""

import math
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from pufferlib_kcore.environments import make_creator, ray_cluster, seeds
from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.environments.vector import make
from pufferlib_kcore.errors import UserError

from . import toys

with quiet():
    import pufferlib.vector

WAYS = [
    ("serial", None, None),
    ("multiprocessing", 1, None),
    ("multiprocessing", 2, 2),
    ("multiprocessing", 4, 2),
    ("multiprocessing", 4, 1),
]


def actions_for(vec, steps):
    rng = np.random.default_rng(0)
    space = vec.single_action_space
    if isinstance(space, spaces.Discrete):
        return rng.integers(0, space.n, (steps, vec.num_envs))
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec, (steps, vec.num_envs, len(space.nvec)))
    return rng.normal(size=(steps, vec.num_envs, *space.shape)).astype(np.float32)


def roll(vec, steps, seed):
    """Everything that all envs answered, by step and env."""
    record = SimpleNamespace(obs=[], rewards=[], terminals=[], truncations=[], infos=[])
    actions = actions_for(vec, steps)
    vec.reset(seed)
    for t in range(steps):
        batches = []
        for group, ids in enumerate(vec.groups):
            batch = vec.recv(group)
            assert np.array_equal(batch.env_ids, ids)
            batches.append((batch.obs.copy(), *(np.copy(a) for a in batch[1:4]), batch.infos))
            vec.send(group, actions[t][ids])
        for name, parts in zip(vars(record), zip(*batches, strict=True), strict=True):
            whole = [info for part in parts for info in part] if name == "infos" else np.concatenate(parts)
            getattr(record, name).append(whole)
    return record


def same(a, b):
    arrays = all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("obs", "rewards", "terminals", "truncations")
    )
    return arrays and a.infos == b.infos


def run(creator, way, steps=40, seed=11, num_envs=4):
    vec = make(creator, way[0], num_envs, way[1], way[2])
    try:
        return roll(vec, steps, seed)
    finally:
        vec.close()


@pytest.mark.parametrize(
    "creator",
    [
        make_creator("cartpole"),
        make_creator("memory_cue", delay=1),
        make_creator("pendulum", max_episode_steps=7),
        toys.Maker(toys.Mixed, spaces.MultiDiscrete([2, 3])),
    ],
    ids=["cartpole", "memory", "pendulum", "multidiscrete"],
)
def test_seed_and_actions_decide_all_numbers(creator):
    records = [run(creator, way) for way in WAYS]
    assert sum(len(infos) for infos in records[0].infos) > 0
    for record in records[1:]:
        assert same(records[0], record)
    assert not same(records[0], run(creator, WAYS[1], seed=12)) or creator.__class__ is toys.Maker


def test_atari_is_the_same_in_workers():
    creator = make_creator("beam_rider")
    assert same(run(creator, WAYS[0], steps=15), run(creator, WAYS[2], steps=15))


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


@pytest.mark.slow
def test_ray_answers_the_same_and_reports_what_went_wrong():
    import ray

    from pufferlib_kcore.environments.vector import WorkerDied

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)  # half a CPU for each worker
    creator = make_creator("cartpole")
    try:
        vec = make(creator, "ray", 4, 2, 2, seed=11)
        assert same(roll(vec, 40, None), run(creator, WAYS[0], seed=11))  # each env its own seed, too
        assert same(roll(vec, 20, 5), run(creator, WAYS[0], steps=20, seed=5))  # with steps under way
        vec.reset(1)
        vec.recv(1)
        vec.send(1, np.full(2, 9))
        with pytest.raises(WorkerDied, match=r"AssertionError: 9 .* invalid"):
            vec.recv(1)
        vec.close()
        vec.close()
        assert ray.is_initialized()  # it was here before
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_workers_that_ray_has_no_room_for_or_cannot_make_are_one_sentence(monkeypatch):
    import ray

    class Other:
        """Somebody else's actor."""

        def here(self):
            return True

    monkeypatch.setattr(ray_cluster, "PATIENCE", 3)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        other = ray.remote(num_cpus=1)(Other).remote()
        ray.get(other.here.remote())
        with pytest.raises(UserError, match=r"2 of 2 env workers .* has 1 CPUs on 1 nodes; free some"):
            make(make_creator("cartpole"), "ray", 2, 2)
        ray.kill(other)
        monkeypatch.setattr(ray_cluster, "PATIENCE", 120)
        with pytest.raises(UserError, match=r"could not start \(ModuleNotFoundError: .*environments"):
            make(toys.three, "ray", 2, 2)  # the tests' own folder is no package that Ray's workers know
    finally:
        ray.shutdown()


def test_every_worker_gets_a_part_of_a_small_cluster():
    for cpus in range(1, 9):
        for workers in range(1, 40):
            part = ray_cluster.share(workers, cpus)
            assert 0 < part <= 1 and cpus * math.floor(1 / part) >= workers
            assert part == 1 or cpus < workers
    assert ray_cluster.share(3, 0) == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1"])
def test_no_cluster_at_the_address_is_one_sentence(monkeypatch, address):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        UserError, match=rf"^no Ray cluster answers at RAY_ADDRESS={address} \(.*\): start one"
    ):
        make(toys.three, "ray", 2)


def test_a_group_may_be_held_while_others_go_on():
    straight = run(make_creator("cartpole"), WAYS[0], steps=30)
    vec = make(make_creator("cartpole"), "multiprocessing", 4, 4, 1)
    try:
        actions = actions_for(vec, 30)
        vec.reset(11)
        next_step = [0, 0, 0, 0]
        held = vec.recv(0).obs.copy()
        for t in range(30):  # 1, 2 and 3 run to the end, in different orders, while 0 is held
            for group in ((1, 2, 3), (3, 1, 2))[t % 2]:
                assert np.array_equal(vec.recv(group).obs[0], straight.obs[t][group])
                vec.send(group, actions[t][[group]])
                next_step[group] += 1
        assert np.array_equal(held[0], straight.obs[0][0])
        vec.send(0, actions[0][[0]])
        for t in range(1, 30):
            assert np.array_equal(vec.recv(0).obs[0], straight.obs[t][0])
            vec.send(0, actions[t][[0]])
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


def test_reset_in_the_middle_starts_over():
    vec = make(make_creator("cartpole"), "multiprocessing", 4, 2, 2)
    try:
        first = roll(vec, 20, 5)  # leaves both groups under way
        assert same(first, roll(vec, 20, 5))
        vec.reset(5)
        vec.recv(0)  # one held, one under way
        assert same(first, roll(vec, 20, 5))
    finally:
        vec.close()


@pytest.mark.parametrize("way", WAYS[:3:2])
def test_calls_out_of_turn_and_wrong_shapes_are_named(way):
    vec = make(toys.three, way[0], 4, way[1], way[2])
    try:
        with pytest.raises(RuntimeError, match="reset comes next"):
            vec.recv(0)
        vec.reset(0)
        with pytest.raises(RuntimeError, match="recv comes next"):
            vec.send(0, np.zeros(len(vec.groups[0])))
        vec.recv(0)
        with pytest.raises(RuntimeError, match="send comes next"):
            vec.recv(0)
        with pytest.raises(ValueError, match="expected"):
            vec.send(0, np.zeros((len(vec.groups[0]), 2), int))
        vec.send(0, np.zeros(len(vec.groups[0]), int))
    finally:
        vec.close()
    with pytest.raises(RuntimeError, match="closed"):
        vec.recv(0)


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


def test_workers_are_forked_whatever_the_global_start_method_and_pufferlib_is_left_as_it_was():
    before = (pufferlib.vector._worker_process, multiprocessing.Process)
    method = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        unpicklable = lambda: toys.three()  # noqa: E731  spawning would have to pickle it
        assert same(run(unpicklable, WAYS[2]), run(unpicklable, WAYS[0]))
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert (pufferlib.vector._worker_process, multiprocessing.Process) == before
