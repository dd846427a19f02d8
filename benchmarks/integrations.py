"""Stable-Baselines3's models: returns before and after a collapse, and after as many steps again.

    python benchmarks/integrations.py --worlds cartpole-ppo cartpole-dqn
    python benchmarks/integrations.py --report

A line of integrations/results.jsonl for each world, seed and part of the parameters that is kept; lines that
are there are not run again. integrations/results.md is written from them. Beside each stands the model that
was not collapsed, trained for as many steps more.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).with_suffix("")
RESULTS, TABLE = FOLDER / "results.jsonl", FOLDER / "results.md"
PARTS = (1.0, 0.2, 0.05)  # of the parameters; 1.0: not collapsed
SEEDS = (0, 1, 2)
EPISODES = 20  # of an evaluation
WORLDS: dict[str, dict[str, Any]] = {
    "cartpole-ppo": {"algo": "PPO", "policy": "MlpPolicy", "env": "CartPole-v1", "steps": 20_000},
    "cartpole-dqn": {
        "algo": "DQN",
        "policy": "MlpPolicy",
        "env": "CartPole-v1",
        "steps": 30_000,
        "how": {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    },
    "halfcheetah-sac": {"algo": "SAC", "policy": "MlpPolicy", "env": "HalfCheetah-v5", "steps": 100_000},
    "pong-ppo": {"algo": "PPO", "policy": "CnnPolicy", "env": "PongNoFrameskip-v4", "steps": 100_000},
}


def environment(world: dict[str, Any], seed: int) -> Any:
    """A VecEnv of a world; Atari's in its usual wrappers."""
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack

    if world["policy"] == "CnnPolicy":
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        return VecFrameStack(make_atari_env(world["env"], n_envs=4, seed=seed), 4)
    return make_vec_env(world["env"], seed=seed)


def episode_return(model: Any, world: dict[str, Any]) -> float:
    from stable_baselines3.common.evaluation import evaluate_policy

    episodes = EPISODES if "cartpole" in world["env"].lower() else 5
    return float(evaluate_policy(model, environment(world, 1000), episodes)[0])


def run(name: str, seed: int, done: set[tuple]) -> None:
    """Train once, collapse to each part, train each on; append what came of it."""
    import stable_baselines3

    from pufferlib_kcore.integrations import sb3

    missing = [part for part in PARTS if (name, seed, part) not in done]
    if not missing:
        return
    world, start = WORLDS[name], time.time()
    algorithm = getattr(stable_baselines3, world["algo"])
    model = algorithm(
        world["policy"], environment(world, seed), seed=seed, device="cpu", **world.get("how", {})
    )
    model.learn(world["steps"])
    before = episode_return(model, world)
    for part in sorted(missing):  # the model itself last: it goes on where the others did
        env = environment(world, seed + 100)
        line: dict[str, Any] = {"world": name, "seed": seed, "part": part, "before": before}
        if part < 1:
            began = time.time()
            smaller, found = sb3.collapse(model, "auto", target_params=part, report=True, env=env)
            line |= {"seconds": round(time.time() - began, 1), "params": found.report.params_after}
        else:
            smaller = model
            smaller.set_env(env)
        line["after"] = episode_return(smaller, world)
        smaller.learn(world["steps"], reset_num_timesteps=False)
        line |= {"later": episode_return(smaller, world), "steps": world["steps"]}
        FOLDER.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{time.time() - start:6.0f} s  {line}", flush=True)


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def report(lines: list[dict[str, Any]]) -> str:
    """A row for each world and part: means over seeds, and the range."""
    rows = [
        "| world | parameters kept | seeds | before | after | as many steps later |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, part in dict.fromkeys((line["world"], line["part"]) for line in lines):
        some = [line for line in lines if (line["world"], line["part"]) == (name, part)]
        cells = [
            f"{np.mean(x):.1f} ({min(x):.0f} to {max(x):.0f})"
            for x in ([line[key] for line in some] for key in ("before", "after", "later"))
        ]
        rows.append(f"| {name} | {part:.0%} | {len(some)} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="*", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--report", action="store_true", help="write the table alone")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if not words.report:
        done = {(line["world"], line["seed"], line["part"]) for line in read()}
        for name in words.worlds:
            for seed in SEEDS:
                run(name, seed, done)
    lines = sorted(read(), key=lambda x: (list(WORLDS).index(x["world"]), -x["part"], x["seed"]))
    TABLE.write_text("Mean episode return over seeds, and the range of seeds.\n\n" + report(lines))


if __name__ == "__main__":
    main()
