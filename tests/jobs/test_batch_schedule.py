"""The schedule of a batch: what is done stays, collapses go first, a failure is its own run's alone."""

import pytest
from batches import Launcher, begin, plant, reach

from pufferlib_kcore.jobs.batch import grid as grids
from pufferlib_kcore.jobs.batch.local import Command, Outcome
from pufferlib_kcore.jobs.batch.request import BatchRequest
from pufferlib_kcore.jobs.batch.schedule import told, why, work
from pufferlib_kcore.jobs.batch.usage import recalled, remember

ON = ("--train.total-timesteps", "2048")
COLLAPSE = "collapse_t1_epoch_4_base_0.7_0.5_1.0_0.8"
BASE, ABLATED = "t1_epoch_4_base_0.7_0.5_1.0_0.8", "t1_epoch_4_ablationsrandom_0.7_0.5_1.0_0.8"
ORIGINAL = "t1_epoch_4_original"


@pytest.fixture
def tasks(tmp_path):
    """An original, a collapsed run and a control, none of them begun."""
    plant(tmp_path)
    (tmp_path / "logs").mkdir()
    kinds = ("original", "collapsed", "ablated")
    asked = BatchRequest(exp_name=("t1",), epoch_idx=(4,), kinds=kinds, train_dir=str(tmp_path), passed=ON)
    return grids.grid(asked, print)


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


def worked(tasks, logs, plan=()):
    """-> the names that were run, collapses and trainings;  why which failed;  the lines"""
    launcher, lines = Launcher(tasks, plan), []
    failed = work(tasks, launcher, logs, lines.append)
    return launcher.ran, failed, lines


def test_a_setting_is_collapsed_once_before_anything_is_trained(tasks, logs):
    ran, failed, lines = worked(tasks, logs)
    assert ran == [[COLLAPSE], [ORIGINAL, BASE, ABLATED]] and failed == {}
    assert lines[0] == "3 runs: 0 done before, 3 to do"
    assert lines[1:] == [f"{name}: done (3 s)" for name in (COLLAPSE, ORIGINAL, BASE, ABLATED)]
    assert all(task.is_done() for task in tasks)


def test_what_is_done_is_not_run_and_what_is_begun_is_not_collapsed_again(tasks, logs):
    original, base, ablated = tasks
    begin(original, 8), begin(base, 6)
    ran, failed, lines = worked(tasks, logs)
    assert ran == [[COLLAPSE], [BASE, ABLATED]] and lines[0] == "3 runs: 1 done before, 2 to do"
    ran, failed, lines = worked(tasks, logs)
    assert ran == [[], []] and failed == {} and lines == ["3 runs: 3 done before, 0 to do"]


def test_all_that_begin_from_a_collapse_are_begin(tasks, logs):
    for task in tasks[1:]:
        begin(task, 6)
    assert worked(tasks, logs)[0] == [[], [ORIGINAL, BASE, ABLATED]]


def test_a_collapse_that_fails_fails_what_begins_from_it_and_no_other(tasks, logs):
    (logs / f"{COLLAPSE}.log").write_text("so far\ndemo.py: not enough memory\n")
    ran, failed, lines = worked(tasks, logs, {COLLAPSE: Outcome(1)})
    assert ran == [[COLLAPSE], [ORIGINAL]]
    assert failed == dict.fromkeys((BASE, ABLATED), "its collapse failed: demo.py: not enough memory")
    assert f"{COLLAPSE}: failed: demo.py: not enough memory (0 s)" in lines


def test_one_failure_does_not_stop_the_others(tasks, logs):
    (logs / f"{ORIGINAL}.log").write_text("demo.py: cannot make it\n")
    ran, failed, _ = worked(tasks, logs, {ORIGINAL: Outcome(2)})
    assert ran[1] == [ORIGINAL, BASE, ABLATED] and failed == {ORIGINAL: "demo.py: cannot make it"}
    assert [task.is_done() for task in tasks] == [False, True, True]


def test_a_run_that_says_it_is_done_and_is_not_has_failed(tasks, logs):
    (logs / f"{BASE}.log").write_text("stopped; saved\n")
    assert worked(tasks, logs, {BASE: 6})[1] == {BASE: "stopped; saved"}


def test_a_half_done_batch_is_gone_on_with_and_its_time_adds_up(tasks, logs):
    killed = Outcome(-9, seconds=5.0, peak_bytes=30)
    original, base, _ = tasks
    begin(original, 5), begin(base, 6)
    assert worked(tasks, logs, {ORIGINAL: killed, BASE: killed})[1] == dict.fromkeys(
        (ORIGINAL, BASE), "ended by signal 9"
    )
    for path in base.folder.checkpoint_folder.iterdir():  # and somebody deletes one
        path.unlink()
    ran, failed, lines = worked(tasks, logs)
    assert ran == [[COLLAPSE], [ORIGINAL, BASE]] and failed == {}
    used = {name: recalled(logs / f"{name}.json") for name in (ORIGINAL, BASE, ABLATED)}
    assert (used[ORIGINAL]["seconds"], used[ORIGINAL]["peak_bytes"]) == (8.0, 30)
    assert used[BASE]["seconds"] == used[ABLATED]["seconds"] == 3.0  # the other attempt was another run's
    assert not (logs / f"{COLLAPSE}.json").exists()


def test_each_command_is_demo_py_with_a_log_of_its_own(tasks, logs):
    seen = []

    def launch(commands, remember):
        seen.extend(commands)
        return iter(())

    work(tasks, launch, logs, lambda line: None)
    for command in seen:
        assert command.argv[1].endswith("demo.py") and command.argv[2] == "--mode"
        assert command.log == (logs / f"{command.name}.log").absolute()
    assert [command.argv[3] for command in seen] == ["collapse", "train", "train", "train"]


@pytest.mark.parametrize(
    "outcome, log, said",
    [
        (Outcome(1, message="RayTaskError: a node was lost"), "words\n", "RayTaskError: a node was lost"),
        (Outcome(-15), "words\n", "ended by signal 15"),
        (Outcome(2), "epoch=1\n\ndemo.py: no space\n\n", "demo.py: no space"),
        (Outcome(1), "x" * 1000, "x" * 300),
        (Outcome(3), "", "exit status 3"),
        (Outcome(3), None, "exit status 3"),
    ],
)
def test_why_a_command_failed(outcome, log, said, tmp_path):
    command = Command("c", ("program",), tmp_path / "c.log")
    if log is not None:
        command.log.write_text(log)
    assert why(command, outcome) == said
    assert told(command, outcome) == f"c: failed: {said} (0 s)"


def test_what_was_used_is_remembered_where_it_can_be_read(tmp_path):
    command = Command("c", ("program",), tmp_path / "c.log")
    assert recalled(tmp_path / "c.json") == {}
    (tmp_path / "c.json").write_text("damaged")
    assert recalled(tmp_path / "c.json") == {}
    remember(command, Outcome(0, seconds=2.0, peak_bytes=7, node="n"))
    assert recalled(tmp_path / "c.json") == {
        **{"status": 0, "seconds": 2.0, "peak_bytes": 7, "message": "", "node": "n"}
    }


def test_a_done_run_of_a_later_epoch_is_done(tasks):
    begin(tasks[0], 9)
    assert tasks[0].is_done() and tasks[0].is_begun and not tasks[1].is_begun
    reach(tasks[1].folder, 7)
    assert tasks[1].is_begun and not tasks[1].is_done()
