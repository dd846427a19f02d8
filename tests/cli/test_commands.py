"""Every command that a program prints is run as it stands, from folders and names that need quotes."""

import re
import shlex
import signal
from contextlib import contextmanager

import pytest

from pufferlib_kcore import cli
from pufferlib_kcore.cli import batch, train
from pufferlib_kcore.jobs import fibers
from pufferlib_kcore.jobs.batch.grid import grid

SMALL = (
    "--vec serial --env cartpole --train.num-envs 4 --train.batch-size 64 --train.minibatch-size 32 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 2 --policy.hidden-size 8"
).split()
PLACE = ["--train.data-dir", "my runs"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder; environments in this process, fibers too, so that nothing is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fibers, "WORTH", float("inf"))
    return tmp_path


def ran(words, capsys, program=cli.main, ends=0):
    """What a command line prints, run in this process to this exit status."""
    status = program(words)
    out, err = capsys.readouterr()
    assert (status, err) == (ends, ""), (words, out, err)
    return out


def follow(out, label, capsys, *more):
    """Run the command that was printed after a label, with `more` behind it.  -> what that prints"""
    (command,) = re.findall(rf"^{label}: (.*)$", out, re.M)
    program, *words = shlex.split(command)
    script, *words = words
    assert (program, script) in (("python", "demo.py"), ("bash", "kcore.sh")), command
    return ran([*words, *more], capsys, cli.main if program == "python" else batch.main)


@contextmanager
def stopping(after):
    """In place of train.stop_signals: a stop is asked for so many times later."""
    asked = iter(range(1_000_000))

    class Later(train.Stop):
        def __call__(self):
            return next(asked) >= after

    yield Later(signal.SIGTERM)


@pytest.mark.parametrize("epochs", [1, 6])
def test_train_then_collapse_then_compare(capsys, epochs):
    steps = ["--train.total-timesteps", str(64 * epochs)]
    out = ran(["--mode", "train", *SMALL, *PLACE, *steps, "--exp-id", "it's a run"], capsys)
    out = follow(
        out, "collapse", capsys, "--vec", "serial", "--collapse", "1.9", "--collapse.calibrate", "64"
    )
    assert "done; saved my runs/it's a run/collapsed_model_thr_19_" in out
    follow(out, "compare", capsys)


def test_train_stop_and_go_on(capsys, monkeypatch):
    monkeypatch.setattr(train, "stop_signals", lambda: stopping(60))
    words = ["--mode", "train", *SMALL, *PLACE, "--train.total-timesteps", "640", "--exp-id", "a run"]
    out = ran(words, capsys, ends=143)
    assert "stopped; saved" in out
    monkeypatch.setattr(train, "stop_signals", lambda: stopping(1_000_000))
    out = follow(out, "go on", capsys, "--vec", "serial")
    assert "epoch=10" in out and "epoch=1 " not in out and "collapse: python demo.py" in out


def test_stopped_before_anything_was_learned_nothing_is_to_go_on_with(capsys, monkeypatch):
    words = ["--mode", "train", *SMALL, *PLACE, "--train.total-timesteps", "128", "--exp-id", "x"]
    monkeypatch.setattr(train, "stop_signals", lambda: stopping(0))
    out = ran(words, capsys, ends=143)
    assert out.splitlines()[-1].startswith("stopped before the first epoch ended, and nothing is saved")
    assert "further" not in out and "go on" not in out
    monkeypatch.setattr(train, "stop_signals", lambda: stopping(1_000_000))
    assert "done; saved" in ran(words, capsys)  # the same command starts again


def test_mettas_layout_stop_go_on_and_the_batch(capsys, monkeypatch):
    metta = ["--layout", "metta", "--run", "t1", *PLACE]
    monkeypatch.setattr(train, "stop_signals", lambda: stopping(60))
    out = ran(["--mode", "train", *SMALL, *metta, "--train.total-timesteps", "640"], capsys, ends=143)
    monkeypatch.setattr(train, "stop_signals", lambda: stopping(1_000_000))
    out = follow(out, "go on", capsys, "--vec", "serial")
    asked = []
    monkeypatch.setattr(batch, "run", lambda request: asked.extend(grid(request, print)) or 0)
    follow(out, "collapse and retrain", capsys)
    (task,) = asked
    assert task.folder.path.parts[0] == "my runs" and task.epoch < 10


def test_what_is_not_there_is_made_by_the_command_that_is_named(capsys):
    for words in (["--env", "cartpole", "--collapse", "1"], ["--exp-id", "a run", "--resume"]):
        assert cli.main(["--mode", "train", *words, *PLACE]) == 2
        (command,) = re.findall("`(.*)`", capsys.readouterr().err)
        words = [word.replace("ENV", "cartpole") for word in shlex.split(command)[2:]]
        assert words[-2:] == PLACE
        small = [*SMALL[:1], "serial", *SMALL[4:]]
        assert "my runs/cartpole-" in ran([*words, *small, "--train.total-timesteps", "64"], capsys)


def test_an_experiment_that_is_not_there(capsys):
    assert batch.main(["--exp-name", "t1", "--train-dir", "my runs"]) == 2
    (command,) = re.findall("`(.*)`", capsys.readouterr().err)
    words = [word.replace("ENV", "cartpole") for word in shlex.split(command)[2:]]
    assert "my runs/t1" in ran([*words, *SMALL[:2], *SMALL[4:], "--train.total-timesteps", "64"], capsys)


def test_sizes_are_judged_over_the_run_that_is_named(capsys):
    ran(["--mode", "train", *SMALL, *PLACE, "--train.total-timesteps", "64", "--exp-id", "x"], capsys)
    named = ["--mode", "train", "--vec", "serial", "--resume", "--exp-id", "x", *PLACE]
    assert cli.main([*named, "--train.num-envs", "3"]) == 2
    assert (
        "batch_size = 64 must be a multiple of both num_envs x bptt_horizon = 24" in capsys.readouterr().err
    )
    fitting = "--train.num-envs 3 --train.batch-size 24 --train.minibatch-size 24 --train.total-timesteps 88"
    assert "epoch=2" in ran([*named, *fitting.split()], capsys)  # default.ini's horizon of 16 refuses it
