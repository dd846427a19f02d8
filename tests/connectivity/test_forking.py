"""Forking experiments: the trunk is not disturbed, children are what their strategy says, all goes on."""

import json

import numpy as np
import pytest
import small_forks
import torch
from test_learners import same

from pufferlib_kcore.connectivity import replay
from pufferlib_kcore.connectivity.actors import read
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import forking
from pufferlib_kcore.store import forks
from pufferlib_kcore.store.forks import ForkFolder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One that ran through, with all that it leaves, its forks' states too."""
    p = small_forks.plan(algo="DDPG")
    f = small_forks.folder(tmp_path_factory.mktemp("forks"), p)
    tasks = small_forks.run_here(f, p)
    return f, p, tasks


@pytest.mark.parametrize("algo", ["SAC", "DDPG"])
def test_the_trunk_is_bitwise_what_it_is_without_forks_and_looks(algo, tmp_path):
    ends = []
    for name, more in {
        "a": {},
        "b": {"fork_points": "0.9"},
        "c": {"eval_freq": 10, "eval_episodes": 1},
    }.items():
        p = small_forks.plan(algo=algo, **more)
        f = small_forks.folder(tmp_path / name, p)
        forking.trunk(f, p, 0, 0)
        ends.append(read(f.final_path))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])


def test_every_step_is_done_once_and_files_have_their_names(done):
    f, p, tasks = done
    assert tasks[0] == ("trunk", 0, 0)
    assert sorted(tasks[1:]) == sorted(
        [("child", i, c) for i in (0, 1) for c in (1, 2)] + [("line", i, 0) for i in (0, 1)]
    )
    names = {path.name for path in f.weights.iterdir()}
    assert {"fork1_0.pt", "fork2_0.pt", "fork1_1.pt", "fork2_1.pt", "final.pt"} <= names
    assert {path.name for path in (f.results / "forks").iterdir()} == {
        "instability_0.json",
        "instability_1.json",
    }
    assert [e["step"] for e in f.evaluations()] == [0, 80, 160, 240]
    assert f.results.parts[-4:-1] == ("base", "InvertedDoublePendulum-v5", "DDPG")
    assert f.results.name.startswith("seed_5_") and f.weights.parts[-5] == "model_weights"
    forks.write_json(f.config_path, {})
    assert ForkFolder.open(f.results).weights == f.weights


def test_a_fork_says_what_was_published_and_what_is_asked_beyond(done):
    f, p, _ = done
    one, other = f.forks()
    assert one["fork_id"] == 0 and one["fork_point"] == 0.1 and one["of_initialisation"]
    assert other["step"] == 120 and not other["of_initialisation"]
    for fork in (one, other):
        line = fork["interpolation"]
        assert [place["alpha"] for place in line] == [0, 0.5, 1]
        assert fork["fork1_reward"] == line[0]["mean_reward"]
        assert fork["fork2_reward"] == line[-1]["mean_reward"]
        lowest = min(place["mean_reward"] for place in line)
        assert fork["instability"] == pytest.approx(
            (fork["fork1_reward"] + fork["fork2_reward"]) / 2 - lowest
        )
        assert isinstance(fork["is_stable"], bool) and fork["episodes"] == 3
        assert fork["barrier"]["value"] <= fork["mean_barrier"]["value"] + 1e-9
    json.dumps(one, allow_nan=False)


def test_weights_are_plain_tensors(done):
    f, p, _ = done
    held = torch.load(f.child_path(1, 2), weights_only=True)
    assert held["kind"] == "fork 1, child 2" and held["steps"] == 240 and held["seed"] == 5
    assert all(isinstance(x, torch.Tensor) for x in held["actor"].values())


def test_children_differ_from_each_other_and_from_the_trunk_and_come_again_the_same(done):
    f, p, _ = done
    kids = [read(f.child_path(1, child)) for child in (1, 2)]
    trunk = read(f.final_path)
    assert not same(*kids) and not same(kids[0], trunk) and not same(kids[1], trunk)
    f.child_path(1, 2).unlink()
    forking.one_child(f, p, 1, 2)
    assert same(read(f.child_path(1, 2)), kids[1])


def test_children_of_another_seed_are_others(done):
    f, p, _ = done
    from pufferlib_kcore.environments import seeds

    own = {
        seeds.env_seed((seed, forking.CHILD, fork), c) for seed in (5, 6) for fork in (0, 1) for c in (1, 2)
    }
    assert len(own) == 8


@pytest.mark.parametrize("strategy, sizes", [("copy", (120, 120)), ("fresh", (0, 0)), ("split", (60, 60))])
def test_children_begin_with_what_their_strategy_says(done, strategy, sizes):
    f, p, _ = done
    p = small_forks.plan(algo="DDPG", fork_buffer_strategy=strategy)
    models = [forking.put_up(f, p, 1, child, p.capacity()) for child in (1, 2)]
    assert tuple(m.replay_buffer.size() for m in models) == sizes
    state = read(f.state_path(1))
    trunk = forks.read_arrays(forking.buffer_path(f, 1))
    assert len(trunk["rewards"]) == 120
    for model in models:
        assert all(torch.equal(x, state["actor"][name]) for name, x in model.actor.state_dict().items())
    if strategy == "copy":
        np.testing.assert_array_equal(replay.held(models[0].replay_buffer)["rewards"], trunk["rewards"])


