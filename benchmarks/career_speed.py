"""How many steps of careers a second: one at a time, as published and as ours, and many a call.

    python benchmarks/career_speed.py --published FOLDER      # a checkout of RL_Failure_Lab; a minute

Switching half of the time; all in turns, in one process, on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pufferlib_kcore.environments.career import CareerEnv, CareerVectorEnv  # noqa: E402

OUT = Path(__file__).resolve().parent / "career_speed.json"
GOAL = 50


def single(env) -> Callable[[], float]:
    """Steps a second of one environment, begun anew where it ends."""

    def run(steps: int = 20_000) -> float:
        actions = np.random.default_rng(0).integers(0, 2, steps).tolist()
        env.reset(seed=0)
        began = time.perf_counter()
        for action in actions:
            ended, cut = env.step(action)[2:4]
            if ended or cut:
                env.reset()
        return steps / (time.perf_counter() - began)

    return run


def many(envs: int) -> Callable[[], float]:
    env = CareerVectorEnv(envs)

    def run(calls: int = 200) -> float:
        actions = np.random.default_rng(0).integers(0, 2, (calls, envs))
        env.reset(seed=0)
        began = time.perf_counter()
        for row in actions:
            env.step(row)
        return calls * envs / (time.perf_counter() - began)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, help="a checkout of the published program")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    runs = {"ours, one": single(CareerEnv())}
    if args.published:
        sys.path.insert(0, str(args.published))
        from src.environments.career_env import CareerEnv as Published

        runs = {"published, one": single(Published()), **runs}
    runs |= {f"ours, {n:,}": many(n) for n in (64, 1024, 4096)}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            found[name].append(run())
    base = float(np.median(next(iter(found.values()))))
    rows = {
        name: {"steps/s": float(np.median(x)), "times": float(np.median(x)) / base}
        for name, x in found.items()
    }
    for name, row in rows.items():
        print(f"{name:16} {row['steps/s']:14,.0f} steps/s {row['times']:8.1f} times the first (goal {GOAL})")
    OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
