"""How fast a line is walked, against the published way: a network, an environment and a step at a time.

    python benchmarks/connectivity_speed.py            # five minutes; both in turns, on a quiet machine

The same SAC actors (256-256), episodes and seeds, and so the same returns: both compute in float64 and round
actions to float32. Timed by the step: the published way plays the ends of the line, ours all of its places,
its processes and environments started anew each time.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pufferlib_kcore.connectivity.actors import Actor  # noqa: E402
from pufferlib_kcore.connectivity.lines import walk  # noqa: E402
from pufferlib_kcore.environments import make_creator, seeds  # noqa: E402

OUT = Path(__file__).resolve().parent / "connectivity" / "speed.json"
TASKS = {"InvertedDoublePendulum-v5": 10, "HalfCheetah-v5": 5}  # how many times as fast is aimed at
STEPS = 1000  # of an episode, at most
SEED = (7,)
# From InvertedDoublePendulum's observations to an action, before tanh, that balances: found by random search.
GAINS = (-1.02, -3.73, -12.78, 0.0, 0.0, -1.33, -3.22, -2.71, 0.0)


def ends(creator) -> list[Actor]:
    """Two actors; of a pendulum they balance it, one more firmly, so that episodes are as long as can be."""
    env = creator.gymnasium()
    width, size = env.observation_space.shape[0], env.action_space.shape[0]
    env.close()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(Actor([width, 256, 256], -torch.ones(size), torch.ones(size), True))
    if size == 1:
        gains = torch.tensor(GAINS)
        for one, firm in zip(found, (1.0, 1.2), strict=True):
            with torch.no_grad():
                one.trunk[0].weight[:2] = firm * torch.stack([gains, -gains])
                one.trunk[0].bias[:2] = one.trunk[2].bias[:2] = 0
                one.trunk[2].weight[:2] = torch.eye(256)[:2]
                one.mu.weight.zero_()[0, :2] = torch.tensor([1.0, -1.0])
                one.mu.bias.zero_()
    return found


def published(one: Actor, other: Actor, creator, alphas: np.ndarray, episodes: int) -> tuple[np.ndarray, int]:
    """-> returns (A, E), steps"""
    env, returns, steps = creator.gymnasium(), np.zeros((len(alphas), episodes)), 0
    weights = [{k: x.double() for k, x in m.state_dict().items()} for m in (one, other)]
    policy = copy.deepcopy(one).double()
    for a, alpha in enumerate(alphas):
        policy.load_state_dict({k: (1 - alpha) * x + alpha * weights[1][k] for k, x in weights[0].items()})
        for e in range(episodes):
            obs, _ = env.reset(seed=seeds.env_seed(SEED, e))
            over = False
            while not over:
                with torch.no_grad():
                    seen = torch.as_tensor(obs, dtype=torch.float64).unsqueeze(0)
                    hidden = policy.trunk(seen)
                    action = policy.low + (policy.high - policy.low) * (torch.tanh(policy.mu(hidden)) + 1) / 2
                obs, _, ended, cut, info = env.step(action[0].float().numpy())
                over, steps = ended or cut, steps + 1
            returns[a, e] = info["episode_return"]
    env.close()
    return returns, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alphas", type=int, default=21)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    alphas = np.linspace(0, 1, args.alphas)
    some = np.linspace(0, args.alphas - 1, 2).astype(int)
    found = {}
    for task, goal in TASKS.items():
        creator = make_creator(task, rewards=(), max_episode_steps=STEPS)
        one, other = ends(creator)
        times: dict[str, list[float]] = {"published": [], "ours": []}
        for _ in range(args.rounds):
            began = time.perf_counter()
            theirs, steps = published(one, other, creator, alphas[some], args.episodes)
            times["published"].append((time.perf_counter() - began) / steps)
            began = time.perf_counter()
            line = walk(one, other, creator, alphas=args.alphas, episodes=args.episodes, seed=SEED)
            times["ours"].append((time.perf_counter() - began) / line.lengths.sum())
        same = bool((line.returns[some] == theirs).all())
        micro = {name: 1e6 * float(np.median(x)) for name, x in times.items()}
        ratio = micro["published"] / micro["ours"]
        found[task] = {
            **micro,
            "ratio": ratio,
            "goal": goal,
            "identical": same,
            "steps": int(line.lengths.sum()),
        }
        print(
            f"{task}: published {micro['published']:.1f} us/step, ours {micro['ours']:.1f}: {ratio:.1f} "
            f"times as fast (goal {goal}), returns identical: {same}, {len(os.sched_getaffinity(0))} cores",
            flush=True,
        )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
