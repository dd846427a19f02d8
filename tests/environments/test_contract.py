"""The contract of VecEnv, kept by every backend: the same laws for all."""

import ast
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pufferlib_kcore import environments
from pufferlib_kcore.environments import make_creator
from pufferlib_kcore.environments.vector import make

from .rolling import actions_for, roll, same

STEPS = 60
STICKY = dict(repeat_action_probability=0.25, max_num_frames_per_episode=96)  # episodes of 24 steps
CREATORS = {"ale": make_creator("breakout", **STICKY), "other": make_creator("cartpole")}
WAYS = {  # workers, and envs in a group: the first one has two groups, where there can be two
    "serial": [(None, None)],
    "multiprocessing": [(2, 2), (1, None), (4, 2), (4, 1)],
    "ale": [(2, 2), (1, 4), (4, 4), (4, 1)],
    "ray": [(2, 2)],
}
BACKENDS = [pytest.param(name, marks=[pytest.mark.slow] * (name == "ray")) for name in WAYS]


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return request.param


@pytest.fixture
def start(backend):
    """Makes a vectorization on the backend, closed at the end of the test."""
    made = []

    def build(num_envs=4, way=0, seed=0):
        creator = CREATORS.get(backend, CREATORS["other"])
        sizes = WAYS[backend][way] if num_envs == 4 else (None, None)
        made.append(make(creator, backend, num_envs, *sizes, seed))
        return made[-1]

    yield build
    for vec in made:
        vec.close()


def test_seed_and_actions_decide_all_numbers_and_groups_and_workers_none(start, backend):
    records = [roll(start(way=way), STEPS, 11) for way in range(len(WAYS[backend]))]
    assert sum(len(infos) for infos in records[0].infos) > 0
    assert all(same(records[0], record) for record in records[1:])
    assert not same(records[0], roll(start(), STEPS, 12))
    if backend != "ale":  # whose pictures are others
        with closing(make(CREATORS["other"], "serial", 4)) as vec:
            assert same(records[0], roll(vec, STEPS, 11))


def test_run_seeds_share_no_environment_and_a_resumed_run_plays_new_episodes(start):
    vec = start()
    actions = np.repeat(actions_for(vec, STEPS)[:, :1], 4, 1)  # the same in all
    played = [np.array(roll(vec, STEPS, seed, actions).obs) for seed in (1, 2, (1, 64), (2, 64))]
    streams = np.concatenate(played, axis=1).swapaxes(0, 1)
    assert len({stream.tobytes() for stream in streams}) == 16


def test_a_part_plays_what_its_environments_play_in_the_whole(start):
    whole, part = start(), start(2)
    actions = actions_for(whole, STEPS)
    every, own = roll(whole, STEPS, (3, 1), actions), roll(part, STEPS, (3, 1), actions[:, 2:], first=2)
    for name in ("obs", "rewards", "terminals", "truncations"):
        assert np.array_equal(np.array(getattr(every, name))[:, 2:], getattr(own, name))


def test_without_a_seed_it_takes_the_one_it_was_made_with(start):
    assert same(roll(start(seed=70), STEPS, None), roll(start(), STEPS, np.int64(70)))


def test_spaces_and_dtypes_are_said_and_kept(start):
    vec = start()
    assert vec.num_envs == 4 and np.concatenate(vec.groups).tolist() == [0, 1, 2, 3]
    assert vec.driver_env.single_observation_space == vec.single_observation_space
    record = roll(vec, 2, 0)
    assert all(vec.single_observation_space.contains(obs) for obs in record.obs[1])
    assert record.obs[1].dtype == vec.single_observation_space.dtype
    assert [record.rewards[1].dtype, record.terminals[1].dtype, record.truncations[1].dtype] == [
        np.float32,
        bool,
        bool,
    ]


def test_an_info_comes_with_each_end_in_the_order_of_the_envs(start):
    record = roll(start(), STEPS, 5)
    ended = np.array(record.terminals) | np.array(record.truncations)
    rewards, begins, expected = np.array(record.rewards), np.zeros(4, int), [[] for _ in range(STEPS)]
    for t, env in np.argwhere(ended):  # by step, then by env; the step after an end is none of an episode
        start_of = begins[env]
        expected[t].append((rewards[start_of : t + 1, env].sum(), t - start_of))
        begins[env] = t + 1
    counts = ("episode_return", "episode_length")
    assert [[tuple(info[key] for key in counts) for info in infos] for infos in record.infos] == expected
    assert ended.sum() >= 4


def test_the_step_after_an_end_is_a_dummy(start):
    vec = start()
    actions = actions_for(vec, STEPS)
    record = roll(vec, STEPS, 5, actions)
    ended = np.array(record.terminals) | np.array(record.truncations)
    after = np.roll(ended, 1, axis=0)
    after[0] = False
    assert after.any() and not np.array(record.rewards)[after].any() and not ended[after].any()
    other = np.where(ended, (actions + 1) % vec.single_action_space.n, actions)  # nothing comes of it
    assert same(record, roll(vec, STEPS, 5, other))


def test_groups_may_be_held_and_reset_in_the_middle(start):
    vec = start()
    if len(vec.groups) == 1:
        pytest.skip("it has one group")
    first = roll(vec, STEPS, 5)  # leaves both groups under way
    assert same(first, roll(vec, STEPS, 5))
    vec.reset(5)
    held = vec.recv(0)
    before, actions = held.obs.copy(), actions_for(vec, STEPS)
    for t in range(STEPS):  # group 1 runs while 0 is held
        assert np.array_equal(vec.recv(1).obs, first.obs[t][2:])
        vec.send(1, actions[t][2:])
    assert np.array_equal(held.obs, before)
    assert same(first, roll(vec, STEPS, 5))  # one held, one under way


def test_calls_out_of_turn_and_wrong_shapes_are_named(start):
    vec = start()
    size = len(vec.groups[0])
    with pytest.raises(RuntimeError, match="reset comes next"):
        vec.recv(0)
    vec.reset(0)
    with pytest.raises(RuntimeError, match="recv comes next"):
        vec.send(0, np.zeros(size))
    vec.recv(0)
    with pytest.raises(RuntimeError, match="send comes next"):
        vec.recv(0)
    for shape in ((size, 2), (size + 1,)):
        with pytest.raises(ValueError, match="expected"):
            vec.send(0, np.zeros(shape, int))
    vec.send(0, np.zeros(size, int))
    vec.close()
    vec.close()
    with pytest.raises(RuntimeError, match="closed"):
        vec.recv(0)


def test_the_contract_knows_no_backend_and_only_one_folder_knows_pufferlib():
    folder = Path(environments.__file__).parent

    def imports(path):
        nodes = [node for node in ast.walk(ast.parse(path.read_text()))]
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        return names + [node.module for node in nodes if isinstance(node, ast.ImportFrom)]

    knows = {
        path for path in folder.rglob("*.py") if any(n.split(".")[0] == "pufferlib" for n in imports(path))
    }
    assert knows and {path.parent.name for path in knows} == {"puffer2"}
    assert not [name for name in imports(folder / "contract.py") if name.startswith("pufferlib")]
    backends = [*(folder / "puffer2").glob("*.py"), folder / "ale_vector.py"]
    assert not [path for path in backends if f"{environments.__name__}.vector" in imports(path)]
