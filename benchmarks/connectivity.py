"""Connectivity: forks of SAC and DDPG over training, by task, seed and replay strategy.

    python benchmarks/connectivity.py train      # two hours on 2 cores; goes on where it was stopped
    python benchmarks/connectivity.py runs       # PPO of demo.py, forks and collapses; 20 minutes
    python benchmarks/connectivity.py report     # seconds, from benchmarks/connectivity/*.jsonl

The program is experiments.run_env's. What is cut, so that two hours are enough: 20,000 steps for
200,000, 1,000 steps of warm-up for 10,000, batches of 128, 3 forks for 10, lines of 21 places with 20
episodes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks" / "connectivity"
CUT = {
    "total_steps": "20000",
    "learning_starts": "1000",
    "batch_size": "128",
    "eval_freq": "2000",
    "eval_episodes": "5",
    "fork_points": "0.05,0.2,0.5",
    "alphas": "21",
    "fork_episodes": "20",
}
TASKS = ("InvertedDoublePendulum-v5", "Hopper-v5")
CASES = [
    (TASKS[0], "SAC", "copy"),
    (TASKS[1], "DDPG", "copy"),
    (TASKS[1], "SAC", "copy"),
    (TASKS[0], "SAC", "fresh"),
    (TASKS[0], "SAC", "split"),
    (TASKS[0], "DDPG", "copy"),
]
LINE = ("--line.alphas", "21", "--line.episodes", "32")
SERIAL = "--vec serial --train.threads 1 --base.rnn-name Recurrent "
RUNS = {  # task: its training, seeds, the epoch of its collapse, where it forks
    "cartpole": (
        SERIAL + "--env cartpole --train.total-timesteps 204800 --train.checkpoint-interval 5",
        3,
        50,
        "0.1,0.3,0.5",
    ),
    "memory_cue": (
        SERIAL + "--env memory_cue --train.total-timesteps 204800 --train.checkpoint-interval 5",
        3,
        25,
        "0.1,0.3,0.5",
    ),
    "half_cheetah": (
        SERIAL + "--env half_cheetah --policy.hidden-size 128 --env.reward-scale 0.1 "
        "--train.total-timesteps 1000000 --train.anneal-lr True --train.update-epochs 5 "
        "--train.checkpoint-interval 25",
        1,
        250,
        "0.5,0.8",
    ),
}


def train(seeds: int, jobs: int, root: Path) -> None:
    """Run what is missing, seed by seed."""
    from pufferlib_kcore.connectivity.plan import Plan
    from pufferlib_kcore.jobs.forking import fork

    done = {(r["env"], r["algo"], r["strategy"], r["seed"]) for r in load()}
    for seed in range(seeds):
        for env, algo, strategy in CASES:
            if (env, algo, strategy, seed) in done:
                continue
            began = time.time()
            texts = {**CUT, "env": env, "algo": algo, "fork_buffer_strategy": strategy, "seed": str(seed)}
            found = fork(Plan.of({**texts, "jobs": str(jobs), "experiment_name": strategy}), root)
            trunk = found.folder.evaluations()[-1]["mean_reward"]
            with open(OUT / "forks.jsonl", "a") as file:
                for one in found.forks:
                    told = {"env": env, "algo": algo, "seed": seed, "trunk": trunk}
                    file.write(json.dumps({**told, **one}) + "\n")
            print(f"{env} {algo} {strategy} seed {seed}: {time.time() - began:.0f} s\n{found}", flush=True)


def runs(seeds: int, root: Path) -> None:
    """Recurrent policies of demo.py: trained, forked, collapsed half way to a tenth and trained on."""
    root.mkdir(parents=True, exist_ok=True)
    done = {(r["task"], r["seed"]) for r in load("runs.jsonl")}
    for seed in range(seeds):
        for task, (words, number, epoch, points) in RUNS.items():
            if (task, seed) in done or seed >= number:
                continue
            began, name = time.time(), f"{task}_{seed}"
            here = ["--exp-id", name]
            demo(root, *words.split(), "--seed", seed, *here, "--train.keep-state", "all")
            demo(root, "--mode", "fork", *here, "--vec", "serial", "--fork-points", points, *LINE)
            half = ["--collapse-epoch", epoch, "--collapse.target-params", "0.1"]
            demo(root, *words.split(), "--seed", seed, *here, "--collapse", "auto", *half)
            demo(root, "--mode", "connectivity", *here, *LINE)
            run = root / "experiments" / name
            found = {
                "forks": json.loads((run / "connectivity" / "all_forks_results.json").read_text()),
                "valley": json.loads((run / "connectivity.json").read_text()),
            }
            with open(OUT / "runs.jsonl", "a") as file:
                file.write(json.dumps({"task": task, "seed": seed, **found}) + "\n")
            print(f"{task} seed {seed}: {time.time() - began:.0f} s", flush=True)


def demo(root: Path, *words: Any) -> None:
    """One command of demo.py, in a folder."""
    command = [sys.executable, REPO / "demo.py", *map(str, words)]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


def load(name: str = "forks.jsonl") -> list[dict[str, Any]]:
    path = OUT / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "runs", "report"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    parser.add_argument("--root", type=Path, default=OUT / "runs", help="where results and weights go")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    if args.what == "train":
        train(args.seeds, args.jobs, args.root)
    elif args.what == "runs":
        runs(args.seeds, args.root)
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        from connectivity_report import report

        report(load(), load("runs.jsonl"), OUT)


if __name__ == "__main__":
    main()
