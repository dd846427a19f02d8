"""BeamRider: the first 614,400 steps at the published settings, ours and PufferLib 2.0's own trainer.

    python benchmarks/beam_rider.py --pufferlib-trainer path/to/clean_pufferl.py

Ours twice: as it trains by itself (in bfloat16 where the hardware multiplies it) and in float32. Three seeds
each, all at once with one torch thread each where the cores allow it: what is learned does not depend on it.
Writes ours.jsonl, float32.jsonl, rival.jsonl and beam_rider.png to benchmarks/beam_rider; curves that are
there already are kept, so that each side can be run alone (without the path, ours alone).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import REPO, Failed, lines, train, train_rival

OUT = REPO / "benchmarks/beam_rider"
SIDES = {"ours": "pufferlib_kcore", "float32": "pufferlib_kcore, float32", "rival": "PufferLib 2.0's trainer"}
KEYS = "epoch agent_steps episodes episode_return entropy approx_kl explained_variance".split()


def learn(side: str, seed: int, steps: int, trainer: Path | None, folder: Path) -> list[dict]:
    """Train one seed.  -> records of its epochs.  Raises Failed."""
    place = folder / f"{side}{seed}"
    if side == "rival":
        words = f"--vec serial --threads 1 --seed {seed} --steps {steps}"
        return train_rival("pufferlib", ["--trainer", trainer, *words.split()], place, limit=None)
    words = "--env beam_rider --train.num-workers 1 --train.threads 1"
    words += f" --seed {seed} --train.total-timesteps {steps}"
    words += " --train.precision float32" if side == "float32" else ""
    records = train(words.split(), place, limit=None)
    return [{"seed": seed, **{key: record[key] for key in KEYS}} for record in records]


def late(curves: list[dict]) -> dict[int, float]:
    """Each seed's mean return over the episodes of its last five epochs."""
    result = {}
    for seed in sorted({r["seed"] for r in curves}):
        tail = [r for r in curves if r["seed"] == seed and r["episode_return"] is not None][-5:]
        returns, weights = ([r[key] for r in tail] for key in ("episode_return", "episodes"))
        result[seed] = float(np.average(returns, weights=weights))
    return result


def draw(axes: Any, sides: dict[str, list[dict]], names: Sequence[str]) -> None:
    """Returns over steps: every seed thin, the mean over seeds thick.  names: all, by color"""
    for name, curves in sides.items():
        color = f"C{names.index(name)}"
        by_epoch: dict[int, list[tuple[float, float]]] = {}
        seeds = sorted({r["seed"] for r in curves})
        for seed in seeds:
            own = [r for r in curves if r["seed"] == seed and r["episode_return"] is not None]
            points = [(r["agent_steps"], r["episode_return"]) for r in own]
            axes.plot(*zip(*points, strict=True), color=color, lw=0.6)
            for r, point in zip(own, points, strict=True):
                by_epoch.setdefault(r["epoch"], []).append(point)
        means = np.array([np.mean(points, axis=0) for _, points in sorted(by_epoch.items())])
        axes.plot(*means.T, color=color, lw=2.5, label=f"{name}, mean of {len(seeds)} seeds")
    axes.locator_params("x", nbins=6)
    axes.set(xlabel="agent steps", ylabel="episode return")
    axes.legend()


def kept(folder: Path) -> dict[str, list[dict]]:
    """The records of each side that has been trained."""
    return {side: lines(path) for side in SIDES if (path := folder / f"{side}.jsonl").exists()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pufferlib-trainer", metavar="PATH", type=Path, help="PufferLib 2.0's clean_pufferl.py"
    )
    parser.add_argument("--steps", type=int, default=614_400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=3, help="runs at once")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of curves and figure")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for side in SIDES:
        path = args.out / f"{side}.jsonl"
        if path.exists():
            print(f"keeping {path}; delete it to run again")
            continue
        if side == "rival" and not args.pufferlib_trainer:
            print("no --pufferlib-trainer: ours alone")
            continue
        trainer = args.pufferlib_trainer and args.pufferlib_trainer.absolute()
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
            job = partial(learn, side, steps=args.steps, trainer=trainer, folder=Path(folder))
            found = list(pool.map(job, range(1, args.seeds + 1)))
        path.write_text("".join(json.dumps(record) + "\n" for curve in found for record in curve))
    curves = {SIDES[side]: records for side, records in kept(args.out).items()}
    for label, records in curves.items():
        ends = late(records)
        shown = ", ".join(f"{value:.0f}" for value in ends.values())
        print(f"{label:24} return over the last 5 epochs: {shown}   mean {np.mean(list(ends.values())):.0f}")
    drawn = Figure(figsize=(6.5, 4), layout="constrained")
    axes = drawn.subplots()
    draw(axes, curves, list(SIDES.values()))
    axes.set_title("BeamRider, published settings")
    drawn.savefig(args.out / "beam_rider.png", dpi=100)
    print(f"wrote {args.out}/beam_rider.png")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"beam_rider.py: {error}")
