"""BeamRider: the first 614,400 steps at the published settings, ours and PufferLib 2.0's own trainer.

    python benchmarks/beam_rider.py --pufferlib-trainer path/to/clean_pufferl.py

Three seeds each, all at once with one torch thread each where the cores allow it: what is learned does not
depend on it. Writes benchmarks/beam_rider/ours.jsonl, rival.jsonl and beam_rider.png; curves that are there
already are kept, so that either side can be run alone (without the path, ours alone).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks/beam_rider"
sys.path.insert(0, str(REPO))

from pufferlib_kcore.environments.quiet import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore.store import Run  # noqa: E402


def ours(seed: int, steps: int, folder: Path) -> list[dict]:
    """Train one seed.  -> records of its epochs"""
    command = [
        sys.executable,
        str(REPO / "demo.py"),
        "--mode",
        "train",
        "--env",
        "beam_rider",
        "--seed",
        str(seed),
    ]
    command += ["--train.num-workers", "1", "--train.threads", "1", "--train.total-timesteps", str(steps)]
    command += ["--train.data-dir", str(folder), "--exp-id", f"ours{seed}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return records(Run.open(folder / f"ours{seed}"), seed)


def records(run: Run, seed: int) -> list[dict]:
    """What the figure needs of a run's metrics."""
    keys = (
        "epoch",
        "agent_steps",
        "episodes",
        "episode_return",
        "entropy",
        "approx_kl",
        "explained_variance",
    )
    return [{"seed": seed, **{key: record[key] for key in keys}} for record in run.metrics()]


def rival(seed: int, steps: int, trainer: str, folder: Path) -> list[dict]:
    """Train one seed with PufferLib's trainer.  -> records of its epochs"""
    out = folder / f"rival{seed}.jsonl"
    command = [sys.executable, str(REPO / "benchmarks/rivals.py"), "pufferlib", "--trainer", trainer]
    command += [
        "--vec",
        "serial",
        "--threads",
        "1",
        "--seed",
        str(seed),
        "--steps",
        str(steps),
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


def late(curves: list[dict]) -> dict[int, float]:
    """Each seed's mean return over the episodes of its last five epochs."""
    result = {}
    for seed in sorted({r["seed"] for r in curves}):
        tail = [r for r in curves if r["seed"] == seed and r["episode_return"] is not None][-5:]
        result[seed] = float(
            np.average([r["episode_return"] for r in tail], weights=[r["episodes"] for r in tail])
        )
    return result


def figure(sides: dict[str, list[dict]]) -> Figure:
    """Every seed thin, the mean over seeds thick."""
    drawn = Figure(figsize=(6.5, 4), layout="constrained")
    axes = drawn.subplots()
    for color, (name, curves) in zip(("tab:blue", "tab:orange"), sides.items(), strict=False):
        by_epoch: dict[int, list[tuple[float, float]]] = {}
        for seed in sorted({r["seed"] for r in curves}):
            own = [r for r in curves if r["seed"] == seed and r["episode_return"] is not None]
            axes.plot(
                [r["agent_steps"] for r in own], [r["episode_return"] for r in own], color=color, lw=0.6
            )
            for r in own:
                by_epoch.setdefault(r["epoch"], []).append((r["agent_steps"], r["episode_return"]))
        means = np.array([np.mean(points, axis=0) for _, points in sorted(by_epoch.items())])
        axes.plot(*means.T, color=color, lw=2.5, label=f"{name}, mean of {len(late(curves))} seeds")
    axes.set(title="BeamRider, published settings", xlabel="agent steps", ylabel="episode return")
    axes.legend()
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pufferlib-trainer", help="path of PufferLib 2.0's clean_pufferl.py")
    parser.add_argument("--steps", type=int, default=614_400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=3)
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    seeds = range(1, args.seeds + 1)
    sides = {"ours": ours, "rival": rival}
    for name, path in ((name, OUT / f"{name}.jsonl") for name in sides):
        if path.exists():
            print(f"keeping {path}; delete it to run again")
            continue
        if name == "rival" and not args.pufferlib_trainer:
            print("no --pufferlib-trainer: ours alone")
            continue
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
            if name == "ours":
                found = list(pool.map(lambda s: ours(s, args.steps, Path(folder)), seeds))
            else:
                found = list(
                    pool.map(lambda s: rival(s, args.steps, args.pufferlib_trainer, Path(folder)), seeds)
                )
        path.write_text("".join(json.dumps(r) + "\n" for curve in found for r in curve))
    curves = {}
    for name, label in (("ours", "pufferlib_kcore"), ("rival", "PufferLib 2.0's trainer")):
        path = OUT / f"{name}.jsonl"
        if path.exists():
            curves[label] = [json.loads(line) for line in path.read_text().splitlines()]
    for label, records_ in curves.items():
        ends = late(records_)
        shown = ", ".join(f"{value:.0f}" for value in ends.values())
        print(f"{label:24} return over the last 5 epochs: {shown}   mean {np.mean(list(ends.values())):.0f}")
    figure(curves).savefig(OUT / "beam_rider.png", dpi=100)
    print(f"wrote {OUT}/beam_rider.png")


if __name__ == "__main__":
    main()
