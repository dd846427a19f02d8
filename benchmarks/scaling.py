"""Scaling: training in several processes of torchrun, its steps/s and what it learns, beside one process.

    python benchmarks/scaling.py            # some minutes on all cores; writes to benchmarks/scaling

Speed: BeamRider, 16 envs, batch 4,096, minibatch 1,024, bptt 8, 3 update epochs; entrants in turn, steps/s of
whole epochs after the first. Learning: CartPole with an LSTM as in benchmarks/learning.py, one process and
two, the same global batch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from matplotlib.figure import Figure

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "benchmarks/scaling"
sys.path.insert(0, str(REPO))

from pufferlib_kcore.environments.quiet import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore.analysis import Curve  # noqa: E402
from pufferlib_kcore.analysis.intervals import improvement, interquartile_mean  # noqa: E402
from pufferlib_kcore.store import Run, provenance  # noqa: E402

BEAM_RIDER = (
    "--env beam_rider --train.num-envs 16 --train.batch-size 4096 --train.minibatch-size 1024 "
    "--train.bptt-horizon 8 --train.update-epochs 3"
)
CARTPOLE = "--env cartpole --base.rnn-name Recurrent --train.total-timesteps 204800 --vec serial"
EPOCHS = 3  # the first warms up
ENTRANTS = {"one process": None, "torchrun, 1": 1, "torchrun, 2": 2, "torchrun, 4": 4}  # processes
LEARNERS = {"one process": None, "torchrun, 2": 2}
BUSY = 0.5  # cores that others use, above which a measurement counts as taken on a loaded machine


def train(words: str, processes: int | None, folder: Path, exp_id: str) -> list[dict]:
    """One run, in this many processes of torchrun or without it.  -> records of its epochs"""
    start = (
        []
        if processes is None
        else f"-m torch.distributed.run --standalone --nproc-per-node {processes}".split()
    )
    command = [sys.executable, *start, str(REPO / "demo.py"), "--mode", "train", *words.split()]
    command += ["--exp-id", exp_id, "--train.data-dir", str(folder)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{exp_id} failed:\n{done.stderr}")
    return Run.open(folder / exp_id).metrics()


def speeds(rounds: int, folder: Path) -> list[dict]:
    """Each entrant once a round: its steps/s, the load before, and the cores that others used meanwhile."""
    found = []
    for turn in range(1, rounds + 1):
        for name, processes in ENTRANTS.items():
            load, before, began = os.getloadavg(), used(), time.monotonic()
            words = f"{BEAM_RIDER} --train.total-timesteps {EPOCHS * 4096}"
            records = train(words, processes, folder, f"speed{len(found)}")
            others = (used() - before) / (time.monotonic() - began)
            first, last = records[0], records[-1]
            rate = (last["agent_steps"] - first["agent_steps"]) / (last["uptime"] - first["uptime"])
            row = {"round": turn, "entrant": name, "steps_per_second": rate, "load_before": load}
            found.append({**row, "cores_used_by_others": others})
            print(
                f"round {turn}  {name:12} {rate:7,.0f} steps/s   others used {others:.1f} cores", flush=True
            )
    return found


def used() -> float:
    """CPU seconds of this machine that were not those of our ended children."""
    times, own = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(times) - times.idle - times.iowait - own.ru_utime - own.ru_stime


def lessons(seeds: int, folder: Path) -> list[dict]:
    """Each seed with each number of processes: its curve, and its mean return at the end and over all."""

    def one(job: tuple[str, int]) -> dict:
        name, seed = job
        records = train(f"{CARTPOLE} --seed {seed}", LEARNERS[name], folder, f"{LEARNERS[name]}_{seed}")
        keep = [r for r in records if r["episode_return"] is not None]
        returns = [r["episode_return"] for r in keep]
        row = {"entrant": name, "seed": seed, "agent_steps": [r["agent_steps"] for r in keep]}
        final = float(Curve.from_records(records).final())
        return {**row, "episode_return": returns, "final": final, "whole": float(np.mean(returns))}

    found = []
    for name, processes in LEARNERS.items():
        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(max(1, cores // (processes or 1))) as pool:
            found += pool.map(one, [(name, seed) for seed in range(1, seeds + 1)])
    return found


def tables(result: dict) -> str:
    """What was found, in Markdown."""
    rows, runs = result["speed"]["runs"], result["learning"]["runs"]
    text = ["# Scaling", ""]
    for name, part in result.items():
        machine, version, load = part["machine"], part["versions"]["torch"], part["load_before"][0]
        text.append(f"- {name}: `{part['command']}` at commit {part['git_commit'][:10]}, {part['time']};")
        text.append(
            f"  {machine['cores']} cores of {machine['cpu']}, torch {version}; load before it {load:.1f}"
        )
    text.append("")
    by_name = {name: [r["steps_per_second"] for r in rows if r["entrant"] == name] for name in ENTRANTS}
    base = by_name["one process"]
    text += ["## Steps/s", "", f"`{BEAM_RIDER}`, whole epochs after the first, median [least, most]", ""]
    text += ["| | steps/s | ratio to one process in the same round |", "|---|---|---|"]
    for name, found in by_name.items():
        ratios = [a / b for a, b in zip(found, base, strict=True)]
        text.append(f"| {name} | {spread(found, '.0f')} | {spread(ratios, '.2f')} |")
    others = [r["cores_used_by_others"] for r in rows]
    state = "loaded" if max(others) > BUSY else "quiet"
    text += ["", f"{len(base)} interleaved rounds. The machine was {state}: others used "]
    text[-1] += f"{min(others):.1f} to {max(others):.1f} cores during the measurements."
    text += [
        "",
        "## Learning",
        "",
        f"`{CARTPOLE}`, interquartile mean over seeds [95% bootstrap interval]",
        "",
    ]
    text += ["| | final return (last tenth) | mean return of all epochs | seed: both |", "|---|---|---|---|"]
    lessons = {name: [r for r in runs if r["entrant"] == name] for name in LEARNERS}
    for name, own in lessons.items():
        ends, wholes = ([r[key] for r in own] for key in ("final", "whole"))
        shown = ", ".join(f"{r['seed']}: {r['final']:.4g}, {r['whole']:.4g}" for r in own)
        text.append(f"| {name} | {interquartile_mean(ends)} | {interquartile_mean(wholes)} | {shown} |")
    two, one = ([[r["whole"] for r in lessons[name]]] for name in ("torchrun, 2", "one process"))
    text += ["", f"Probability that two processes have the higher mean return: {improvement(two, one)}", ""]
    return "\n".join([*text, "![steps/s and learning](scaling.png)", ""])


def spread(values: list[float], form: str) -> str:
    """Median [least, most]"""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def figure(result: dict) -> Figure:
    """Steps/s by entrant, every round a dot; returns of every seed, thin, and their mean, thick."""
    drawn = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for place, name in enumerate(ENTRANTS):
        found = [r["steps_per_second"] for r in result["speed"]["runs"] if r["entrant"] == name]
        left.bar(place, statistics.median(found), color="tab:blue", alpha=0.5)
        left.plot([place] * len(found), found, "k.")
    left.set(title="BeamRider", ylabel="steps/s", xticks=range(len(ENTRANTS)), xticklabels=list(ENTRANTS))
    left.tick_params("x", labelrotation=15)
    for color, name in zip(("tab:blue", "tab:orange"), LEARNERS, strict=True):
        runs = [r for r in result["learning"]["runs"] if r["entrant"] == name]
        for run in runs:
            right.plot(run["agent_steps"], run["episode_return"], color=color, lw=0.5)
        steps = np.unique(np.concatenate([run["agent_steps"] for run in runs]))
        mean = np.mean([np.interp(steps, run["agent_steps"], run["episode_return"]) for run in runs], axis=0)
        right.plot(steps, mean, color=color, lw=2, label=f"{name}, mean of {len(runs)} seeds")
    right.set(title="CartPole + LSTM", xlabel="agent steps", ylabel="episode return")
    right.legend()
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("speed", "learning"), help="one part; the other stays as it is")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    path = OUT / "scaling.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    for part, measure, times in (("learning", lessons, args.seeds), ("speed", speeds, args.rounds)):
        if args.only in (None, part):
            about = provenance(REPO)
            kept = {key: about[key] for key in ("machine", "versions", "git_commit", "time")}
            kept["command"] = " ".join(["python benchmarks/scaling.py", *sys.argv[1:]])
            kept["load_before"] = os.getloadavg()
            with tempfile.TemporaryDirectory() as folder:
                kept["runs"] = measure(times, Path(folder))
            result[part] = kept
            path.write_text(json.dumps(result) + "\n")
    if len(result) == 2:
        (OUT / "results.md").write_text(tables(result))
        figure(result).savefig(OUT / "scaling.png", dpi=100)
        print((OUT / "results.md").read_text())


if __name__ == "__main__":
    main()
