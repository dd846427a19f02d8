"""Speed: steps/s of our trainer and of PufferLib 2.0's on BeamRider, in turn on the same machine.

    python benchmarks/speed.py --pufferlib-trainer path/to/clean_pufferl.py

Batch 4,096, minibatch 1,024, bptt 8, 3 update epochs, 16 envs. The rival runs at each of its thread settings;
the ratio is taken against its best. Steps/s are of whole epochs after the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.environments.quiet import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore.store import Run, provenance  # noqa: E402

SETTINGS = {
    "train.num_envs": 16,
    "train.batch_size": 4096,
    "train.minibatch_size": 1024,
    "train.bptt_horizon": 8,
    "train.update_epochs": 3,
}
EPOCHS = 3  # the first warms up


def ours(name: str, options: list[str], folder: Path) -> float:
    """Steps/s of our trainer."""
    command = [
        sys.executable,
        str(REPO / "demo.py"),
        "--mode",
        "train",
        "--env",
        "beam_rider",
        "--exp-id",
        name,
    ]
    for key, value in {**SETTINGS, "train.total_timesteps": EPOCHS * 4096, "train.data_dir": folder}.items():
        command += [f"--{key}", str(value)]
    subprocess.run(command + options, check=True, stdout=subprocess.DEVNULL)
    return rate(Run.open(folder / name).metrics(), "uptime")


def rival(name: str, options: list[str], folder: Path, trainer: str) -> float:
    """Steps/s of PufferLib 2.0's trainer."""
    out = folder / f"{name}.jsonl"
    command = [sys.executable, str(REPO / "benchmarks/rival.py"), "--trainer", trainer, "--out", str(out)]
    command += [
        "--steps",
        str(EPOCHS * 4096),
        *options,
        *(f"{key}={value}" for key, value in SETTINGS.items()),
    ]
    subprocess.run(command, check=True)
    return rate([json.loads(line) for line in out.read_text().splitlines()], "wall")


def rate(records: list[dict], clock: str) -> float:
    """Steps/s between the end of the first epoch and the end of the last."""
    first, last = records[0], records[-1]
    return (last["agent_steps"] - first["agent_steps"]) / (last[clock] - first[clock])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pufferlib-trainer", help="path of PufferLib 2.0's clean_pufferl.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help='some of the entrants: --only ours "rival, serial"')
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    entrants: dict[str, list[str]] = {"ours": [], "ours, float32": ["--train.precision", "float32"]}
    if args.pufferlib_trainer:
        for threads in range(1, cores + 1):
            entrants[f"rival, {threads} threads"] = [
                "--threads",
                str(threads),
                "--workers",
                str(min(cores, 4)),
            ]
        entrants["rival, serial"] = ["--threads", str(cores), "--vec", "serial"]
    else:
        print("no --pufferlib-trainer: ours alone")
    entrants = {name: options for name, options in entrants.items() if not args.only or name in args.only}
    found: dict[str, list[float]] = {name: [] for name in entrants}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds):
            for name, options in entrants.items():
                label = f"{name.replace(', ', '-').replace(' ', '')}-{turn}"
                if name.startswith("ours"):
                    speed = ours(label, options, Path(folder))
                else:
                    speed = rival(label, options, Path(folder), args.pufferlib_trainer)
                found[name].append(speed)
                print(f"round {turn + 1}  {name:20} {speed:8,.0f} steps/s", flush=True)
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    rivals = {name: speed for name, speed in medians.items() if name.startswith("rival")}
    best = max(rivals, key=lambda name: rivals[name], default=None)
    for name, speeds in found.items():
        line = f"{name:20} median {medians[name]:7,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}] steps/s"
        if best:
            ratios = [a / b for a, b in zip(speeds, found[best], strict=True)]
            line += f"  {statistics.median(ratios):5.2f} x [{min(ratios):.2f}, {max(ratios):.2f}] of {best}"
        print(line)
    about = provenance()
    result = {"machine": about["machine"], "versions": about["versions"], "best_rival": best}
    result["steps_per_second"] = found
    (REPO / "benchmarks/speed.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
