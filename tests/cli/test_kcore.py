"""kcore.sh as a user meets it: real grids of real trainings, kills, mistakes, clusters."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import demo, trainings_fork

from pufferlib_kcore import graph
from pufferlib_kcore.cli import batch
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch import launch
from pufferlib_kcore.policies.restore import restore
from pufferlib_kcore.store import MettaFolder, StateFile, metta

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


def started(folder, words, output):
    """kcore.sh, running in a folder."""
    command = ["bash", str(REPO / "kcore.sh"), *words]
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output, text=True)


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
    rows = {tuple(row) for row in original.policy.policy.encoder.weight.tolist()}
    assert all(tuple(row) in rows for row in ablated.policy.encoder.weight.tolist())
    scratch = restore(run_of(folder, f"t1_epoch_4_scratch_{THRESHOLDS}").model_path(4)).policy
    assert not any(tuple(row) in rows for row in scratch.policy.encoder.weight.tolist())


def test_a_rerun_repeats_nothing(gridded):
    folder, _ = gridded
    times = {p: p.stat().st_mtime_ns for p in (folder / "train_dir").rglob("*__sc0*.pt")}
    words = "--exp-name t1 --epoch-idx 4 --kinds original collapsed ablated scratch scratch-full".split()
    status, out, _ = kcore(folder, *words, *QUICK)
    assert status == 0 and "5 done before, 0 to do" in out
    assert {p: p.stat().st_mtime_ns for p in (folder / "train_dir").rglob("*__sc0*.pt")} == times


def test_parameters_come_from_the_environment_and_lists_make_a_grid(work, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "python").chmod(0o755)
    given = {"exp_name": "t1", "epoch_idx": "2 4 5", "jobs": "3", "PYTHON": str(tmp_path / "python")}
    _, out, _ = bash(work, "kcore.sh", "--kinds", "original", "--seeds", "3,4", *QUICK, **given)
    script, *words = out.splitlines()
    assert script == str(REPO / "tools/kcore.py")
    status, out, err = kcore(work, *words)
    assert (status, err) == (0, "")
    assert "no checkpoint of epoch 5, the nearest is 6" in out
    for name in (f"t1_epoch_{epoch}_original_seed{seed}" for epoch in (2, 4, 6) for seed in (3, 4)):
        assert run_of(work, name).config()["seed"] == int(name[-1])


@pytest.mark.slow
def test_the_ablation_script_trains_the_controls_to_a_size(work):
    words = "--exp-name t1 --epoch-idx 6 --target-params 0.3 --collapse.calibrate 256".split()
    status, out, err = bash(work, "kcore_ablation.sh", *words, *QUICK)
    assert (status, err) == (0, ""), err
    for role in ("ablationsrandom", "scratch"):
        about = run_of(work, f"t1_epoch_6_{role}_params0.3").config()["collapse"]
        assert 0.2 < about["params_after"] / about["params_before"] <= 0.3


def test_a_killed_batch_goes_on_where_it_was(work):
    words = ["--exp-name", "t1", "--epoch-idx", "4", "--kinds", "original", "--seeds", "1,2", *QUICK]
    words[words.index("2048")] = "15360"
    program = started(work, words, subprocess.DEVNULL)
    first, second = (run_of(work, f"t1_epoch_4_original_seed{seed}") for seed in (1, 2))
    end = time.monotonic() + 120
    while len(first.checkpoints()) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert not second.checkpoints()
    assert first.latest()[0] < 60
    status, out, err = bash(work, "kcore.sh", *words)
    assert (status, err) == (0, "") and "0 done before, 2 to do" in out
    assert epochs(first) == epochs(second) == list(range(5, 61))
    assert (first.path / "log.out").read_text().count("run=") == 2


def test_one_failure_does_not_stop_the_others(work):
    (work / "train_dir/t1_epoch_4_original_seed1").write_text("in the way")
    words = "--exp-name t1 --epoch-idx 4 --kinds original --seeds 1 2".split()
    status, out, _ = kcore(work, *words, *QUICK)
    last = out.strip().splitlines()
    assert status == 1 and last[-2].startswith("failed") and "cannot make" in last[-2], out
    assert run_of(work, "t1_epoch_4_original_seed2").latest()[0] == 8
    assert (work / "train_dir/t1_kcore/logs/t1_epoch_4_original_seed1.log").is_file()
    assert "cannot make" in (work / "train_dir/t1_kcore/report/index.html").read_text()


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
def test_a_mistake_gets_one_sentence_and_starts_nothing(base, words, said, monkeypatch, capsys):
    monkeypatch.chdir(base)
    monkeypatch.setattr(launch.shutil, "which", lambda program: None)
    before = sorted((base / "train_dir").iterdir())
    status, err = batch.main(words.split()), capsys.readouterr().err
    assert status == 2 and said in err and len(err.splitlines()) == 1, err
    assert sorted((base / "train_dir").iterdir()) == before


def test_kcore_sh_gives_its_defaults_and_what_was_typed(base):
    """Through the script, which gives every threshold once: the default does not count as typed."""
    words = "--exp-name t1 --target-params 0.2 --train.total-timesteps 1536"
    assert "nothing to do" in bash(base, "kcore.sh", *words.split())[2]
    assert "leave --linear-thr out" in bash(base, "kcore.sh", *words.split(), linear_thr="0.6")[2]
    assert "leave --lstm-thr out" in bash(base, "kcore.sh", *words.split(), "--lstm-thr", "1.0")[2]


def test_overrides_are_judged_over_the_run_and_each_command_gets_those_that_it_uses(base, monkeypatch):
    monkeypatch.chdir(base)
    words = "--exp-name t1 --epoch-idx 4 --train.total-timesteps 4096 --train.num-envs 256 --vec serial"
    words += " --train.batch-size 2048 --train.learning-rate 0.01 --env.max-episode-steps 9"
    (task,) = batch.grid(*batch.parsed(words.split()))  # fits the run's horizon of 8, not the default's 16
    assert {"--train.learning-rate", "--train.num-envs", "--vec"} <= set(task.argv)
    assert not {"--train.learning-rate", "--train.total-timesteps", "0.01"} & set(task.collapse)
    assert {"--train.num-envs", "--env.max-episode-steps", "--vec", "serial"} <= set(task.collapse)


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


def test_a_rerun_with_other_settings_is_refused_and_the_report_holds_all(work):
    words = ["--exp-name", "t1", "--epoch-idx", "4", "--kinds", "original", "--seeds", "1", *QUICK]
    assert kcore(work, *words)[0] == 0
    for flag, value, name in (
        ("--train.total-timesteps", "1536", "train.total_timesteps"),
        ("--train.learning-rate", "0.01", "train.learning_rate"),
    ):
        status, _, err = kcore(work, *words, flag, value)
        assert status == 2 and f"was made with {name}" in err and len(err.splitlines()) == 1, err
    run_of(work, "t1").latest()[1].write_bytes(b"damaged")
    newest = run_of(work, "t1_epoch_4_original_seed1").latest()[1]
    newest.write_bytes(newest.read_bytes()[:1000])
    status, out, err = kcore(work, *words)
    assert status == 1 and "failed     t1_epoch_4_original_seed1" in out and "is damaged" in out, err
    words[words.index("1")] = "2"
    assert kcore(work, *words)[0] == 0
    page = (work / "train_dir/t1_kcore/report/index.html").read_text()
    assert "t1_epoch_4_original_seed1" in page and "t1_epoch_4_original_seed2" in page


def test_a_folder_that_cannot_be_written(work):
    (work / "train_dir/t1_kcore").write_text("in the way")
    status, _, err = kcore(work, "--exp-name", "t1", *QUICK)
    assert status == 2 and "cannot make" in err and len(err.splitlines()) == 1, err


def test_two_batches_at_once_are_refused(work):
    words = ["--exp-name", "t1", "--epoch-idx", "4", "--kinds", "original", *QUICK]
    words[words.index("2048")] = "500000"
    program = started(work, words, subprocess.PIPE)
    assert "1 to do" in program.stdout.readline()
    status, _, err = kcore(work, *words)
    assert status == 2 and "in use by process" in err and len(err.splitlines()) == 1, err
    run = run_of(work, "t1_epoch_4_original")
    while not run.checkpoints():
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=120)
    assert program.returncode == 1 and "the same command goes on" in err
    assert run.latest()[0] == max(epochs(run) or [4])  # it was asked to save before it ended


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


def test_a_launcher_through_submitit(work):
    pytest.importorskip("submitit")
    words = "--exp-name t1 --epoch-idx 4 --kinds original --launcher slurm --jobs 2 --seeds 1 2".split()
    submitit = ["--slurm", "cluster=local", "timeout_min=5"]
    status, out, err = kcore(work, *words, *submitit, *QUICK, before=())
    assert status == 0, err
    assert run_of(work, "t1_epoch_4_original_seed2").latest()[0] == 8
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


def test_cores_are_shared_out():
    assert launch.share_out(2, [0, 1, 2, 3]) == [[0, 2], [1, 3]]
    for jobs in (1, 3, 4, 7):
        shares = launch.share_out(jobs, [2, 3, 5, 7])
        assert len(shares) == jobs and all(shares) and {c for share in shares for c in share} == {2, 3, 5, 7}


def test_a_command_runs_on_its_cores_and_its_use_is_known(tmp_path):
    code = "import os; x = bytearray(50_000_000); print(sorted(os.sched_getaffinity(0)))"
    core = min(os.sched_getaffinity(0))
    done = launch.execute(launch.Command("c", (sys.executable, "-c", code), tmp_path / "log"), [core])
    assert done.status == 0 and (tmp_path / "log").read_text() == f"[{core}]\n"
    assert done.peak_bytes > 50_000_000 and done.seconds > 0
