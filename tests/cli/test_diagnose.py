"""--diagnose, --break-symmetry and --on-failure, and --mode diagnose afterwards, as a user types them."""

import json
from pathlib import Path

import pytest
import torch

from pufferlib_kcore import cli, settings
from pufferlib_kcore.store import ProbeFile, Run

SMALL = (
    "--vec serial --env cartpole --train.num-envs 4 --train.batch-size 64 --train.minibatch-size 32 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 2 --policy.hidden-size 8 "
    "--train.total-timesteps 256"
).split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(capsys, *words, ends=0):
    status = cli.main(list(words))
    out, err = capsys.readouterr()
    assert status == ends, (words, out, err)
    return out if ends == 0 else err


def trained(capsys, *more):
    ran(capsys, *SMALL, "--exp-id", "a", *more)
    return Run.open("experiments/a")


def test_a_run_is_looked_at_and_broken_while_it_trains_and_goes_on_so(capsys):
    asked = (
        "--diagnose --break-symmetry 0.9 --break.every 1 --break.after 1 --break.maturity 0 --on-failure warn"
    )
    run = trained(capsys, *asked.split())
    records = run.metrics()
    assert all(
        "diagnosis/dormant" in r and "breaking/recycled" in r and "watch/findings" in r for r in records
    )
    assert ProbeFile.load(run.probe_path).states == 4 * 16
    ran(
        capsys,
        "--mode",
        "train",
        "--exp-id",
        "a",
        "--resume",
        "--vec",
        "serial",
        "--train.total-timesteps",
        "384",
    )
    records = Run.open("experiments/a").metrics()
    assert [r["epoch"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert "diagnosis/churn" in records[-1] and records[-1]["breaking/total"] >= records[3]["breaking/total"]


@pytest.mark.parametrize("more", [[], ["--base.rnn-name", "Recurrent", "--diagnose"]], ids=["plain", "lstm"])
def test_every_checkpoint_is_looked_at_afterwards(capsys, more):
    run = trained(capsys, *more)
    out = ran(capsys, "--mode", "diagnose", "--exp-id", "a", "--vec", "serial", "--episodes", "2",
              "--diagnose.states", "32", "--diagnose.capacity", "3", "--diagnose.evaluate", "4")  # fmt: skip
    rows = [json.loads(line) for line in run.diagnosis_path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [2, 4]
    assert {"diagnosis/entropy", "diagnosis/fibers", "diagnosis/capacity"} <= rows[1].keys()
    assert rows[1]["diagnosis/eval_return"] > 7 and rows[1]["diagnosis/eval_return_greedy"] > 7
    assert "diagnosis/churn" in rows[1] and "diagnosis/churn" not in rows[0]
    known = json.loads(run.references_path.read_text())
    assert known["uniform"] > known["constant"] > 7  # CartPole falls at once where one always pushes one way
    assert "effective_rank" in out and "without skill: uniform" in out
    if more:
        last = run.metrics()[-1]
        for name in ("entropy", "effective_rank", "fibers"):
            assert rows[1][f"diagnosis/{name}"] == pytest.approx(last[f"diagnosis/{name}"], rel=1e-5)
    again = ran(capsys, "--mode", "diagnose", "--exp-id", "a", "--vec", "serial")
    assert "playing without skill" not in again and "recording" not in again


def test_a_run_without_metrics_is_judged_by_its_checkpoints(capsys):
    run = trained(capsys)
    run.metrics_path.unlink()
    out = ran(capsys, "--mode", "diagnose", "--exp-id", "a", "--vec", "serial", "--episodes", "1")
    assert "has no metrics.jsonl: judged by its checkpoints alone" in out


def test_a_collapsed_run_and_metta_folders_too(capsys):
    ran(capsys, *SMALL, "--layout", "metta", "--run", "m")
    out = ran(capsys, "--mode", "diagnose", "--layout", "metta", "--exp-id", "m", "--vec", "serial",
              "--episodes", "1")  # fmt: skip
    assert "dormant" in out and "wrote train_dir/m/diagnosis.jsonl" in out
    trained(capsys, "--diagnose")
    ran(capsys, *SMALL[:-2], "--exp-id", "a", "--collapse", "0.9", "--train.total-timesteps", "512")
    (folder,) = Run.open("experiments/a").collapses()
    (smaller,) = folder.runs()
    out = ran(capsys, "--mode", "diagnose", "--exp-id", smaller.exp_id, "--vec", "serial", "--episodes", "1")
    assert f"wrote {smaller.diagnosis_path}" in out


def test_a_probe_of_another_environment_is_a_sentence(capsys):
    run = trained(capsys)
    ProbeFile(inputs=[(torch.zeros(5, 6),)], epoch=1).save(run.probe_path)
    said = ran(capsys, "--mode", "diagnose", "--exp-id", "a", "--vec", "serial", ends=2)
    assert "probe.pt holds states of shape (6,)" in said and "move it away" in said


def test_anybodys_metrics(capsys, tmp_path):
    rows = ["time/total_timesteps,rollout/ep_rew_mean,train/entropy_loss,train/approx_kl,train/clip_fraction"]
    for i in range(60):
        well = min(i, 20) if i < 30 else 0
        rows.append(f"{1000 * i},{10 + 10 * well + i % 3},{-0.6 if i < 28 else -0.0001},0.01,0.1")
    (tmp_path / "progress.csv").write_text("\n".join(rows))
    out = ran(capsys, "--mode", "diagnose", "--metrics", "progress.csv")
    assert "policy_collapse (high, since epoch" in out and "60 records of progress.csv" in out
    (tmp_path / "one.jsonl").write_text('{"reward": 3}\n')
    assert "1 epochs are too few" in ran(capsys, "--mode", "diagnose", "--metrics", "one.jsonl")
    (tmp_path / "odd.jsonl").write_text('{"banana": 3}\n')
    said = ran(capsys, "--mode", "diagnose", "--metrics", "odd.jsonl", ends=2)
    assert "odd.jsonl: none of these metrics is known: banana" in said


def test_a_run_that_diverged_says_so(capsys, monkeypatch):
    from pufferlib_kcore.training.acting import Diverged
    from pufferlib_kcore.training.ppo.learner import Learner

    def fails(self, data):
        raise Diverged("the loss is nan")

    monkeypatch.setattr(Learner, "update", fails)
    said = ran(capsys, *SMALL, "--exp-id", "a", ends=1)
    assert "diverged in epoch 1" in said
    (line,) = Run(Path("experiments/a")).findings_path.read_text().splitlines()
    assert json.loads(line)["kind"] == "nan"


@pytest.mark.parametrize(
    "words, said",
    [
        ("--env cartpole --break-symmetry 3", "--break-symmetry = 3"),
        ("--env cartpole --break-symmetry 0.3 --break.fraction 0", "--break.fraction = 0"),
        ("--env cartpole --break-symmetry 0.3 --break.method rido", "redo"),
        ("--env cartpole --break-symmetry 1.5 --break.method redo", "redo takes a part"),
        ("--env cartpole --on-failure explode", "warn"),
        ("--env cartpole --on-failure break-symmetry", "add --break-symmetry 0.3"),
        ("--env cartpole --diagnose --diagnose.states 1", "--diagnose.states = 1"),
        ("--mode eval --env cartpole --diagnose", "--mode eval does not use --diagnose"),
        ("--mode diagnose --metrics gone.jsonl", "cannot read gone.jsonl"),
        ("--mode diagnose --metrics a.csv --exp-id b", "leave one of them out"),
        ("--mode diagnose", "nothing to diagnose"),
        ("--mode diagnose --exp-id gone", "gone"),
    ],
)
def test_mistakes_are_one_sentence(capsys, words, said):
    text = ran(capsys, *words.split(), ends=2)
    assert said in text and text.count("\n") == 1


def test_settings_of_earlier_runs_take_their_defaults():
    older = settings.resolve("cartpole").to_plain()
    for section in ("break", "diagnose", "watch"):
        del older[section]
    found = settings.from_plain(older)
    assert found.break_.threshold is None and not found.diagnose.on and not found.watch.on
