"""Files that an earlier version wrote (see written/README.md) are read, gone on from, played, collapsed."""

import json
import shutil
from pathlib import Path

import pytest

from pufferlib_kcore import cli, store

WRITTEN = Path(__file__).parent / "written"
COLLAPSE = "collapsed_model_thr_10_000002"
LONGER = ("--train.total-timesteps", "256")


@pytest.fixture
def demo(tmp_path, monkeypatch, capsys):
    """demo(words) -> stdout of a command that succeeds, in a folder with a copy of the files"""
    shutil.copytree(WRITTEN, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})  # else fibers are counted in processes

    def command(*words):
        capsys.readouterr()
        assert cli.main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return command


@pytest.mark.parametrize("layout", ["experiments", "metta"])
def test_a_run_is_gone_on_with(demo, layout):
    name = ("--run", "small", "--env", "cartpole") if layout == "metta" else ("--exp-id", "small", "--resume")
    demo("--mode", "train", "--layout", layout, *name, *LONGER, "--vec", "serial")
    root = Path("experiments" if layout == "experiments" else "train_dir")
    run = (store.Run if layout == "experiments" else store.MettaFolder)(root / "small")
    assert [epoch for epoch, _ in run.checkpoints()] == [2, 4]
    records = run.metrics()
    assert [record["agent_steps"] for record in records] == [64, 128, 192, 256]
    before = json.loads((WRITTEN / root / "small" / "metrics.jsonl").read_text().splitlines()[0])
    assert records[0] == before and records[2].keys() == before.keys() | {"gradient_norm"}  # newer than it
    written = json.loads((WRITTEN / root / "small" / "config.json").read_text())
    assert run.config()["settings"]["policy"] == written["settings"]["policy"]
    (change,) = run.config()["changes"]
    assert change == {
        "after_epoch": 2,
        "settings": {"train.total_timesteps": {"before": 128, "now": 256}},
    }


@pytest.mark.parametrize("file", ["model_000002.pt", f"{COLLAPSE}/model_000002_collapsed.pt"])
def test_a_checkpoint_is_played(demo, file):
    said = demo("--mode", "eval", "--eval-model-path", f"experiments/small/{file}", "--vec", "serial")
    assert "episode_return" in said


def test_a_collapse_that_stands_is_known_by_its_settings_and_made_again(demo):
    said = demo("--mode", "collapse", "--exp-id", "small", "--collapse", "1", "--collapse.calibrate", "64")
    assert "195    153" in said
    folder = store.Run(Path("experiments/small")).collapse_folder(1.0, 2)
    written = store.FibersFile.load(WRITTEN / "experiments/small" / COLLAPSE / "fibers.pkl")
    again = store.FibersFile.load(folder.fibers_path)
    assert (again.epoch, again.thresholds) == (written.epoch, written.thresholds)
    for name, space in written.spaces.items():
        assert str(vars(again.spaces[name])) == str(vars(space))


def test_training_goes_on_from_a_collapse_of_it(demo):
    demo("--mode", "train", "--exp-id", "small", "--collapse", "1", *LONGER, "--vec", "serial")
    (run,) = store.CollapseFolder(Path("experiments/small") / COLLAPSE).runs()
    assert run.latest()[0] == 4
    demo("--mode", "report", "--exp-id", run.exp_id)


def test_fibers_that_were_counted_are_not_counted_again(demo, monkeypatch):
    def nothing(*args, **kwargs):
        raise AssertionError("a checkpoint is colored again")

    monkeypatch.setattr("pufferlib_kcore.jobs.fibers.color", nothing)
    said = demo("--mode", "fibers", "--exp-id", "small", "--collapse", "1")
    assert "epoch=2 params=195 params_collapsed=153 policy.encoder=2/4" in said