def test_both_add_to_a_shared_buffer_and_the_trunk_never_sees_it(tmp_path):
    p = small_forks.plan(algo="DDPG", fork_buffer_strategy="shared")
    f = small_forks.folder(tmp_path, p)
    forking.trunk(f, p, 0, 0)
    before = forks.read_arrays(forking.buffer_path(f, 1))
    held = []
    keep = forking.keep

    def seen(folder, plan, model, fork, child):
        held.append(model.replay_buffer)
        return keep(folder, plan, model, fork, child)

    forking.keep = seen
    try:
        forking.both_children(f, p, 1, 0)
    finally:
        forking.keep = keep
    assert held[0] is held[1] and held[0].size() == 120 + 2 * 120
    np.testing.assert_array_equal(forks.read_arrays(forking.buffer_path(f, 1))["rewards"], before["rewards"])
    assert not same(*(read(f.child_path(1, c)) for c in (1, 2)))
    first = read(f.child_path(1, 1))
    forking.both_children(f, p, 1, 0)
    assert same(read(f.child_path(1, 1)), first)  # each has its own random numbers


def test_fresh_children_wait_for_a_batch(tmp_path):
    p = small_forks.plan(algo="DDPG", fork_buffer_strategy="fresh", batch_size=50)
    f = small_forks.folder(tmp_path, p)
    forking.trunk(f, p, 0, 0)
    from pufferlib_kcore.connectivity import learners

    model, state = forking.put_up(f, p, 1, 1, p.capacity()), read(f.state_path(1))
    moved = []
    for step in learners.turns(model, 190):
        moved.append(
            (step, any(not torch.equal(x, state["actor"][n]) for n, x in model.actor.state_dict().items()))
        )
    assert min(step for step, m in moved if m) == 120 + 50


def test_what_was_killed_goes_on_where_it_was(tmp_path):
    p = small_forks.plan(algo="DDPG")
    f = small_forks.folder(tmp_path, p)
    small_forks.run_here(f, p)
    trunk, kid = read(f.final_path), read(f.child_path(0, 1))
    f.final_path.unlink(), f.child_path(1, 2).unlink(), f.fork_path(1).unlink()
    said = forking.trunk(f, p, 0, 0)
    assert "gone on from step 120" in said and read(f.final_path)["steps"] == trunk["steps"]
    assert small_forks.run_here(f, p) == [("child", 1, 2), ("line", 1, 0)]
    assert same(read(f.child_path(0, 1)), kid)


def test_the_same_settings_take_up_what_was_stopped_and_nothing_else(tmp_path):
    f, p, lock = forking.taken(small_forks.plan(), tmp_path, anew=False)
    with lock:
        other, _, its = forking.taken(small_forks.plan(algo="DDPG"), tmp_path, anew=False)
        assert other.results != f.results
    again, _, lock = forking.taken(small_forks.plan(jobs=2), tmp_path, anew=False)  # free to differ
    assert again.results == f.results
    with lock, pytest.raises(UserError, match="stands already"):
        forking.taken(small_forks.plan(), tmp_path, anew=True)  # within one second
    forks.write_json(f.all_path, [])  # it is done, and another one is asked for
    with pytest.raises(UserError, match="stands already"):
        forking.taken(small_forks.plan(), tmp_path, anew=False)


def test_a_seed_that_was_drawn_is_taken_up_too(tmp_path):
    unseeded = small_forks.plan()
    unseeded = type(unseeded)(**{**unseeded.plain(), "seed": None})
    f, p, lock = forking.taken(unseeded, tmp_path, anew=False)
    with lock:
        pass
    again, q, lock = forking.taken(unseeded, tmp_path, anew=False)
    assert again.results == f.results and q.seed == p.seed is not None
    with lock:
        pass


def test_all_of_it_in_processes_of_its_own(tmp_path):
    p = small_forks.plan(algo="DDPG", fork_points="0.5", jobs=2)
    found = forking.fork(p, tmp_path)
    assert len(found.forks) == 1 and "child 1" in str(found)
    assert {path.name for path in found.folder.weights.iterdir()} == {"fork1_0.pt", "fork2_0.pt", "final.pt"}
    here = small_forks.folder(tmp_path / "here", p)
    small_forks.run_here(here, p)
    assert same(read(found.folder.final_path), read(here.final_path))
    assert same(read(found.folder.child_path(0, 1)), read(here.child_path(0, 1)))
    assert here.forks()[0] == found.forks[0]


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda path: path.write_text(path.read_text()[:50]), "cut short or damaged"),
        (lambda path: path.write_text("[]"), "holds a list"),
        (lambda path: path.write_text('{"fork_id": 0}'), "no fork's result"),
    ],
)
def test_a_folder_that_is_half_written_is_named(done, tmp_path, spoil, said):
    import shutil

    f, _, _ = done
    copy = tmp_path / "results"
    shutil.copytree(f.results, copy)
    spoil(copy / "forks" / "instability_0.json")
    with pytest.raises(UserError, match="instability_0.json") as error:
        ForkFolder(copy, copy).forks()
    assert said in str(error.value)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ForkFolder.open(tmp_path / "none")
    with pytest.raises(UserError, match="holds no experiment"):
        ForkFolder.open(tmp_path)
