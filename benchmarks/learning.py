"""Learning: that the trainer learns, on small tasks with known answers, several seeds each.

    python benchmarks/learning.py            # some minutes; writes to benchmarks/learning

CartPole with an LSTM to 475 and more; Pendulum (continuous) to -200 and more; a cue to be remembered over 8
blank steps, with an LSTM and without (chance is 0.25).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))

import rounds
from rounds import REPO

from pufferlib_kcore.analysis import Curve
from pufferlib_kcore.store import provenance

TASKS = {  # name: (arguments, return that counts as solved, or that must not be reached)
    "CartPole + LSTM": (
        "--env cartpole --base.rnn-name Recurrent --train.total-timesteps 204800",
        475,
    ),
    "Pendulum (continuous)": ("--env pendulum", -200),
    "Memory cue + LSTM": ("--env memory_cue --train.total-timesteps 204800", 0.95),
    "Memory cue, no LSTM": ("--env memory_cue --base.rnn-name None --train.total-timesteps 204800", 0.95),
}


def train(task: str, seed: int, folder: Path) -> dict:
    """One run.  -> its curve, and the mean return over the last tenth of its epochs"""
    exp_id = f"{task.lower().replace(' ', '_').replace('+', 'and').strip('()')}_{seed}"
    words = f"{TASKS[task][0]} --vec serial --seed {seed}"
    records = rounds.train(words.split(), folder / exp_id)
    curve = Curve.from_records(records)
    keep = [r for r in records if r["episode_return"] is not None]
    return {
        "task": task,
        "seed": seed,
        "agent_steps": [r["agent_steps"] for r in keep],
        "episode_return": [r["episode_return"] for r in keep],
        "final": float(curve.final()),
        "seconds": records[-1]["uptime"],
    }


def figure(results: list[dict]) -> Figure:
    """One panel a task, one line a seed, the solved return dashed."""
    drawn = Figure(figsize=(4 * len(TASKS), 3), layout="constrained")
    for axes, (task, (_, solved)) in zip(drawn.subplots(1, len(TASKS)), TASKS.items(), strict=True):
        for run in (r for r in results if r["task"] == task):
            axes.plot(run["agent_steps"], run["episode_return"], lw=1, label=f"seed {run['seed']}")
        axes.axhline(solved, ls="--", color="gray", lw=1)
        axes.set(title=task, xlabel="agent steps")
    axes.figure.axes[0].set_ylabel("episode return")
    axes.legend()
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once; each takes one core")
    args = parser.parse_args()
    jobs = [(task, seed) for task in TASKS for seed in range(1, args.seeds + 1)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda job: train(*job, Path(folder)), jobs))
    out = REPO / "benchmarks/learning"
    out.mkdir(exist_ok=True)
    for task, (_, solved) in TASKS.items():
        finals = [r["final"] for r in results if r["task"] == task]
        seconds = np.mean([r["seconds"] for r in results if r["task"] == task])
        shown = ", ".join(f"{f:.4g}" for f in finals)
        print(f"{task:24} solved at {solved:>6}: {shown}   ({seconds:.0f} s a seed)")
    about = provenance()
    kept = {"machine": about["machine"], "versions": about["versions"], "git_commit": about["git_commit"]}
    (out / "results.json").write_text(json.dumps({**kept, "results": results}))
    figure(results).savefig(out / "learning.png", dpi=100)
    print(f"wrote {out}/results.json and {out}/learning.png")


if __name__ == "__main__":
    main()
