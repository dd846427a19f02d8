"""Plasticity: PPO on tasks that change, with nothing done, with symmetry breaking, and with its rivals.

    python benchmarks/plasticity.py tune            # picks numbers, on seeds that are not reported
    python benchmarks/plasticity.py train           # goes on where it was stopped
    python benchmarks/plasticity.py report          # seconds, from benchmarks/plasticity/runs.jsonl

CartPole whose observations are permuted and signed anew, and actions renamed, task by task; MuJoCo's
InvertedPendulum, the same, its motor pushing the other way at times. A fresh network on each task says what
could be learned: what a stream's late tasks return below that is lost. What is lost may be the function,
which begins each task sure of what is wrong there and which symmetry breaking leaves as it is on purpose, or
the network's weights. So there are streams with new heads for each task, where only the trunk is old.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

OUT = Path(__file__).resolve().parent / "plasticity"


@dataclass(frozen=True)
class Stream:
    """tasks of so many epochs each, of batch_size steps; seeds: how many are reported"""

    world: str
    tasks: int
    epochs: int
    seeds: int
    settings: dict[str, Any]
    heads: bool = False  # whether a new task comes with new heads, for action and value, on the old trunk


CARTPOLE = {
    "batch_size": 1024,
    "minibatch_size": 256,
    "bptt_horizon": 8,
    "learning_rate": 3e-3,
    "update_epochs": 10,
    "ent_coef": 0.0,
    "anneal_lr": False,
}
PENDULUM = {**CARTPOLE, "batch_size": 2048, "bptt_horizon": 16, "learning_rate": 1e-3}
STREAMS = {
    "cartpole": Stream("cartpole", 8, 20, 5, CARTPOLE),
    "cartpole_heads": Stream("cartpole", 8, 20, 6, CARTPOLE, heads=True),
    "inverted_pendulum_heads": Stream("inverted_pendulum", 6, 16, 3, PENDULUM, heads=True),
}
NUMBERS: dict[str, tuple[float, ...]] = {  # of each method, to choose from
    "fibers": (0.1, 0.3, 1.0),
    "fibers, activations": (0.1, 0.3, 1.0),
    "redo": (0.025, 0.1, 0.3),
    "regrama": (0.025, 0.1, 0.3),
    "cbp": (0.002, 0.01, 0.05),
    "swr": (0.002, 0.01, 0.05),
    "l2-init": (0.003, 0.01, 0.03),
    "shrink-perturb": (0.003, 0.01, 0.03),
}
EVERY = {"l2-init": 1, "shrink-perturb": 1, "cbp": 1}  # epochs; the others act every 4
MAX_KL = 0.005  # nats, of symmetry breaking each time; at 0.05 it does harm
TUNED_ON = dict.fromkeys(("cartpole", "inverted_pendulum_heads"), "cartpole_heads")  # whose numbers they take
TUNING = (100,)  # seeds
TUNED = 4  # tasks of a stream that is tuned on


def one(
    stream: str, method: str, number: float | None, seed: int, tasks: int | None = None
) -> dict[str, Any]:
    """One run.  method: nothing, fresh (a new network for each task),
    distilled (that one, taught the old one's answers first), or one of NUMBERS
    """
    import torch

    torch.set_num_threads(1)
    s = replace(STREAMS[stream], tasks=tasks or STREAMS[stream].tasks)
    began = time.process_time()
    if method == "fresh":
        parts = [_train(s, {}, seed, (task,)) for task in range(s.tasks)]
        records = [r for part, _ in parts for r in part]
    else:
        records, end = _train(s, members_of(s, method, number), seed, range(s.tasks))
    column = lambda name: [r.get(name) for r in records]  # noqa: E731
    found = {
        "stream": stream,
        "method": method,
        "number": number,
        "seed": seed,
        "returns": column("episode_return"),
        "dormant": column("diagnosis/dormant"),
        "gradient_dormant": column("diagnosis/gradient_dormant"),
        "effective_rank": column("diagnosis/effective_rank"),
        "weight_norm": column("diagnosis/weight_norm"),
        "fibers": column("diagnosis/fibers"),
        "recycled": sum(r.get("breaking/recycled") or 0 for r in records),
        "kl": [r["breaking/kl"] for r in records if r.get("breaking/kl")],
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    return found if method == "fresh" else {**found, **end}


def members_of(s: Stream, method: str, number: float | None) -> dict[str, Any]:
    from plasticity_controls import Distilled

    from pufferlib_kcore.training.breaking import Breaking

    if method == "nothing":
        return {}
    if method == "distilled":
        return {"distilled": Distilled(s.epochs)}
    name, _, colors = method.partition(", ")
    assert number is not None
    every = EVERY.get(name, 4)
    return {
        "break": Breaking(
            threshold=number,
            method=name,
            colors=colors or "faithful",
            every=every,
            after=every,
            maturity=4,
            max_kl=MAX_KL,
        )
    }


def creator(world: str, seed: int, epochs: int, tasks: Any) -> Any:
    """Environments whose task changes after so many epochs' steps; of a single task that alone.

    Steps are those of a rollout, in which a reset takes one too. A task ends at its last step for every
    method alike: the episode that is on is cut off, and does not go on in the old task.
    """
    import gymnasium
    from detection_worlds import Changes

    from pufferlib_kcore.environments.puffer2.serial import emulated
    from pufferlib_kcore.environments.rewards import ScaledRewards
    from pufferlib_kcore.environments.wrappers import ClipActions, EpisodeStats, Float32Observations

    steps = epochs * (1024 if world == "cartpole" else 2048) // 8

    class From(Changes):
        """Begins with a later task, and cuts off the episode where the task changes."""

        begun = False

        def reset(self, **how: Any) -> tuple[Any, dict]:
            self.steps += self.begun
            self.begun = True
            return super().reset(**how)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, reward, terminated, truncated or self.steps % steps == 0, info

        def _change(self, number: int) -> None:
            super()._change(number + min(tasks))

    def make() -> Any:
        if world == "cartpole":
            env, scale = gymnasium.make("CartPole-v1", disable_env_checker=True), 0.05
        else:
            env, scale = gymnasium.make("InvertedPendulum-v5", disable_env_checker=True), 0.05
        if env.observation_space.dtype == np.float64:
            env = Float32Observations(env)
        if world != "cartpole":
            env = ClipActions(env)
        return emulated(ScaledRewards(EpisodeStats(From(env, steps, steps, seed)), scale, None))

    return make


def _train(s: Stream, members: dict[str, Any], seed: int, tasks: Any) -> tuple[list[dict], dict[str, Any]]:
    from dataclasses import asdict
    from types import SimpleNamespace

    import torch
    from plasticity_controls import Heads

    from pufferlib_kcore import graph, settings
    from pufferlib_kcore.diagnostics.look import fibers_of
    from pufferlib_kcore.environments import vector
    from pufferlib_kcore.policies import build, spec_from
    from pufferlib_kcore.store import Facts, ProbeFile, Run
    from pufferlib_kcore.training.algorithm import Tools
    from pufferlib_kcore.training.diagnosing import Diagnosing
    from pufferlib_kcore.training.loop import Loop
    from pufferlib_kcore.training.ppo import PPO

    tasks = list(tasks)
    vec = vector.make(creator(s.world, seed, s.epochs, tasks), "serial", 8, seed=seed)
    package = "classic_control" if s.world == "cartpole" else "mujoco"
    spec = spec_from(
        package,
        "Default",
        None,
        {"hidden_size": 64},
        {},
        vec.single_observation_space,
        vec.single_action_space,
    )
    torch.manual_seed(seed)
    policy = build(spec)
    plain = asdict(settings.resolve(s.world).train)
    total = s.settings["batch_size"] * s.epochs * len(tasks)
    own = {
        "seed": seed,
        "num_envs": 8,
        "total_timesteps": total,
        "checkpoint_interval": s.epochs,
        "precision": "float32",
    }
    heads = {"heads": Heads(s.epochs)} if s.heads else {}
    train, tools = SimpleNamespace(**{**plain, **own, **s.settings}), Tools(seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, s.world, "run")
        loop = Loop(
            PPO(policy, vec, train, tools), vec, run, train, tools, Facts(policy=spec),
            companions={**heads, "diagnose": Diagnosing(states=128), **members},
        )  # fmt: skip
        loop.fit()
        records = run.metrics()
        probe = ProbeFile.load(run.probe_path)
        traced = graph.trace(policy, probe.inputs[0])
        end: dict[str, Any] = {"fibers_end": fibers_of(traced)}
        result = traced.merge(traced.color(0.3), calibrate=probe.inputs)
        end |= {"params": result.report.params_before, "params_collapsed": result.report.params_after}
        end |= played_on(s, policy, result.policy, seed, tasks[-1])
    vec.close()
    return records, end


def played_on(s: Stream, policy: Any, smaller: Any, seed: int, task: int) -> dict[str, float]:
    """Returns on the last task, of the policy and of its collapse at 0.3, in the same episodes."""
    from pufferlib_kcore.environments import vector
    from pufferlib_kcore.training.acting import play

    found = {}
    for name, p in (("return_end", policy), ("return_collapsed", smaller)):
        vec = vector.make(creator(s.world, seed, 10**6, [task]), "serial", 8, seed=seed)  # it stays
        found[name] = float(play(p, vec, 7, episodes=16).returns.mean())
        vec.close()
    return found


def runs_path(tuning: bool = False) -> Path:
    return OUT / ("tuning.jsonl" if tuning else "runs.jsonl")


def load(tuning: bool = False) -> list[dict[str, Any]]:
    path = runs_path(tuning)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def area(run: dict[str, Any]) -> float:
    """The mean return over the whole stream, after its first task."""
    x = np.array([np.nan if v is None else v for v in run["returns"]], float)
    return float(np.nanmean(x[STREAMS[run["stream"]].epochs :]))


def last(run: dict[str, Any]) -> float:
    """The mean return over the second half of the last task."""
    s = STREAMS[run["stream"]]
    x = np.array([np.nan if v is None else v for v in run["returns"]], float)
    return float(np.nanmean(x[-(s.epochs // 2) :]))


def chosen(stream: str) -> dict[str, float]:
    """Each method's number with the greatest area, over the tuning seeds."""
    found, stream = {}, TUNED_ON.get(stream, stream)
    for method, numbers in NUMBERS.items():
        score = {}
        for number in numbers:
            own = [
                r for r in load(True) if (r["method"], r["number"], r["stream"]) == (method, number, stream)
            ]
            if own:
                score[number] = np.mean([area(r) for r in own])
        found[method] = max(score, key=lambda n: score[n]) if score else numbers[0]
    return found


def work(todo: list[tuple], jobs: int, tuning: bool) -> None:
    OUT.mkdir(exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, *job) for job in todo]
        for number, future in enumerate(as_completed(waiting), 1):
            run = future.result()
            with open(runs_path(tuning), "a") as file:
                file.write(json.dumps(run) + "\n")
            print(
                f"{number}/{len(todo)} {run['stream']} {run['method']} {run['number']} seed {run['seed']}: "
                f"area {area(run):.1f} last {last(run):.1f} fresh {run['recycled']:.0f} "
                f"{run['cpu_seconds']} CPU s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tune", "train", "report"])
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=list(STREAMS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once; each takes one core")
    args = parser.parse_args()
    if args.what == "report":
        from plasticity_report import report

        report(load(), OUT)
        return
    tuning = args.what == "tune"
    done = {(r["stream"], r["method"], r["number"], r["seed"]) for r in load(tuning)}
    todo: list[tuple] = []
    for stream in args.streams:
        if tuning:
            todo += [(stream, m, n, seed, TUNED) for seed in TUNING for m, ns in NUMBERS.items() for n in ns]
            continue
        for seed in range(STREAMS[stream].seeds):
            todo += [(stream, "nothing", None, seed), (stream, "fresh", None, seed)]
            todo += [] if STREAMS[stream].heads else [(stream, "distilled", None, seed)]
            todo += [(stream, method, number, seed) for method, number in chosen(stream).items()]
    work([job for job in todo if job[:4] not in done], args.jobs, tuning)


if __name__ == "__main__":
    main()
