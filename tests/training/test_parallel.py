"""Training in several processes: what they learn is what one learns from all of their steps."""

import importlib
import json
import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from commands import demo, warm
from worlds import Countdown, learner, loop, rollout, tiny_policy, weights

from pufferlib_kcore.cli import main
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import Run
from pufferlib_kcore.training import parallel
from pufferlib_kcore.training.algorithm import Tools
from pufferlib_kcore.training.companions import Companion, Said
from pufferlib_kcore.training.parallel import ALONE, Group
from pufferlib_kcore.training.rollout import Experience

REPO = Path(__file__).resolve().parents[2]
ENVS, STEPS = 8, 8


def experience():
    """A policy, and a rollout of it with dummy steps that two processes do not share evenly."""
    vec = Countdown([3, 3, 3, 4, 20, 20, 9, 20])
    policy = tiny_policy(vec)
    return policy, rollout(vec, policy, STEPS)


def updated(policy, data, together):
    made = learner(policy, 0.5, torch.optim.SGD, together, minibatch_size=ENVS * STEPS)
    losses = made.update(data)
    return [p.detach() for p in policy.parameters()], losses


def part_of(data: Experience, rank: int, size: int) -> Experience:
    """The environments of one process."""
    rows = slice(rank * ENVS // size, (rank + 1) * ENVS // size)
    own = {
        f.name: getattr(data, f.name)[:, rows] if f.name.startswith("state_") else getattr(data, f.name)[rows]
        for f in fields(data)
    }
    return replace(data, **own)


def one_of_two(rank, folder, here):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    policy, data = experience()
    together = Group(rank, 2, here)
    parameters, losses = updated(policy, part_of(data, rank, 2), together)
    torch.save((parameters, losses), f"{folder}/{rank}.pt")
    assert together.any(rank == 1) and not together.any(False)
    assert together.joined([rank]) == [0, 1]
    assert together.first(lambda: ["made by", rank]) == ["made by", 0]
    dist.destroy_process_group()


@pytest.mark.parametrize("here", [1, 2])
def test_two_processes_learn_what_one_learns_from_all_steps(tmp_path, here):
    """Over sockets, and in the memory that processes of one machine share."""
    warm()
    start = torch.multiprocessing.start_processes
    start(one_of_two, (str(tmp_path), here), nprocs=2, start_method="forkserver")
    policy, data = experience()
    counts = [int(part_of(data, rank, 2).valid.sum()) for rank in range(2)]
    assert counts[0] != counts[1]
    before = [p.detach().clone() for p in policy.parameters()]
    alone, losses = updated(policy, data, ALONE)
    for rank in range(2):
        parameters, said = torch.load(tmp_path / f"{rank}.pt")
        for start, one, two in zip(before, alone, parameters, strict=True):
            assert torch.allclose(one, two, rtol=0, atol=1e-6)
            assert not torch.equal(start, one)
        for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac"):
            assert said[name] == pytest.approx(losses[name], abs=1e-5)


class Moves(Companion):
    """Moves weights and moments, in the process that leads; asks to stop after two epochs."""

    def after(self, epoch):
        with torch.no_grad():
            for p in epoch.policy.parameters():
                p.data = p + torch.randn(p.shape, generator=epoch.generator)
                epoch.optimizer.state[p]["exp_avg"] = torch.randn(p.shape, generator=epoch.generator)
        return Said(
            {"moves/heard": epoch.metrics["environment/score"]}, True, "moved" if epoch.number == 2 else None
        )


class Scores(Countdown):
    """Countdown that reports a score at each episode's end."""

    def send(self, g, actions):
        super().send(g, actions)
        for info in self.infos[g]:
            info["score"] = info["episode_length"]


def accompanied(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    vec = Scores([3, 3, 3, 3] if rank == 0 else [7, 7, 7, 7])
    policy = tiny_policy(vec, seed=rank)
    size = {"batch_size": 128, "minibatch_size": 64, "total_timesteps": 128 * 9, "checkpoint_interval": 99}
    members = {"moves": Moves()} if rank == 0 else {"moves": Companion()}  # only the first is called
    trainer = loop(Path(folder) / str(rank), vec, policy, members, together=Group(rank, 2), **size)
    done = trainer.fit()
    assert not done and trainer.epoch == 2 and trainer.reason == "moves: moved"
    assert vec.began == ((1, 0), 4 * rank)
    moments = [trainer.optimizer.state[p]["exp_avg"] for p in policy.parameters()]
    torch.save((weights(policy), torch.cat([m.flatten() for m in moments])), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_what_a_companion_changes_in_the_first_process_all_take_over(tmp_path):
    warm()
    torch.multiprocessing.start_processes(accompanied, (str(tmp_path),), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    records = Run(tmp_path / "0/run").metrics()
    assert not Run(tmp_path / "1/run").metrics()
    score = (4 * 3 + 2 * 7) / (4 + 2)  # four episodes of 3 steps, and two of 7, in 16 of each environment
    assert records[0]["environment/score"] == records[0]["moves/heard"] == pytest.approx(score)


def test_each_process_draws_from_a_stream_of_its_own_that_a_resume_moves_on():
    seeds = {}
    for rank, steps in ((0, 0), (0, 64), (1, 0), (1, 64), (2, 0)):
        tools = Tools(7, Group(rank, 3))
        tools.seed_generator(steps)
        seeds[rank, steps] = tools.generator.initial_seed()
    assert seeds[0, 0] == seeds[0, 64] == 7, "the first one's state is in the checkpoint"
    assert len(set(seeds.values())) == 4


def test_what_cannot_be_shared_is_one_sentence():
    assert Group(0, 2).part(8, "num_envs") == 4
    with pytest.raises(
        UserError, match="num_envs = 7 cannot be shared by 2 processes: try --train.num-envs 8"
    ):
        Group(0, 2).part(7, "num_envs")


def joined_and_left(rank, folder, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with parallel.group(torch.device("cpu")) as together:
        assert together.any(rank == 1)
        assert any("gloo" in name for name in names_of_threads())
        importlib.import_module("torch.distributed.nn.functional")  # as torch's optimizers come to do
    Path(folder, str(rank)).write_text(" ".join(names_of_threads()))


def names_of_threads():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def test_a_group_that_is_left_leaves_no_thread_behind(tmp_path):
    """One that outlives Python may abort the process as it ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    start = torch.multiprocessing.start_processes
    start(joined_and_left, (str(tmp_path), port), nprocs=2)  # spawned: nothing is imported yet
    for rank in range(2):
        assert "gloo" not in (tmp_path / str(rank)).read_text()


def torchrun(folder, *words, status=0):
    small = "--mode train --vec serial --env cartpole --base.rnn-name Recurrent --train.num-envs 4 "
    small += "--train.batch-size 256 --train.minibatch-size 128 --train.bptt-horizon 8 "
    small += "--train.checkpoint-interval 2"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(REPO / "demo.py"), *small.split(), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode == 0) == (status == 0), done.stderr
    return done


def test_torchrun_trains_one_run_and_resumes_it(tmp_path):
    base = "--exp-id", "base"
    torchrun(tmp_path, *base, "--train.total-timesteps", "1024")
    run = Run.open(tmp_path / "experiments/base")
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["base"]
    first = run.metrics()
    assert [(r["epoch"], r["agent_steps"]) for r in first] == [(i, 256 * i) for i in (1, 2, 3, 4)]
    torchrun(tmp_path, *base, "--train.total-timesteps", "1536")
    assert [r["epoch"] for r in run.metrics()] == [1, 2, 3, 4, 5, 6]
    assert run.metrics()[:4] == first
    config = json.loads((run.path / "config.json").read_text())
    assert config["settings"]["train"]["num_envs"] == 4
    # one process goes on with what two began
    alone = "--mode train --vec serial --exp-id base --train.total-timesteps 2048".split()
    assert demo(tmp_path, *alone)[0] == 0
    assert run.latest()[0] == 8


def test_torchrun_tells_a_mistake_once(tmp_path):
    done = torchrun(tmp_path, "--train.batch-size", "192", "--train.minibatch-size", "24", status=1)
    assert done.stderr.count("demo.py: ") == 1, done.stderr


def test_torchrun_only_trains(tmp_path):
    done = torchrun(tmp_path, "--mode", "profile", status=1)
    assert done.stderr.count("demo.py: --mode profile runs in one process") == 1, done.stderr


def test_a_mistake_that_only_another_process_makes_is_told_as_well(monkeypatch, capsys):
    monkeypatch.setattr("pufferlib_kcore.cli.PATIENCE", 0.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--mode", "profile", "--env", "cartpole"]) == 2
    assert capsys.readouterr().err.startswith("demo.py: --mode profile runs in one process")
