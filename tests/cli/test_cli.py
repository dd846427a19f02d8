"""The command line as a user meets it: processes of its own, real files, real mistakes."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from commands import demo, fresh, start

from pufferlib_kcore import cli, graph, settings, store
from pufferlib_kcore.cli import train
from pufferlib_kcore.graph import distillation
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.store import checkpoints

REPO = Path(__file__).resolve().parents[2]
SMALL = (
    "--vec serial --env cartpole --base.rnn-name Recurrent --train.num-envs 4 --train.batch-size 256 "
    "--train.minibatch-size 128 --train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 2"
).split()


def until(condition, seconds=90):
    """Wait until the condition holds; fail where it never does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def epochs(text):
    return [int(n) for n in re.findall(r"^epoch=(\d+) ", text, re.M)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with one short run of CartPole: 6 epochs, checkpoints at 2, 4, 6."""
    folder = tmp_path_factory.mktemp("base")
    status, out, err = fresh(
        folder, "--mode", "train", *SMALL, "--train.total-timesteps", 1536, "--exp-id", "base"
    )
    assert (status, err) == (0, "")
    assert epochs(out) == [1, 2, 3, 4, 5, 6]
    return folder


@pytest.fixture
def trained(base, tmp_path):
    """A copy of it."""
    return shutil.copytree(base, tmp_path / "trained")


@pytest.fixture(scope="module")
def resumed(base, tmp_path_factory):
    """A copy after the guide's second step, and what that printed."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("resumed"), dirs_exist_ok=True)
    status, out, err = demo(
        folder, "--mode", "train", "--vec", "serial", "--env", "cartpole", "--collapse", 0.3,
        "--train.total-timesteps", 2048, "--collapse.calibrate", 256,
    )  # fmt: skip
    assert (status, err) == (0, "")
    return folder, out


def test_training_leaves_all_that_is_promised(trained):
    run = store.Run.open(trained / "experiments/base")
    assert [epoch for epoch, _ in run.checkpoints()] == [2, 4, 6]
    config = run.config()
    assert config["settings"]["train"]["batch_size"] == 256 and config["seed"] == 1
    assert {"versions", "git_commit", "packages", "machine"} <= config.keys()
    keys = "epoch agent_steps SPS episode_return episode_length approx_kl clipfrac explained_variance entropy"
    assert set(keys.split()) <= run.metrics()[0].keys()
    assert epochs((run.path / "log.out").read_text()) == [1, 2, 3, 4, 5, 6]
    payload = torch.load(run.model_path(6), weights_only=True)
    assert payload["policy"]["name"] == "Default" and payload["agent_steps"] == 1536


def test_collapse_and_resume_as_the_guide_says(resumed):
    folder, out = resumed
    assert "no model_000050.pt: the nearest epoch is 6" in out
    assert epochs(out) == [7, 8] and "the optimizer's state is carried over" in out
    done = store.CollapseFolder(folder / "experiments/base/collapsed_model_thr_03_000006")
    assert done.model_path.name == "model_000006_collapsed.pt" and done.model_path.is_file()
    fibers = store.FibersFile.load(done.fibers_path)
    collapsed = store.ModelFile.load(done.model_path)
    assert collapsed.shapes["policy.encoder.weight"][0] == fibers.spaces["policy.encoder"].fibers
    nested = done.runs()[-1]
    assert re.fullmatch(r"cartpole-[0-9a-f]{8}", nested.path.name)
    assert [epoch for epoch, _ in nested.checkpoints()][-1] == 8
    assert epochs((nested.path / "log_collapsed.out").read_text()) == [7, 8]
    assert store.ModelFile.load(nested.model_path(8)).shapes == collapsed.shapes
    assert nested.metrics()[0]["agent_steps"] == 1536 + 256

    status, out, err = fresh(folder, "--mode", "report", "--exp-id", "base")
    assert (status, err) == (0, "")
    assert (folder / "experiments/base/report.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "experiments/base/report.html").read_text()
    assert "policy.encoder" in page and "http://" not in page.replace("http://www.w3.org", "")

    status, out, _ = demo(
        folder, "--mode", "train", "--vec", "serial", "--resume", "--exp-id", nested.exp_id,
        "--train.total-timesteps", 2560,
    )  # fmt: skip
    assert status == 0 and epochs(out) == [9, 10]


def test_the_notebook_runs_on_a_small_run_and_is_committed_with_its_pictures(resumed, monkeypatch):
    """After the guide's two steps."""
    import nbclient
    import nbformat

    trained, _ = resumed
    folder = store.CollapseFolder(trained / "experiments/base/collapsed_model_thr_03_000006")
    logs = trained / "experiments/base/log.out", folder.runs()[0].path / "log_collapsed.out"
    for log in logs:
        (trained / log.name).write_text(log.read_text())
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    notebook = nbformat.read(REPO / "Collapsing_step_by_step_guide.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(trained)}}, timeout=300).execute()
    committed = nbformat.read(REPO / "Collapsing_step_by_step_guide.ipynb", as_version=4)
    for book in (notebook, committed):
        outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
        assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


def test_fibers_of_every_checkpoint(trained):
    status, out, err = demo(trained, "--mode", "fibers", "--exp-id", "base", "--collapse", 0.5)
    assert (status, err) == (0, "") and epochs(out) == [2, 4, 6]
    history = json.loads((trained / "experiments/base/fibers_over_time.json").read_text())
    assert history["epochs"] == [2, 4, 6] and history["thresholds"] == 0.5


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--env", "cartpole", "--collapse", "3"], ["2", "--collapse 0.3"]),
        (["--env", "cartpole", "--collapse", "-0.1"], ["0", "2"]),
        (["--env", "acrobot", "--collapse", "0.3"], ["no run of acrobot", "--mode train --env acrobot"]),
        (["--env", "cartpoll"], ["did you mean", "cartpole"]),
        (["--env", "cartpole", "--train.learnin-rate", "1"], ["learning"]),
        (["--env", "cartpole", "--train.learning-rate", "fast"], ["learning-rate", "number"]),
        (["--env", "cartpole", "--exp-id", "nothing", "--resume"], ["nothing"]),
        (["--env", "cartpole", "--train.device", "cuda:9"], ["cuda:9", "cpu"]),
        (["--mode", "trian", "--env", "cartpole"], ["train"]),
    ],
)
def test_a_mistake_gets_one_sentence_and_loses_nothing(trained, arguments, words, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    before = sorted(p for p in (trained / "experiments").rglob("*"))
    status, err = cli.main(arguments), capsys.readouterr().err
    assert status != 0 and len(err.strip().splitlines()) == 1 and "Traceback" not in err, err
    assert all(word in err for word in words), err
    assert sorted(p for p in (trained / "experiments").rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_goes_on(tmp_path, number):
    arguments = ["--mode", "train", *SMALL, "--exp-id", "x", "--train.checkpoint-interval", 1000]
    process = start(tmp_path, *arguments)
    metrics = tmp_path / "experiments/x/metrics.jsonl"
    until(lambda: metrics.is_file() and len(metrics.read_text().splitlines()) >= 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == "" and "stopped; saved" in out
    last = epochs(out)[-1]
    run = store.Run.open(tmp_path / "experiments/x")
    assert run.latest()[0] == last
    steps = (last + 2) * 256
    status, out, _ = demo(
        tmp_path, "--mode", "train", *SMALL, "--exp-id", "x", "--train.total-timesteps", steps
    )
    assert status == 0 and epochs(out) == [last + 1, last + 2]
    assert [r["epoch"] for r in run.metrics()] == list(range(1, last + 3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_before_its_first_epoch_says_so_and_is_no_success(
    tmp_path, number, monkeypatch, capsys
):
    @contextlib.contextmanager
    def signalled():
        yield train.Stop(number)

    monkeypatch.setattr(train, "stop_signals", signalled)
    status = cli.main(["--mode", "train", *SMALL, "--exp-id", "x", "--train.data-dir", str(tmp_path)])
    assert status == 128 + number == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    said = capsys.readouterr()
    assert "stopped before the first epoch ended, and nothing is saved" in said.out and said.err == ""


def test_ctrl_c_anywhere_else_is_one_word(monkeypatch, capsys):
    def interrupted(*about):
        raise KeyboardInterrupt

    monkeypatch.setattr(settings, "load", interrupted)
    assert cli.main([]) == 130 and capsys.readouterr().err == "demo.py: interrupted\n"


def test_kill_9_leaves_whole_checkpoints_and_no_worker(tmp_path):
    arguments = ["--mode", "train", *SMALL[2:], "--vec", "multiprocessing", "--exp-id", "x"]
    process = start(tmp_path, *arguments, "--train.checkpoint-interval", 1)
    run = store.Run(tmp_path / "experiments/x")
    until(lambda: len(run.checkpoints()) >= 3)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    until(lambda: not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers), 20)
    for _, path in run.checkpoints():
        checkpoints.load(path)
    epoch, _ = run.latest(with_state=True)
    steps = (epoch + 1) * 256
    status, out, _ = demo(tmp_path, *arguments, "--train.total-timesteps", steps)
    assert status == 0 and epochs(out) == [epoch + 1]


def test_a_dead_worker_ends_the_run_and_says_so(tmp_path):
    process = start(tmp_path, "--mode", "train", *SMALL[2:], "--vec", "multiprocessing", "--exp-id", "x")
    metrics = tmp_path / "experiments/x/metrics.jsonl"
    until(lambda: metrics.is_file() and metrics.read_text().count("\n") >= 2)
    workers = [
        c for c in psutil.Process(process.pid).children() if "resource_tracker" not in " ".join(c.cmdline())
    ]
    workers[0].kill()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "worker" in err and "--resume" in err
    assert store.Run(tmp_path / "experiments/x").latest()[0] >= 1


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    process = start(tmp_path, "--mode", "train", *SMALL, "--exp-id", "x")
    metrics = tmp_path / "experiments/x/metrics.jsonl"
    until(lambda: metrics.is_file() and metrics.read_text().count("\n") >= 3)
    status, _, err = demo(tmp_path, "--mode", "train", *SMALL, "--exp-id", "x")
    process.kill()
    process.communicate()
    assert status == 2 and len(err.strip().splitlines()) == 1


def test_help_names_the_settings_of_the_environment(tmp_path):
    status, out, err = demo(tmp_path, "--env", "beam_rider", "--help")
    assert (status, err) == (0, "")
    for name in ("--train.learning-rate", "--env.frameskip", "--collapse", "--wandb-group", "30_720"):
        assert name in out


def test_tensorboard(tmp_path):
    status, _, err = demo(
        tmp_path,
        "--mode",
        "train",
        *SMALL,
        "--exp-id",
        "x",
        "--train.total-timesteps",
        512,
        "--track",
        "tensorboard",
    )
    assert status == 0, err
    assert list((tmp_path / "experiments/x/tensorboard").glob("events*"))


def test_a_pickled_policy_of_pufferlib_needs_trust_and_then_collapses_and_trains_on(tmp_path):
    script = """
import torch, pufferlib.cleanrl
from pufferlib_kcore.policies import build, spec_from
import gymnasium, numpy as np
box = gymnasium.make("CartPole-v1").observation_space
spec = spec_from("classic_control", "Policy", "Recurrent", {}, {}, box, gymnasium.spaces.Discrete(2))
torch.save(pufferlib.cleanrl.RecurrentPolicy(build(spec)), "experiments/cartpole-0123abcd/model_000050.pt")
"""
    (tmp_path / "experiments/cartpole-0123abcd").mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": REPO}
    )
    arguments = ["--mode", "train", *SMALL, "--collapse", 0.3, "--train.total-timesteps", 512]
    status, _, err = demo(tmp_path, *arguments)
    assert status == 2 and "--trust-checkpoint" in err
    status, out, err = demo(tmp_path, *arguments, "--trust-checkpoint")
    assert (status, err) == (0, "") and epochs(out) == [51, 52] and "starts cold" in out


def test_autotune_writes_what_the_next_run_reads(tmp_path):
    (tmp_path / "config").mkdir()
    status, out, err = demo(tmp_path, "--mode", "autotune", *SMALL[2:], "--vec", "serial", timeout=300)
    assert (status, err) == (0, "")
    chosen = (tmp_path / "config/local/cartpole.ini").read_text()
    envs = int(re.search(r"num_envs = (\d+)", chosen)[1])
    status, out, _ = demo(tmp_path, "--env", "cartpole", "--help")
    assert re.search(rf"num-envs.*\n?.*default: {envs};", out)


def test_auto_collapse_is_smaller_and_nearer_than_the_published_recipe(trained):
    run = store.newest_run(trained / "experiments", "cartpole")
    budget = "--collapse auto --collapse.target-params 0.2 --collapse.calibrate 512 --collapse.epoch 4"
    command = ["--mode", "collapse", "--exp-id", run.exp_id, *budget.split()]
    code, plain, err = demo(trained, *command, "--collapse.distill", "0")
    assert code == 0 and "distilling" not in plain, err
    code, out, err = demo(trained, *command)
    assert code == 0 and err == "", err
    assert f"distilling: {distillation.STEPS} gradient steps" in out
    folder = store.CollapseFolder(run.path / "collapsed_model_auto_params0p2_000004")
    assert folder.model_path.is_file() and folder.state_path.is_file() and folder.thresholds is None
    lines = folder.frontier_path.read_text().splitlines()
    assert lines[0].startswith("size,params,kl,value_error,policy.encoder,recurrent")
    assert float(lines[-1].split(",")[0]) <= 0.2
    assert folder.frontier_path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    kl, undistilled = (float(re.search(r"KL (\S+) nats", text)[1]) for text in (out, plain))
    assert kl <= undistilled
    original = restore(run.model_path(4))
    recipe = max(
        (
            graph.collapse(original.policy, original.example_inputs, t, published=True)
            for t in (1.0, 1.2, 1.5)
        ),
        key=lambda found: (
            found.report.params_after * (found.report.params_after < 0.2 * found.report.params_before)
        ),
    )
    seen = [(torch.randn(8, 20, 4, generator=torch.Generator().manual_seed(0)) * 0.1, None)]
    assert kl < graph.divergence(original.policy, recipe.policy, seen, recipe.network, recipe.merges).kl


@pytest.mark.parametrize(
    "words, said",
    [
        ("--collapse auto --collapse.lstm 0.3", "leave --collapse.lstm out"),
        ("--collapse auto --collapse.calibrate 0", "cannot measure KL"),
        ("--collapse 0.3 --collapse.max-kl 0.1", "a budget of --collapse auto"),
        ("--collapse auto --collapse.target-params 1.5", "above 0 and at most 1"),
        ("--collapse auto --collapse.target-params 0", "above 0"),
        ("--collapse automatic", "did you mean auto?"),
        ("--collapse 0.3 --collapse.colors weight", "did you mean weights?"),
        ("--collapse 0.3 --collapse.calibrate -1", "at least 0"),
    ],
)
def test_a_mistaken_budget_gets_one_sentence_and_writes_nothing(trained, words, said, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    run = store.newest_run(trained / "experiments", "cartpole")
    before = sorted(run.path.iterdir())
    code = cli.main(["--mode", "collapse", "--exp-id", run.exp_id, *words.split()])
    err = capsys.readouterr().err
    assert code != 0 and said in err and len(err.splitlines()) == 1, err
    assert sorted(run.path.iterdir()) == before


def test_export_writes_onnx_beside_the_checkpoint(trained):
    pytest.importorskip("onnxscript")
    run = store.newest_run(trained / "experiments", "cartpole")
    code, out, err = demo(trained, "--mode", "export", "--eval-model-path", run.model_path(4))
    assert code == 0 and err == "" and "of the policy's" in out, err
    assert run.model_path(4).with_suffix(".onnx").stat().st_size > 1000
