"""kcore.sh's words as a request, and one sentence for each mistake; nothing is started."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from batches import plant

from pufferlib_kcore.cli import batch
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch import launch, run
from pufferlib_kcore.jobs.batch.grid import grid
from pufferlib_kcore.jobs.batch.request import BatchRequest
from pufferlib_kcore.store import metta
from pufferlib_kcore.store.lock import locked

REPO = Path(__file__).resolve().parents[2]
TRAIN = "--train.total-timesteps 4096".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with one run, of which nothing is trained."""
    plant(tmp_path / "train_dir")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "run_all", lambda *_: pytest.fail("something was started"))
    return tmp_path


@pytest.fixture
def script(tmp_path):
    """kcore.sh's words, as they come to Python."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)

    def words(*arguments, name="kcore.sh", **environment):
        env = {**os.environ, "PYTHON": str(python), **environment}
        done = subprocess.run(
            ["bash", REPO / name, *arguments], env=env, capture_output=True, text=True, check=True
        )
        program, *words = done.stdout.splitlines()
        assert program == str(REPO / "tools/kcore.py")
        return words

    return words


def refused(words, capsys):
    status, err = batch.main(words), capsys.readouterr().err
    assert status == 2 and len(err.splitlines()) == 1, (status, err)
    return err


@pytest.mark.parametrize(
    "words, said",
    [
        ("--exp-name nobody", "no experiment 'nobody'"),
        ("--exp-name t11", "did you mean t1?"),
        ("", "which run?"),
        ("--exp-name t1 --epoch-idx four", "--epoch-idx = 'four': expected a whole number, such as 340"),
        ("--exp-name t1 --epoch-idx -4", "--epoch-idx = -4: expected a number at least 0"),
        ("--exp-name t1 --epoch-idx 1,000", "one number or several? write 1000, or 1 000"),
        ("--exp-name t1 --linear-thr 2.1", "--linear-thr = 2.1: expected a number from 0 to 2"),
        ("--exp-name t1 --lstm-thr high", "--lstm-thr = 'high': expected a number, such as 1.0"),
        ("--exp-name t1 --critic-thr nan", "--critic-thr = 'nan': expected a number, such as 0.8"),
        ("--exp-name t1 --cnn-thr 0,1", "--cnn-thr = '0,1': expected a number; did you mean 0.1?"),
        ("--exp-name t1 --target-params 0", "a part of the parameters"),
        ("--exp-name t1 --target-params 0,2", "did you mean 0.2?"),
        ("--exp-name t1 --target-params 0.2 --cnn-thr 0.3", "leave --cnn-thr out"),
        ("--exp-name t1 --cnn-thr 0.5 --target-params 0.2 --cnn-thr 0.5", "leave --cnn-thr out"),
        ("--exp-name t1 --kinds original --cnn-thr 0.3", "collapses nothing: leave --cnn-thr out"),
        ("--exp-name t1 --slurm slurm_partition=short", "this is --launcher local"),
        ("--exp-name t1 --launcher slurm", "there is no sbatch on PATH"),
        ("--exp-name t1 --launcher slurm --slurm short", "expected name=value"),
        ("--exp-name t1 --launcher slurm --slurm partition=short", "did you mean slurm_partition?"),
        ("--exp-name t1 --launcher slurm --slurm timeout_min=soon", "timeout_min = 'soon': expected a whole"),
        ("--exp-name t1 --launcher slurm --slurm nodes=0", "nodes = 0: expected a number above 0"),
        ("--exp-name t1 --launcher slurm --slurm name=x", "is the batch's to say"),
        ("--exp-name t1 --launcher slurm --slurm cluster=moon", "expected slurm or local"),
        ("--exp-name t1 --track tensorbord", "did you mean tensorboard?"),
        ("--exp-name t1 --episodes 3", "unknown argument '--episodes'"),
        ("--exp-name t1 --policy.hidden-size 0", "--policy.hidden-size = 0: expected a number at least 1"),
        ("--exp-name t1 --train.num-envs 3", "batch_size = 256 must be a multiple of"),
        (f"--exp-name {'x' * 300}", "at most 200 bytes"),
        ("--exp-name t1 --kinds colapsed", "did you mean collapsed?"),
        ("--exp-name t1 --launcher slurn", "did you mean slurm?"),
        ("--exp-name t1 --jobs 0", "at least 1"),
        ("--exp-name t1 --jobs two", "--jobs = 'two': expected a whole number, such as 2"),
        ("--exp-name t1 --seeds one", "--seeds = 'one': expected a whole number, such as 1"),
        ("--exp-name t1 --env pong", "was trained on cartpole"),
        ("--exp-name t1 --epoch-idx 6 --train.total-timesteps 1536", "nothing to do"),
        ("--exp-name t1 --kinds ,", "nothing to do"),
        ("--exp-name t1 --train.total-timestep 9999", "did you mean"),
        ("--exp-name t1 --train-dir nowhere", "no experiment 't1'"),
        ("t1", "unknown argument 't1'"),
        ("--exp-name t1 --linear-th 0.3", "did you mean --linear-thr?"),
        ("--exp-name t1 --collapse.linear 0.3", "give --linear-thr"),
        ("--exp-name t1 --collapse 0.3", "give --linear-thr"),
        ("--exp-name t1 --control scratch", "give --kinds"),
        ("--exp-name t1 --seed 3", "give --seeds"),
        ("--exp-name train_dir/t1", "is a path"),
        ("--exp-name t1 --batch t1", "is a run"),
        ("--exp-name t1 --batch ../x", "is a path"),
    ],
)
def test_a_mistake_gets_one_sentence_and_starts_nothing(words, said, here, monkeypatch, capsys):
    monkeypatch.setattr(launch.shutil, "which", lambda program: None)
    before = sorted((here / "train_dir").iterdir())
    assert said in refused(words.split(), capsys)
    assert sorted((here / "train_dir").iterdir()) == before


def test_a_folder_that_cannot_be_written(here, capsys):
    (here / "train_dir/t1_kcore").write_text("in the way")
    assert "cannot make" in refused(["--exp-name", "t1", *TRAIN], capsys)


def test_two_batches_at_once_are_refused(here, capsys):
    (here / "train_dir/t1_kcore").mkdir()
    with locked(here / "train_dir/t1_kcore"):
        assert "in use by process" in refused(["--exp-name", "t1", *TRAIN], capsys)


def test_lists_are_words_or_parted_within_one(here):
    whole = batch.parsed(
        "--exp-name t1/ t2 --epoch-idx 4 6 --seeds 1 2 --linear-thr 0.3 0.7 --kinds original scratch".split()
    )
    parted = batch.parsed(
        [
            "--exp_name",
            "t1,t2",
            "--epoch_idx",
            "4,6",
            "--seeds",
            "1 2",
            "--linear-thr",
            "0.3 0.7",
            "--kinds",
            "original,scratch",
        ]
    )
    assert whole == parted
    assert (whole.exp_name, whole.epoch_idx, whole.seeds) == (("t1", "t2"), (4, 6), (1, 2))
    assert (whole.linear_thr, whole.cnn_thr, whole.kinds) == ((0.3, 0.7), (0.5,), ("original", "scratch"))
    assert batch.parsed("--exp-name t1 --linear-thr 0.3 --linear-thr -0".split()).linear_thr == (0.0,)


def test_what_is_not_said_is_as_the_request_has_it():
    assert batch.parsed("--exp-name t1 --track none".split()) == BatchRequest(exp_name=("t1",))


def test_kcore_sh_gives_its_defaults_and_what_was_typed(script):
    """The script gives every threshold once: the default does not count as typed."""
    plain = ["--exp-name", "t1", "--track", "none", *TRAIN]
    assert batch.parsed(script(*plain)) == batch.parsed(plain)
    sized = [*plain, "--target-params", "0.2"]
    assert batch.parsed(script(*sized)).target_params == (0.2,)
    with pytest.raises(UserError, match="leave --linear-thr out"):
        batch.parsed(script(*sized, linear_thr="0.6"))
    with pytest.raises(UserError, match="leave --lstm-thr out"):
        batch.parsed(script(*sized, "--lstm-thr", "1.0"))


def test_parameters_come_from_the_environment_and_flags_win(script):
    given = {"exp_name": "t1", "epoch_idx": "2 4 5", "jobs": "3", "seeds": "9", "env": "cartpole"}
    request = batch.parsed(script("--kinds", "original", "--seeds", "3,4", *TRAIN, **given))
    assert (request.epoch_idx, request.jobs, request.seeds, request.env) == ((2, 4, 5), 3, (3, 4), "cartpole")
    told = []
    found = {task.name for task in grid(request, told.append)}
    assert found == {f"t1_epoch_{epoch}_original_seed{seed}" for epoch in (2, 4, 6) for seed in (3, 4)}
    assert told == ["t1: no checkpoint of epoch 5, the nearest is 6"]


def test_the_ablation_script_asks_for_the_controls(script):
    assert batch.parsed(script("--exp-name", "t1", name="kcore_ablation.sh")).kinds == ("ablated", "scratch")


@pytest.mark.parametrize(
    "words",
    [
        "--exp-name t1",
        "--exp-name t1 t2 --epoch-idx 4,6 --linear-thr 0.3 0.7 --kinds original collapsed --seeds 1 2",
        "--exp-name t1 --target-params 0.2 0.1 --kinds collapsed scratch-full --jobs 3 --train.gamma 0.5",
        "--exp-name t1 --kinds original --batch b --env cartpole --train-dir 'a b' --vec serial --track none",
    ],
)
def test_the_command_that_is_kept_asks_for_the_same_batch(words):
    request = batch.parsed(shlex.split(words))
    bash, script, *again = shlex.split(request.command)
    assert (bash, script) == ("bash", "kcore.sh")
    assert batch.parsed(again) == request
    defaults = "--epoch-idx 50 --linear-thr 0.7 --cnn-thr 0.5 --lstm-thr 1.0 --critic-thr 0.8".split()
    assert batch.parsed([*defaults, *again]) == request or "--linear-thr" in again


def test_an_unknown_experiment_lists_the_nearest_that_are_no_others_offspring(tmp_path):
    for name in (*(f"arm{i}" for i in range(8)), *(f"t1_epoch_4_original_seed{i}" for i in range(9)), "t1"):
        folder = tmp_path / name / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / f"{name}__e4__s1024__t1__sc0.pt").touch()
    for asked, said in (
        ("t11", "did you mean t1?"),
        ("t1_epoch_4_original_sed3", "did you mean t1_epoch_4_original_seed3 or"),
        ("zzz", "the nearest 5 of 9"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as error:
            metta.find(tmp_path, asked)
        assert asked != "zzz" or "original" not in str(error.value)
