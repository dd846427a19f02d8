"""kcore.sh as a user meets it: real grids of real trainings, kills, a full disk, clusters."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import Launcher
from commands import demo, start, trainings_fork

from pufferlib_kcore import graph
from pufferlib_kcore.cli import batch
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch import report
from pufferlib_kcore.jobs.batch.grid import grid
from pufferlib_kcore.jobs.batch.schedule import work as work_off
from pufferlib_kcore.policies import build
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.store import MettaFolder, StateFile
from pufferlib_kcore.store.lock import locked

REPO = Path(__file__).resolve().parents[2]
SMALL = (
    "--base.rnn-name Recurrent --train.num-envs 4 --train.batch-size 256 --train.minibatch-size 128 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 2 --vec serial"
).split()
QUICK = "--vec serial --track none --train.total-timesteps 2048 --collapse.calibrate 256".split()
THRESHOLDS = "0.7_0.5_1.0_0.8"


def kcore(folder, *arguments, before=(trainings_fork,), **environment):
    """Run what kcore.sh runs, in a folder; its trainings are forks, too.  -> (exit status, stdout, stderr)"""
    return demo(folder, *arguments, script="tools/kcore.py", before=before, **environment)


def bash(folder, script, *arguments, **environment):
    """Run a shell script in a folder, with all that it starts.  -> (exit status, stdout, stderr)"""
    done = subprocess.run(
        ["bash", REPO / script, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with one run in Metta's layout: CartPole, checkpoints at epochs 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("base")
    words = "--mode train --layout metta --run t1 --env cartpole --train.total-timesteps 1536".split()
    status, _, err = demo(folder, *words, *SMALL)
    assert (status, err) == (0, "")
    return folder


@pytest.fixture
def work(base, tmp_path):
    """A copy of it."""
    shutil.copytree(base / "train_dir", tmp_path / "train_dir")
    return tmp_path


def run_of(folder, name):
    return MettaFolder(folder / "train_dir" / name)


def epochs(run):
    return [record["epoch"] for record in run.metrics()]


def test_training_leaves_mettas_layout(base):
    run = run_of(base, "t1")
    names = sorted(path.name for path in (run.path / "t1/checkpoints").glob("*__sc0.pt"))
    assert [name.split("__")[:3] for name in names] == [
        ["t1", f"e{epoch}", f"s{256 * epoch}"] for epoch in (2, 4, 6)
    ]
    newest = StateFile.load(run.path / "t1/checkpoints/trainer_state.pt")
    assert newest.epoch == 6 and run.config()["settings"]["train"]["batch_size"] == 256


@pytest.fixture(scope="module")
def gridded(base, tmp_path_factory):
    """The same after a batch of every kind."""
    folder = tmp_path_factory.mktemp("grid")
    shutil.copytree(base / "train_dir", folder / "train_dir")
    kinds = "--kinds original collapsed ablated scratch scratch-full --jobs 2".split()
    found = kcore(folder, "--exp-name", "t1", "--epoch-idx", 4, "--env", "cartpole", *kinds, *QUICK)
    assert (found[0], found[2]) == (0, ""), found
    return folder, found[1]


def test_every_kind_is_trained_on_at_the_same_widths(gridded):
    folder, out = gridded
    runs = {
        "collapsed": run_of(folder, f"t1_epoch_4_base_{THRESHOLDS}"),
        "ablated": run_of(folder, f"t1_epoch_4_ablationsrandom_{THRESHOLDS}"),
        "scratch": run_of(folder, f"t1_epoch_4_scratch_{THRESHOLDS}"),
        "scratch-full": run_of(folder, f"t1_epoch_4_scratchfull_{THRESHOLDS}"),
    }
    collapsed = restore(runs["collapsed"].model_path(4))
    shapes = {name: p.shape for name, p in collapsed.policy.named_parameters()}
    for kind, run in runs.items():
        start = 0 if kind == "scratch-full" else 4
        assert epochs(run) == list(range(start + 1, 9)), kind
        assert run.latest()[1].name.startswith(f"{run.path.name}__e8__s2048__t")
        policy = restore(run.latest()[1]).policy
        assert {name: p.shape for name, p in policy.named_parameters()} == shapes, kind
    original = run_of(folder, "t1_epoch_4_original")
    assert epochs(original) == [5, 6, 7, 8]
    whole = sum(p.numel() for p in restore(original.latest()[1]).policy.parameters())
    assert sum(p.numel() for p in collapsed.policy.parameters()) < whole
    assert out.count(": done") == 6 and (folder / "train_dir/t1_kcore/report/index.html").is_file()


def test_collapsed_and_ablated_start_from_the_trained_weights_and_moments(gridded):
    folder, _ = gridded
    source = run_of(folder, "t1")
    original = restore(source.model_path(4))
    state = StateFile.load(source.state_path(4)).optimizer
    thresholds = {"linear": 0.7, "cnn": 0.5, "lstm": 1.0, "critic": 0.8}
    found = graph.collapse(original.policy, original.example_inputs, thresholds)
    names = [name for name, _ in original.policy.named_parameters()]
    wanted = graph.collapse_optimizer(state, found, original.policy, names=names)
    run = run_of(folder, f"t1_epoch_4_base_{THRESHOLDS}")
    kept = StateFile.load(run.state_path(4)).optimizer
    for i, moments in wanted["state"].items():
        assert (kept["state"][i]["exp_avg"] == moments["exp_avg"]).all()
        assert kept["state"][i]["step"] == moments["step"]
    ablated = restore(run_of(folder, f"t1_epoch_4_ablationsrandom_{THRESHOLDS}").model_path(4)).policy
    scratch = restore(run_of(folder, f"t1_epoch_4_scratch_{THRESHOLDS}").model_path(4)).policy
    torch.manual_seed(source.config()["seed"])
    trained, fresh = rows(original.policy), rows(build(original.spec))
    assert rows(ablated) <= trained and rows(scratch) <= fresh
    assert len(trained & fresh) < len(fresh) / 2  # some units never learn


def rows(policy):
    """What each unit of the encoder reads observations with."""
    return {tuple(row) for row in policy.policy.encoder.weight.tolist()}


def asked(folder):
    """The tasks of the batch of every kind, asked for again in a copy of its folder."""
    words = "--exp-name t1 --epoch-idx 4 --kinds original collapsed ablated scratch scratch-full".split()
    request = batch.parsed([*words, *QUICK])
    return request, grid(replace(request, train_dir=str(folder / "train_dir")), print)


def test_a_rerun_finds_it_all_done(gridded):
    folder, _ = gridded
    _, tasks = asked(folder)
    launcher, told = Launcher(tasks), []
    assert work_off(tasks, launcher, folder / "train_dir/t1_kcore/logs", told.append) == {}
    assert launcher.ran == [[], []] and told == ["5 runs: 5 done before, 0 to do"]


def test_the_report_tells_what_failed_and_what_is_damaged(gridded, tmp_path):
    shutil.copytree(gridded[0] / "train_dir", tmp_path / "train_dir")
    request, tasks = asked(tmp_path)
    newest = run_of(tmp_path, "t1_epoch_4_original").latest()[1]
    newest.write_bytes(newest.read_bytes()[:1000])
    lost = f"t1_epoch_4_scratch_{THRESHOLDS}"
    folder = tmp_path / "train_dir/t1_kcore"
    written = report.write(folder, tasks, {lost: "demo.py: cannot make it"}, request.command)
    assert written.failed.keys() == {lost, "t1_epoch_4_original"}
    lines = written.text.splitlines()
    assert lines[-3].startswith("failed     t1_epoch_4_original  ") and "is damaged" in lines[-3]
    assert lines[-2].startswith(f"failed     {lost}  ") and "cannot make it" in lines[-2]
    assert sum(line.startswith("done       t1_epoch_4_") for line in lines) == 3
    page = (folder / "report/index.html").read_text()
    assert "cannot make it" in page and "is damaged" in page and "2 of 5 runs failed." in page


@pytest.mark.slow
def test_the_ablation_script_trains_the_controls_to_a_size(work):
    words = "--exp-name t1 --epoch-idx 6 --target-params 0.3 --collapse.calibrate 256".split()
    status, out, err = bash(work, "kcore_ablation.sh", *words, *QUICK)
    assert (status, err) == (0, ""), err
    for role in ("ablationsrandom", "scratch"):
        about = run_of(work, f"t1_epoch_6_{role}_params0.3").config()["collapse"]
        assert 0.2 < about["params_after"] / about["params_before"] <= 0.3


def test_a_batch_that_is_killed_or_stopped_goes_on_where_it_was(work):
    words = ["--exp-name", "t1", "--epoch-idx", "4", "--kinds", "original", "--seeds", "1,2", *QUICK]
    words[words.index("2048")] = "15360"
    first, second = (run_of(work, f"t1_epoch_4_original_seed{seed}") for seed in (1, 2))
    for stop in (signal.SIGKILL, signal.SIGTERM):
        before = len(first.checkpoints()) + len(second.checkpoints())
        program = start(work, *words, script="tools/kcore.py", before=(trainings_fork,))
        until(lambda before=before: len(first.checkpoints()) + len(second.checkpoints()) >= before + 3)
        program.send_signal(stop)
        out, err = program.communicate(120)
        if stop == signal.SIGTERM:
            assert program.returncode == 1 and "the same command goes on" in err, (out, err)
        else:
            assert first.latest()[0] < 60 and not second.checkpoints()
        until(lambda: is_free(first) and is_free(second))
        assert first.latest()[0] == max(epochs(first))  # it was asked to save before it ended
    status, out, err = kcore(work, *words)
    assert (status, err) == (0, "") and " done before, " in out
    assert epochs(first) == epochs(second) == list(range(5, 61))
    assert (first.path / "log.out").read_text().count("run=") >= 2


def until(holds):
    """Wait until it does."""
    end = time.monotonic() + 120
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    assert holds()


def is_free(run):
    """Whether nobody works on a run."""
    if not run.path.is_dir():
        return True
    try:
        with locked(run.path):
            return True
    except UserError:
        return False


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_is_one_sentence_and_loses_nothing(work):
    """Files may not grow beyond a limit, as on a full disk."""
    before = {p: p.read_bytes() for p in (work / "train_dir").rglob("*.pt")}
    words = ["--exp-name", "t1", "--epoch-idx", "4", "--kinds", "original", *QUICK]
    status, out, err = kcore(work, *words, before=(trainings_fork, small_files))
    assert status == 1 and "free space" in out + err and "Traceback" not in out + err, out + err
    assert {p: p.read_bytes() for p in before} == before
    assert kcore(work, *words)[0] == 0


def test_kcore_sh_with_all_that_it_starts_through_submitit(work):
    pytest.importorskip("submitit")
    words = "--exp-name t1 --epoch-idx 4 --kinds original --launcher slurm".split()
    submitit = ["--slurm", "cluster=local", "timeout_min=5"]
    status, out, err = bash(work, "kcore.sh", *words, *submitit, *QUICK)
    assert (status, err) == (0, ""), err
    assert run_of(work, "t1_epoch_4_original").latest()[0] == 8
    assert list((work / "train_dir/t1_kcore/logs/submitit").glob("*_submitted.pkl"))


@pytest.mark.slow
def test_a_launcher_on_a_ray_cluster_of_two_nodes(work):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        words = "--exp-name t1 --epoch-idx 4 --kinds original --launcher ray --jobs 2 --seeds 1 2".split()
        status, out, err = kcore(work, *words, *QUICK, before=(), RAY_ADDRESS=cluster.address)
    finally:
        cluster.shutdown()
    assert status == 0, out + err
    nodes = set()
    for seed in (1, 2):
        assert run_of(work, f"t1_epoch_4_original_seed{seed}").latest()[0] == 8
        used = json.loads((work / f"train_dir/t1_kcore/logs/t1_epoch_4_original_seed{seed}.json").read_text())
        nodes.add(used["node"])
    assert len(nodes) == 2
