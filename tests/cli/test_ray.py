"""--vec ray as a user meets it: a cluster of two nodes, one of them lost, and the way on."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pufferlib_kcore.store import Run

REPO = Path(__file__).resolve().parents[2]
PATIENCE = 240  # seconds; Ray is slow to start on a busy machine
SMALL = (
    "--mode train --env cartpole --vec ray --train.num-envs 4 --train.num-workers 2 --train.batch-size 256 "
    "--train.minibatch-size 128 --train.bptt-horizon 8 --exp-id base"
).split()


@pytest.fixture
def cluster():
    """Two nodes on this machine, either with room for all workers."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    try:
        made.add_node(num_cpus=4)
        made.wait_for_nodes(PATIENCE)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def train(tmp_path, cluster):
    """Starts demo.py, training on the cluster; it does not outlive the test."""
    started = []

    def start(*words):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": cluster.address}
        command = [sys.executable, str(REPO / "demo.py"), *SMALL, *map(str, words)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.communicate()


def epochs(run):
    return [record["epoch"] for record in run.metrics()]


def nodes_of_workers():
    """The raylets, one a node, whose children step environments."""
    found = [p for p in psutil.process_iter(["name", "cmdline", "ppid"]) if p.info["cmdline"]]
    return {p.info["ppid"] for p in found if p.info["cmdline"][0].startswith("ray::EnvWorker")}


@pytest.mark.slow
def test_a_node_lost_in_training_is_one_sentence_and_resume_goes_on_with_the_other(tmp_path, cluster, train):
    program = train("--train.total-timesteps", 10**7, "--train.checkpoint-interval", 10**6)
    run = Run(tmp_path / "experiments/base")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and program.poll() is None:
        if (run.path / "metrics.jsonl").exists() and len(run.metrics()) >= 3:
            break
        time.sleep(0.1)
    assert program.poll() is None, program.communicate()
    assert len(nodes_of_workers()) == 2
    cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
    out, err = program.communicate(timeout=PATIENCE)

    assert program.returncode == 1
    assert re.fullmatch(r"demo.py: an env worker on Ray was lost: .*; go on with `.*--resume .*`\n", err), err
    assert "raylet" not in out
    assert " workers=2 " in out and " nodes=2\n" in out
    done = epochs(run)
    assert done == list(range(1, len(done) + 1)) and len(done) >= 3
    assert [epoch for epoch, _ in run.checkpoints()] == [done[-1]]  # saved when the node was lost

    more = (done[-1] + 2) * 256
    program = train("--resume", "--train.total-timesteps", more)
    out, err = program.communicate(timeout=PATIENCE)
    assert (program.returncode, err) == (0, "")
    assert " nodes=1\n" in out and "raylet" not in out
    assert epochs(run) == list(range(1, done[-1] + 3)) and run.latest()[0] == done[-1] + 2
