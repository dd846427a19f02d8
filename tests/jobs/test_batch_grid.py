"""The grid of a batch: every run that is asked for once, and a sentence for each that cannot be."""

import json
from dataclasses import replace
from itertools import product

import pytest
from batches import SMALL, begin, plant, reach

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch import grid as grids
from pufferlib_kcore.jobs.batch.request import THRESHOLDS, BatchRequest
from pufferlib_kcore.store import MettaFolder

ALL = ("original", "collapsed", "ablated", "scratch", "scratch-full")
ON = ("--train.total-timesteps", "2048")


@pytest.fixture
def root(tmp_path):
    plant(tmp_path)
    return tmp_path


def request(root, **more):
    return BatchRequest(
        **{"exp_name": ("t1",), "epoch_idx": (4,), "train_dir": str(root), "passed": ON, **more}
    )


def grid(*arguments, **more):
    """The tasks by name, and what was told."""
    told = []
    tasks = grids.grid(request(*arguments, **more), told.append)
    return {task.name: task for task in tasks}, told


def refusal(*arguments, **more):
    with pytest.raises(UserError) as error:
        grid(*arguments, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


def option(argv, name):
    return argv[argv.index(name) + 1]


def test_every_list_makes_the_grid_larger_and_the_original_is_in_it_once_a_seed(root):
    tasks, told = grid(
        root, epoch_idx=(2, 4), kinds=ALL, linear_thr=(0.3, 0.7), lstm_thr=(1.0, 0.9), seeds=(1, 2)
    )
    assert told == [] and len(tasks) == 2 * 2 * (1 + 4 * 4)
    for (kind, role), epoch, seed in product(
        {"collapsed": "base", "scratch": "scratch"}.items(), (2, 4), (1, 2)
    ):
        task = tasks[f"t1_epoch_{epoch}_{role}_0.3_0.5_0.9_0.8_seed{seed}"]
        assert (task.kind, task.epoch, task.seed, task.setting) == (kind, epoch, seed, (0.3, 0.5, 0.9, 0.8))
        assert option(task.argv, "--seed") == str(seed) and option(task.argv, "--collapse-epoch") == str(
            epoch
        )
        assert [option(task.argv, f"--collapse.{k}") for k in THRESHOLDS] == ["0.3", "0.5", "0.9", "0.8"]
    original = tasks["t1_epoch_2_original_seed2"]
    assert original.collapse == () and option(original.argv, "--control") == "original"
    assert "--collapse.linear" not in original.argv


def test_sizes_take_the_place_of_thresholds(root):
    tasks, _ = grid(root, target_params=(0.2, 0.05), linear_thr=(0.1, 0.2, 0.3))
    assert list(tasks) == ["t1_epoch_4_base_params0.2", "t1_epoch_4_base_params0.05"]
    argv = tasks["t1_epoch_4_base_params0.05"].argv
    assert (option(argv, "--collapse"), option(argv, "--collapse.target-params")) == ("auto", "0.05")


def test_the_nearest_epoch_and_a_cold_optimizer_are_told(root):
    MettaFolder(root / "t1").state_path(6).unlink()
    tasks, told = grid(root, epoch_idx=(50, 4))
    assert {task.epoch for task in tasks.values()} == {4, 6}
    first, second = told
    assert first == "t1: no checkpoint of epoch 50, the nearest is 6"
    assert second.startswith("t1: no t1__e6__") and second.endswith("the optimizer starts cold")


def test_kinds_of_one_setting_begin_from_one_collapse_the_original_from_none(root):
    tasks, _ = grid(root, kinds=ALL, seeds=(1, 2))
    assert len({task.collapse for task in tasks.values()}) == 2 and len(tasks) == 10
    assert {task.kind for task in tasks.values() if not task.collapse} == {"original"}


def test_overrides_are_judged_over_the_run_and_each_command_gets_those_that_it_uses(root):
    words = "--train.total-timesteps 4096 --train.num-envs 256 --vec serial --train.batch-size 2048"
    words += " --train.learning-rate 0.01 --env.max-episode-steps 9"
    tasks, _ = grid(root, passed=tuple(words.split()))  # fits the run's horizon of 8, not the default's 16
    (task,) = tasks.values()
    assert task.steps == 4096 and {"--train.learning-rate", "--train.num-envs", "--vec"} <= set(task.argv)
    assert not {"--train.learning-rate", "--train.total-timesteps", "0.01"} & set(task.collapse)
    assert {"--train.num-envs", "--env.max-episode-steps", "--vec", "serial"} <= set(task.collapse)
    assert "batch_size = 256 must be a multiple of" in refusal(root, passed=("--train.num-envs", "3"))


def test_a_run_that_says_nothing_of_itself_is_of_the_env_that_is_named(root):
    run = plant(root, "old")
    (run.path / "config.json").unlink()
    tasks, _ = grid(root, exp_name=("old",), env="cartpole", passed=(*SMALL, *ON))
    (task,) = tasks.values()
    assert option(task.argv, "--env") == option(task.collapse, "--env") == "cartpole"
    tasks, _ = grid(root, env="cartpole")
    assert all("--env" not in task.argv for task in tasks.values())


def test_what_cannot_be_run_is_refused(root):
    assert "no experiment 't2'" in refusal(root, exp_name=("t1", "t2"))
    assert "was trained on cartpole, not on --env pong" in refusal(root, env="pong")
    said = refusal(root, epoch_idx=(6,), passed=())
    assert said.startswith("nothing to do: t1 had taken 1,536 steps at epoch 6") and said.endswith(" 3072")
    assert refusal(root, epoch_idx=()) == "nothing to do: the grid is empty"


def test_a_run_that_is_there_is_gone_on_with_under_its_own_settings_alone(root):
    tasks, _ = grid(root, kinds=("original", "collapsed"))
    for task in tasks.values():
        begin(task, 8)
    again, _ = grid(root, kinds=("original", "collapsed"))
    assert again == tasks and all(task.is_done() for task in again.values())
    assert grid(root, passed=(*ON, "--train.num-workers", "1"))[0].keys() < tasks.keys()  # of the machine
    for words, name in (
        (("--train.total-timesteps", "1536"), "train.total_timesteps = 2048, and 1536"),
        ((*ON, "--train.learning-rate", "0.01"), "train.learning_rate"),
        ((*ON, "--env.reward-scale", "9"), "env.reward_scale"),
        ((*ON, "--collapse.calibrate", "9"), "collapse.calibrate"),
    ):
        assert f"was made with {name}" in refusal(root, passed=words)
    originals = request(root, kinds=("original",), passed=(*ON, "--collapse.calibrate", "9"))
    assert len(grids.grid(originals, print)) == 1  # which collapses nothing


def test_runs_of_earlier_batches_are_found_beside(root):
    tasks, _ = grid(root, kinds=("original", "collapsed"), seeds=(1, 2))
    for task in tasks.values():
        begin(task, 6)
    (
        plant(root, "t2"),
        plant(root, "t2_epoch_4_original"),
        plant(root, "t1_epoch_4_scratch_params0.2", epochs=()),
    )
    mine = [task for task in tasks.values() if task.seed == 1]
    found = grids.found_beside(mine, root)
    assert {task.name for task in found} == {task.name for task in tasks.values() if task.seed == 2}
    for task in found:
        asked = tasks[task.name]
        assert replace(task, argv=asked.argv, collapse=asked.collapse) == asked and not task.is_done()
        reach(task.folder, 8)
        assert task.is_done()


def test_the_request_that_is_kept_has_the_options_by_their_names(root):
    plain = json.loads(json.dumps(request(root, seeds=(1, 2), slurm={"nodes": "1"}).to_plain()))
    assert list(plain)[:3] == ["command", "passed", "exp_name"] and plain["seeds"] == [1, 2]
    assert plain["passed"] == list(ON) and plain["slurm"] == {"nodes": "1"} and plain["batch"] is None
