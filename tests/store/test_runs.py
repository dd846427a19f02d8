"""Laws of run folders: checkpoints are found by epoch, runs by name, and one process holds a run."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import names
from pufferlib_kcore.store.finding import find_run, newest_run, runs_below
from pufferlib_kcore.store.runs import CollapseFolder, Run, runs_in


def run_with(root, env="beam_rider", epochs=(), states=None, exp_id=None):
    run = Run.create(root, env, exp_id)
    for epoch in epochs:
        run.model_path(epoch).write_bytes(b"weights")
    for epoch in epochs if states is None else states:
        run.state_path(epoch).write_bytes(b"state")
    return run


def epochs_of(files):
    return [epoch for epoch, _ in files]


# --- making and opening -------------------------------------------------------------------------


def test_a_new_run_has_the_guides_name(tmp_path):
    run = Run.create(tmp_path / "experiments", "beam_rider")
    name = names.parse_run_folder(run.path.name)
    assert name and name.env == run.env == "beam_rider"
    assert run.exp_id == run.path.name and run.root == tmp_path / "experiments"
    assert run.model_path(50) == run.path / "model_000050.pt"
    assert run.state_path(50) == run.path / "model_000050.state.pt"
    assert Run.open(run.path) == run


def test_two_new_runs_never_share_a_folder(tmp_path):
    assert len({Run.create(tmp_path, "x").path for _ in range(50)}) == 50


def test_a_custom_name_stands_as_it_is(tmp_path):
    run = Run.create(tmp_path, "beam_rider", exp_id="my run-00000000")
    assert run.path.name == run.exp_id == "my run-00000000" and run.env == "beam_rider"
    assert Run.create(tmp_path, "beam_rider", run.exp_id) == run  # nothing saved yet: taken over
    run.model_path(1).write_bytes(b"weights")
    with pytest.raises(UserError, match="--resume"):
        Run.create(tmp_path, "beam_rider", run.exp_id)


@pytest.mark.parametrize("exp_id", ["", ".", "..", "a/b", "/a", ".hidden", "collapsed_model_thr_03_000051"])
def test_what_cannot_name_a_run_is_refused(tmp_path, exp_id):
    with pytest.raises(UserError, match="--exp-id"):
        Run.create(tmp_path, "beam_rider", exp_id)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make .*choose another folder"):
        Run.create(tmp_path / "file", "beam_rider")


def test_opening_what_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        Run.open(tmp_path)
    with pytest.raises(UserError, match="does not exist.*--mode train"):
        Run.open(tmp_path / "none")


# --- checkpoints --------------------------------------------------------------------------------


def test_checkpoints_are_sorted_and_nothing_else_counts(tmp_path):
    run = run_with(tmp_path, epochs=[1000000, 9, 51, 3])
    for name in (".model_000060.pt.0a1b2c3d.tmp", "model_000061_collapsed.pt", "model_62.pt", "log.out"):
        (run.path / name).write_bytes(b"x")
    (run.path / "model_000063.pt").mkdir()
    assert run.checkpoints() == [(epoch, run.model_path(epoch)) for epoch in (3, 9, 51, 1000000)]
    assert run.latest() == (1000000, run.model_path(1000000))


def test_nearest_is_the_least_distance_and_the_later_of_two(tmp_path):
    rng = random.Random(0)
    epochs = rng.sample(range(200), 30)
    run = run_with(tmp_path, epochs=epochs)
    for wanted in range(-5, 210):
        found, path = run.nearest(wanted)
        distances = [abs(epoch - wanted) for epoch in epochs]
        assert abs(found - wanted) == min(distances) and path == run.model_path(found)
        assert found == max(epoch for epoch in epochs if abs(epoch - wanted) == min(distances))
    assert run_with(tmp_path, epochs=[48, 51, 54]).nearest(50)[0] == 51
    assert run_with(tmp_path, epochs=[49, 51]).nearest(50)[0] == 51


def test_resuming_takes_the_newest_checkpoint_that_has_its_state(tmp_path):
    assert run_with(tmp_path, epochs=[3, 6, 9], states=[3, 6, 12]).latest(with_state=True)[0] == 6
    with pytest.raises(UserError, match="model_.*.state.pt.*train anew with .*--env beam_rider"):
        run_with(tmp_path, epochs=[3], states=[]).latest(with_state=True)


def test_a_run_without_checkpoints_says_how_to_make_one(tmp_path):
    run = Run.create(tmp_path, "beam_rider")
    for ask in (run.latest, lambda: run.nearest(50)):
        with pytest.raises(UserError, match=f"--mode train --env beam_rider --exp-id {run.exp_id}"):
            ask()


@pytest.mark.parametrize("interval", [1, 3, 7, 20])
def test_pruned_as_it_trains_a_run_keeps_the_states_that_a_collapse_or_a_resume_needs(tmp_path, interval):
    run = Run.create(tmp_path, "beam_rider")
    epochs = list(range(interval, 301, interval))
    for epoch in epochs:
        run.state_path(epoch).write_bytes(b"state")
        run.model_path(epoch).write_bytes(b"weights")
        run.prune_states(collapse_epochs=(50, 120))
    kept = {epochs[-2], epochs[-1], run.nearest(50)[0], run.nearest(120)[0]}
    assert set(epochs_of(run.states())) == kept
    assert epochs_of(run.checkpoints()) == epochs


def test_keep_state_all_keeps_all_and_other_words_are_refused(tmp_path):
    run = run_with(tmp_path, epochs=range(1, 9))
    assert run.prune_states("all") == [] and len(run.states()) == 8
    with pytest.raises(UserError, match="--train.keep-state is 'some', expected 'auto' or 'all'"):
        run.prune_states("some")
    dropped = run.prune_states(collapse_epochs=(2,))
    assert dropped == [run.state_path(epoch) for epoch in (1, 3, 4, 5, 6)]


# --- collapses and nested runs ------------------------------------------------------------------


def test_a_resumed_run_nests_below_its_collapse_and_knows_its_path(tmp_path):
    root = tmp_path / "experiments"
    run = run_with(root, epochs=[51])
    folder = run.collapse_folder(0.3, 51)
    assert folder.path == run.path / "collapsed_model_thr_03_000051" and not folder.path.exists()
    assert (folder.epoch, folder.thresholds, folder.source) == (51, 0.3, run)
    assert folder.model_path.name == "model_000051_collapsed.pt"
    assert folder.state_path.name == "model_000051_collapsed.state.pt"
    assert folder.fibers_path.name == "fibers.pkl"
    resumed = run_with(folder.path, epochs=[300])
    assert resumed.root == root
    assert resumed.exp_id == f"{run.exp_id}/collapsed_model_thr_03_000051/{resumed.path.name}"
    again = run_with(resumed.collapse_folder({"lstm": 0.25}, 300).path, epochs=[600])
    assert again.root == root and again.exp_id.count("/") == 4
    assert run.collapses() == [folder] and folder.runs() == [resumed]
    assert list(runs_below(root)) == [run, resumed, again]
    for found in (run, resumed, again):
        for name in (found.exp_id, found.path, found.path.name):
            assert find_run(root, name) == found


def test_a_folder_of_another_name_is_no_collapse(tmp_path):
    with pytest.raises(UserError, match="no collapse folder"):
        _ = CollapseFolder(tmp_path).epoch


# --- finding ------------------------------------------------------------------------------------


def aged(run, seconds):
    """The run, its newest checkpoint written that long ago."""
    os.utime(run.latest()[1], (1e9 - seconds, 1e9 - seconds))
    return run


def test_the_newest_run_is_of_exactly_that_env_and_has_a_checkpoint(tmp_path):
    old = aged(run_with(tmp_path, "beam_rider", [3, 6]), 100)
    new = aged(run_with(tmp_path, "beam_rider", [3]), 50)
    aged(run_with(tmp_path, "beam", [3]), 10)
    aged(run_with(tmp_path, "beam_rider_x", [3]), 10)
    aged(run_with(tmp_path, "pong", [3], exp_id="beam_rider-00000000"), 10)
    Run.create(tmp_path, "beam_rider")
    (tmp_path / "beam_rider-11111111").write_text("a file")
    assert newest_run(tmp_path, "beam_rider") == new
    aged(run_with(new.collapse_folder(0.3, 3).path, "beam_rider", [3]), 0)
    assert newest_run(tmp_path, "beam_rider") == new  # a resumed run is not top-level
    aged(old, 0)
    assert newest_run(tmp_path, "beam_rider") == old
    custom = aged(run_with(tmp_path, "beam_rider", [9], exp_id="custom"), -50)
    assert newest_run(tmp_path, "beam_rider") == custom


def test_a_folder_from_elsewhere_is_known_by_its_name(tmp_path):
    path = tmp_path / "beam_rider-e3d19a76"
    path.mkdir()
    (path / "model_000050.pt").write_bytes(b"weights")
    assert newest_run(tmp_path, "beam_rider") == Run.open(path) == find_run(tmp_path, path.name)
    (path / "config.json").write_text("{")
    assert newest_run(tmp_path, "beam_rider") == Run.open(path)


def test_no_run_of_an_env_says_how_to_make_one(tmp_path):
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no run of pong .*--mode train --env pong"):
            newest_run(root, "pong")


def test_a_run_is_found_by_a_path_from_the_working_directory(tmp_path, monkeypatch):
    run = run_with(tmp_path / "experiments", epochs=[3])
    nested = run_with(run.collapse_folder(1.0, 3).path, epochs=[6])
    monkeypatch.chdir(tmp_path)
    found = find_run("experiments", f"experiments/{run.exp_id}/")
    assert found.exp_id == run.exp_id and found.path.samefile(run.path)
    monkeypatch.chdir(run.path)
    found = find_run("none", nested.path.relative_to(run.path))
    assert found.exp_id == nested.exp_id and found.root == tmp_path / "experiments"


def test_what_cannot_be_found_names_what_is_near(tmp_path):
    run = run_with(tmp_path, epochs=[3])
    wrong = run.exp_id[:-1] + ("0" if run.exp_id[-1] != "0" else "1")
    with pytest.raises(UserError, match=f"did you mean {run.exp_id}"):
        find_run(tmp_path, wrong)
    with pytest.raises(UserError, match="no run 'zzz'.*--mode train"):
        find_run(tmp_path, "zzz")
    folder = run.collapse_folder(0.3, 3).path
    folder.mkdir()
    with pytest.raises(UserError, match="is a collapse folder, expected a run; .*: none yet"):
        find_run(tmp_path, f"{run.exp_id}/{folder.name}")
    twins = [run_with(run.collapse_folder(t, 3).path, epochs=[6], exp_id="twin") for t in (0.3, 0.4)]
    with pytest.raises(UserError, match="names 2 runs; say which") as error:
        find_run(tmp_path, "twin")
    assert all(twin.exp_id in str(error.value) for twin in twins)
    assert len(runs_in(tmp_path)) == 1


# --- metrics and settings -----------------------------------------------------------------------


def test_records_come_back_as_they_were_logged(tmp_path):
    run = Run.create(tmp_path, "x")
    record = {"epoch": 1, "episode_return": 312.5, "note": "a\nb ü", "wall_time": 1e-9}
    run.log(record)
    run.log({"epoch": np.int64(2), "loss": np.float32(0.5), "nan": float("nan"), "all": [float("inf"), 1]})
    assert run.metrics() == [record, {"epoch": 2, "loss": 0.5, "nan": None, "all": [None, 1]}]
    for line in run.metrics_path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    with pytest.raises(TypeError):
        run.log({"epoch": np.zeros(2)})
    assert len(run.metrics()) == 2


def test_a_cut_last_line_costs_that_line_only(tmp_path):
    run = Run.create(tmp_path, "x")
    for epoch in range(1, 4):
        run.log({"epoch": epoch, "episode_return": 1.5})
    whole = run.metrics_path.read_bytes()
    start = whole.index(b'{"epoch": 3')
    for length in range(start + 1, len(whole) - 2):
        run.metrics_path.write_bytes(whole[:length])
        assert [record["epoch"] for record in run.metrics()] == [1, 2]
        run.log({"epoch": 4})
        assert [record["epoch"] for record in run.metrics()] == [1, 2, 4]


def test_resuming_drops_the_records_after_the_resumed_epoch(tmp_path):
    run = Run.create(tmp_path, "x")
    assert run.metrics() == []
    run.truncate_metrics(0)
    for epoch in range(1, 10):
        run.log({"epoch": epoch})
    with open(run.metrics_path, "a") as file:
        file.write('{"epoch": 1')
    run.truncate_metrics(6)
    assert run.metrics_path.read_text() == "".join(f'{{"epoch": {epoch}}}\n' for epoch in range(1, 7))
    run.truncate_metrics(0)
    assert run.metrics() == []


def test_settings_are_kept_beside_what_the_run_knows_of_itself(tmp_path):
    run = Run.create(tmp_path, "beam_rider")
    own = run.config()["run"]
    run.write_config({"env": {"frameskip": 4}, "base": {"data_dir": Path("experiments")}})
    run.write_config({"env": {"frameskip": 5}})
    assert run.config() == {"run": own, "env": {"frameskip": 5}} and run.env == "beam_rider"
    for text in ("{", "[1, 2]", "3"):
        (run.path / "config.json").write_text(text)
        with pytest.raises(UserError, match="no JSON object .*mend it or delete it"):
            run.config()


# --- the lock -----------------------------------------------------------------------------------

HOLD = """
import sys, os, time
from pathlib import Path
from pufferlib_kcore.store.lock import locked
with locked(sys.argv[1]):
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)  # it has let go of the lock
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_one_process_holds_a_run_and_its_death_frees_it_though_its_workers_live(tmp_path):
    run = Run.create(tmp_path, "x")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"in use by process {holder.pid}; "):
            with run.lock():
                pytest.fail("two processes hold the run")
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # the worker lives on
        with run.lock():
            pass
    finally:
        holder.kill()
        holder.stdout.close()
        os.kill(worker, 9)


def test_a_lock_is_freed_at_its_end_and_sweeps_what_killed_writers_left(tmp_path):
    run = run_with(tmp_path, epochs=[3])
    (run.path / ".model_000006.pt.0a1b2c3d.tmp").write_bytes(b"half")
    with run.lock():
        assert not list(run.path.glob(".*.tmp"))
        with pytest.raises(UserError, match=f"process {os.getpid()}"):
            with run.lock():
                pytest.fail("held twice")
    with pytest.raises(RuntimeError):
        with run.lock():
            raise RuntimeError
    with run.lock():
        assert run.checkpoints()


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot lock"):
        with Run(tmp_path / "none").lock():
            pytest.fail("a lock on nothing")
