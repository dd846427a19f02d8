"""Equal learning: ours in bfloat16, in float32, in two processes, and PufferLib 2.0's trainer.

    python benchmarks/equal_learning.py --pufferlib-trainer path/to/clean_pufferl.py    # some minutes

CartPole with an LSTM, 204,800 steps, the same settings and network for all, one torch thread each: ours in
bfloat16, in float32, in float32 in two processes of torchrun, and PufferLib's trainer (left out without its
path). BeamRider: what benchmarks/beam_rider.py has trained.

Writes results.md, results.json and equal_learning.png to benchmarks/equal_learning. Each run is kept when it
is done, in experiments/equal_learning/measured.jsonl, and not done again at the same commit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import beam_rider
import numpy as np
from matplotlib.figure import Figure
from rounds import REPO, Failed, Measured, machine, train, train_rival

from pufferlib_kcore.analysis import Curve
from pufferlib_kcore.analysis.intervals import improvement, interquartile_mean
from pufferlib_kcore.environments.cores import available_cores
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.text import markdown

FIRST = "ours, bfloat16"  # whom the others are compared to
OURS = {  # options, processes of torchrun
    FIRST: ("--train.precision bfloat16", None),
    "ours, float32": ("--train.precision float32", None),
    "ours, float32, torchrun, 2 processes": ("--train.precision float32", 2),
}
RIVAL = "PufferLib 2.0's trainer"
BEAM_RIDER = {"ours": FIRST, "float32": "ours, float32", "rival": RIVAL}  # sides of beam_rider.py
MEASURES = {  # of one seed's curve
    "final return": lambda curve: curve.final(),
    "mean return of all epochs": lambda curve: float(np.nanmean(curve.returns)),
}
KEYS = ("epoch", "agent_steps", "episodes", "episode_return")


def learn(entrant: str, seed: int, steps: int, trainer: Path | None, folder: Path) -> list[dict]:
    """Train one seed on CartPole.  -> records of its epochs.  Raises Failed."""
    folder = folder / f"{[*OURS, RIVAL].index(entrant)}-{seed}"
    if entrant == RIVAL:
        words = f"--env cartpole --vec serial --threads 1 --seed {seed} --steps {steps}"
        words += f" base.rnn_name=Recurrent train.total_timesteps={steps}"
        records = train_rival("pufferlib", ["--trainer", trainer, *words.split()], folder)
    else:
        options, processes = OURS[entrant]
        words = "--env cartpole --base.rnn-name Recurrent --vec serial --train.threads 1"
        words += f" --seed {seed} --train.total-timesteps {steps} {options}"
        records = train(words.split(), folder, processes)
    return [{"seed": seed, **{key: record[key] for key in KEYS}} for record in records]


def cartpole(args: argparse.Namespace, measured: Measured) -> dict[str, list[dict]]:
    """All entrants and seeds, so many at once.  -> records by entrant.  Raises Failed."""
    trainer = args.pufferlib_trainer and args.pufferlib_trainer.absolute()
    jobs = [(e, s) for e in (*OURS, *([RIVAL] if trainer else [])) for s in range(1, args.seeds + 1)]
    keys = [dict(table="cartpole", entrant=e, seed=s, steps=args.steps) for e, s in jobs]
    missing = [job for job, key in zip(jobs, keys, strict=True) if not measured.find(**key)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        runs = pool.map(lambda job: learn(*job, args.steps, trainer, Path(folder)), missing)
        for (entrant, seed), records in zip(missing, runs, strict=True):
            measured.add(table="cartpole", entrant=entrant, seed=seed, steps=args.steps, records=records)
            print(f"CartPole  {entrant:36} seed {seed}", flush=True)
    found: dict[str, list[dict]] = {}
    for (entrant, _), key in zip(jobs, keys, strict=True):
        found.setdefault(entrant, []).extend(measured.find(**key)["records"])
    return found


def seeds(records: list[dict]) -> dict[int, dict[str, float]]:
    """{seed: {measure: value}}"""
    curves = {
        seed: Curve.from_records([r for r in records if r["seed"] == seed])
        for seed in sorted({r["seed"] for r in records})
    }
    return {seed: {name: of(curve) for name, of in MEASURES.items()} for seed, curve in curves.items()}


def tables(result: dict[str, Any]) -> list[str]:
    """What was found, in Markdown."""
    steps = f"CartPole: {result['steps']:,} steps; BeamRider: what `benchmarks/beam_rider.py` has trained."
    lines = ["# Equal learning", "", "Made by `benchmarks/equal_learning.py`.", "", machine(result), ""]
    lines += [
        steps,
        "",
        "Interquartile means over seeds [95% bootstrap intervals]; the final return is that of the last "
        f"tenth of the epochs. P: probability that {FIRST} has more than the entrant of the row, 0.5 where "
        "both learn the same.",
        "",
    ]
    for task, entrants in result["tasks"].items():
        rows = []
        for entrant, by_seed in entrants.items():
            row = [entrant, str(len(by_seed))]
            for name in MEASURES:
                own, first = ([[v[name] for v in entrants[e].values()]] for e in (entrant, FIRST))
                other = entrant != FIRST
                row += [str(interquartile_mean(*own)), str(improvement(first, own)) if other else "-"]
            rows.append(row)
        lines += markdown([task, "seeds", *(cell for name in MEASURES for cell in (name, "P"))], rows)
        lines.append("")
    return [*lines, "![returns over steps](equal_learning.png)", ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pufferlib-trainer", metavar="PATH", type=Path, help="PufferLib 2.0's clean_pufferl.py")
    add("--steps", type=int, default=204_800, help="of each run on CartPole")
    add("--seeds", type=int, default=5, help="on CartPole")
    add("--jobs", type=int, default=available_cores(), help="runs at once")
    add("--beam-rider", type=Path, default=beam_rider.OUT, help="folder that beam_rider.py wrote")
    add("--out", type=Path, default=REPO / "benchmarks/equal_learning", help="folder of tables and figure")
    add("--work", type=Path, default=REPO / "experiments/equal_learning", help="folder of measurements")
    args = parser.parse_args()
    if args.pufferlib_trainer is None:
        print(f"{RIVAL} is left out: name its clean_pufferl.py with --pufferlib-trainer", flush=True)
    elif not args.pufferlib_trainer.is_file():
        sys.exit(
            f"--pufferlib-trainer {args.pufferlib_trainer} is no file: expected a copy of clean_pufferl.py"
        )
    else:
        args.pufferlib_trainer = args.pufferlib_trainer.absolute()
    measured = Measured(args.work / "measured.jsonl")
    tasks = {"CartPole + LSTM": cartpole(args, measured)}
    if played := beam_rider.kept(args.beam_rider):
        tasks["BeamRider"] = {BEAM_RIDER[side]: records for side, records in played.items()}
    result = {**measured.about, "steps": args.steps}
    result["tasks"] = {
        task: {entrant: seeds(records) for entrant, records in sides.items()} for task, sides in tasks.items()
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "results.md").write_text("\n".join(tables(result)))
    drawn = Figure(figsize=(6.5 * len(tasks), 4), layout="constrained")
    for axes, (task, sides) in zip(
        drawn.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True
    ):
        beam_rider.draw(axes, sides, [*OURS, RIVAL])
        axes.set_title(task)
    drawn.savefig(args.out / "equal_learning.png", dpi=100)
    print((args.out / "results.md").read_text())


if __name__ == "__main__":
    try:
        main()
    except (Failed, UserError) as error:
        sys.exit(f"equal_learning.py: {error}")
