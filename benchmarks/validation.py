"""Validation: collapsed policies retrained beside the original, random ablation and training from scratch.

    python benchmarks/faithfulness.py train --jobs 3    # the trained policies
    python benchmarks/validation.py take                # copied into train_dir, or trained there: BeamRider
    python benchmarks/validation.py run --jobs 2        # kcore.sh on each of them; goes on where it stopped
    python benchmarks/validation.py show                # reports and table, in benchmarks/validation

Each task is one trained policy, collapsed by a search on 4,096 recorded states to parts of its parameters.
All kinds are retrained for the same steps with the schedule of the training going on (its learning rate
falls to 0 at the new end), except scratch-full, which has all steps from the first on.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.store import MettaFolder, Run  # noqa: E402
from pufferlib_kcore.text import markdown  # noqa: E402

OUT = REPO / "benchmarks/validation"
SIZES = "--target-params 0.2 0.1 0.05 --vec serial"
PLAIN = "--collapse.distill 0"
CONTROLS = "--kinds original collapsed ablated scratch"
PAIR = "--kinds original collapsed"
TASKS = {  # name: the arguments of kcore.sh, once or more; more seeds of the pair that is hard to tell apart
    "cartpole": (
        f"{SIZES} {PLAIN} {CONTROLS} scratch-full --seeds 1 2 3 4 5 --train.total-timesteps 450560",
    ),
    "memory_cue": (
        f"{SIZES} {PLAIN} {CONTROLS} scratch-full --seeds 1 2 3 4 5 --train.total-timesteps 245760",
        f"{SIZES} {PLAIN} {PAIR} --seeds 6 7 8 9 10 --train.total-timesteps 245760",
    ),
    "half_cheetah": (
        f"{SIZES} {PLAIN} {CONTROLS} --seeds 1 2 3 --train.total-timesteps 1105920",
        f"{SIZES} {PLAIN} {PAIR} --seeds 4 5 6 7 8 --train.total-timesteps 1105920",
    ),
    "half_cheetah_distilled": (
        f"{SIZES} {PAIR} --seeds 1 2 3 4 5 6 --train.total-timesteps 1105920 "
        "--collapse.calibrate 16384 --collapse.distill 3000",
    ),
    "beam_rider": (f"--target-params 0.2 {PLAIN} {CONTROLS} --seeds 1 2 --train.total-timesteps 737280",),
}
TRAINED = {  # those that benchmarks/faithfulness.py does not train: arguments of demo.py
    "beam_rider": "--env beam_rider --vec multiprocessing --seed 1 --train.total-timesteps 614400",
}


def take(task: str, runs: Path, train_dir: Path) -> None:
    """A trained run's newest checkpoint, copied into Metta's layout; those of TRAINED are trained in it."""
    run = MettaFolder(train_dir / task)
    if task in TRAINED:
        words = ["--layout", "metta", "--run", task, "--train.data-dir", str(train_dir), "--track", "none"]
        subprocess.run([sys.executable, str(REPO / "demo.py"), *words, *TRAINED[task].split()], check=True)
        return
    if run.checkpoints():
        return
    source = Run.open(runs / task.removesuffix("_distilled"))
    epoch, model = source.latest(with_state=True)
    last = source.metrics()[-1]
    for new, old in zip(
        run.new_files(epoch, last["agent_steps"], last["uptime"]),
        (model, source.state_path(epoch)),
        strict=True,
    ):
        shutil.copyfile(old, new)
    for name in ("config.json", "metrics.jsonl"):
        shutil.copyfile(source.path / name, run.path / name)


def work(task: str, train_dir: Path, passed: list[str]) -> int:
    epoch = MettaFolder(train_dir / task).latest()[0]
    words = ["--exp-name", task, "--epoch-idx", str(epoch), "--train-dir", str(train_dir), "--track", "none"]
    status = 0
    for arguments in TASKS[task]:
        command = ["bash", str(REPO / "kcore.sh"), *words, *arguments.split(), *passed]
        status |= subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}).returncode
    return status


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def interval(row: dict[str, str], form: str) -> str:
    """Of one seed there is none."""
    return f" [{float(row['low']):{form}}, {float(row['high']):{form}}]" if row["low"] else ""


def summary(task: str, report: Path, commands: list[str]) -> list[str]:
    """A Markdown table: a row a size, a column a kind."""
    finals, better = read(report / "finals.csv"), read(report / "improvements.csv")
    kinds = list(dict.fromkeys(row["kind"] for row in finals if row["seeds"] != "0"))
    lines = [f"## {task}", "", *(line for command in commands for line in (f"`{command}`", ""))]
    table = []
    for setting in dict.fromkeys(row["setting"] for row in finals):
        rows = {row["kind"]: row for row in finals if row["setting"] == setting}
        cells = [
            f"{float(r['iqm']):.4g}{interval(r, '.4g')}, n={r['seeds']}"
            for r in (rows[kind] for kind in kinds)
        ]
        table.append([f"{float(rows['collapsed']['kept']):.1%}", *cells])
    lines += markdown(["kept", *kinds], table)
    lines += ["", "Probability that a collapsed run ends higher, with its 95% interval:", ""]
    others = [kind for kind in kinds if kind != "collapsed"]
    table = []
    for setting in dict.fromkeys(row["setting"] for row in better):
        rows = {row["over"]: row for row in better if row["setting"] == setting}
        cells = [
            f"{float(r['probability']):.2f}{interval(r, '.2f')}" for r in (rows[kind] for kind in others)
        ]
        table.append([setting, *cells])
    return [*lines, *markdown(["setting", *others], table), "", f"![returns]({task}/returns.png)", ""]


def show(train_dir: Path) -> None:
    """Copy the reports' tables and figures, and put the final returns into one page."""
    lines = [
        "# Validation",
        "",
        "Made by `benchmarks/validation.py`, one trained policy a task. Final return: mean over the last "
        "tenth of the epochs; interquartile mean over seeds of the retraining [95% bootstrap interval].",
        "",
    ]
    for task in TASKS:
        report = train_dir / f"{task}_kcore/report"
        if not (report / "improvements.csv").is_file():  # not run, or no episode has finished at the end
            continue
        (OUT / task).mkdir(parents=True, exist_ok=True)
        for path in sorted(report.iterdir()):
            if path.suffix == ".png":
                shutil.copyfile(path, OUT / task / path.name)
            elif path.suffix == ".csv":
                (OUT / task / path.name).write_text(path.read_text().replace(str(train_dir), "train_dir"))
        epoch = MettaFolder(train_dir / task).latest()[0]
        program = f"bash kcore.sh --exp-name {task} --epoch-idx {epoch}"
        lines += summary(task, report, [f"{program} {arguments}" for arguments in TASKS[task]])
    (OUT / "results.md").write_text("\n".join(lines))
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["take", "run", "show"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--runs", default=str(REPO / "experiments/faithfulness"), help="folder of the trained runs"
    )
    parser.add_argument("--train-dir", default="train_dir")
    given, passed = parser.parse_known_args()
    train_dir = Path(given.train_dir).absolute()
    if given.what == "show":
        return show(train_dir)
    for task in given.tasks:
        if given.what == "take":
            take(task, Path(given.runs), train_dir)
        elif work(task, train_dir, passed):
            raise SystemExit(f"{task}: not all runs are done")


if __name__ == "__main__":
    main()
