"""Coloring, timed: the BeamRider policy by the engine, and by the published recipe written out plainly.

    OMP_NUM_THREADS=1 python benchmarks/coloring.py [--rounds 5] [--threshold 0.1]

Conv 32-64-64, linear 512, LSTM 512: 2,048 gate rows of 1,024 weights. Half of the neurons are planted near
copies, so that every round of the LSTM finds more to split. Both sides must find the same fibers. Then LSTMs
of up to 4,096 units, each in a process of its own: time, peak memory, and growth with rows^2 x columns.
Writes benchmarks/coloring/results.json and coloring.png.

    OMP_NUM_THREADS=1 python benchmarks/coloring.py --by-threshold

The engine's own mode, to the end, on this policy and on one that is untrained: at each threshold how many
linkages it takes, their work in linkages of 2,048 rows, and CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/coloring.py --fibers [--before path/to/another/checkout]

Fibers of 16 checkpoints of this policy, which drifts from one to the next, and of one without copies: the
whole command `demo.py --mode fibers`, processes of its own included, in turns with another checkout's. Both
must print the same. CPU seconds, and of these what is spent where all is known: imports and digests.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.cluster import AgglomerativeClustering

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.environments.quiet import quiet  # noqa: E402
from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore.fibration import coloring, refinement  # noqa: E402
from pufferlib_kcore.fibration.partition import number  # noqa: E402
from pufferlib_kcore.fibration.refinement import Rows, color_spaces  # noqa: E402
from pufferlib_kcore.graph import trace  # noqa: E402
from pufferlib_kcore.graph.network import Network  # noqa: E402
from pufferlib_kcore.policies import spec_from  # noqa: E402
from pufferlib_kcore.store import ModelFile, Run, provenance  # noqa: E402
from pufferlib_kcore.text import aligned  # noqa: E402

with quiet():
    import pufferlib.models


def beam_rider(seed: int = 0, copies: bool = True) -> tuple[torch.nn.Module, tuple]:
    """PufferLib's policy for BeamRider, perhaps with planted near copies; and inputs to trace it with."""
    torch.manual_seed(seed)
    env: Any = SimpleNamespace(single_observation_space=SimpleNamespace(shape=(1, 105, 80)))
    env.single_action_space = SimpleNamespace(n=9)
    policy = pufferlib.models.Convolutional(env, framestack=1, flat_size=64 * 6 * 9)
    policy = pufferlib.models.LSTMWrapper(env, policy, 512, 512)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            gates = p.unflatten(0, (4 if "recurrent" in name else 1, -1))
            half = gates.shape[1] // 2
            if copies and half > 4 and p.ndim > 1:
                noise = torch.randn_like(gates[:, :half]) * gates.std()
                gates[:, half : 2 * half] = gates[:, :half] + 0.3 * noise
    return policy, (torch.zeros(2, 1, 105, 80, dtype=torch.uint8), None)


def folded(weight: np.ndarray, fibers: np.ndarray) -> np.ndarray:
    """Columns summed over each fiber of the inputs.  (rows, n, ...) -> (rows, k * ...)"""
    sums = [weight[:, fibers == fiber].sum(axis=1) for fiber in range(fibers.max() + 1)]
    return np.stack(sums, axis=1).reshape(len(weight), -1)


def clusters(rows: np.ndarray, threshold: float) -> np.ndarray:
    """scikit-learn's average linkage on cosine distances."""
    model = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=threshold)
    return number(model.fit_predict(rows))


def joined(*labels: np.ndarray) -> np.ndarray:
    """One label for each combination, numbered by first member."""
    seen: dict[tuple, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in zip(*labels, strict=True)])


def recipe(policy: torch.nn.Module, threshold: float, rounds: int) -> dict[str, np.ndarray]:
    """The published recipe for this policy, layer by layer."""
    w = {name: p.detach().double().numpy() for name, p in policy.named_parameters()}
    fibers, found = np.arange(1), {}
    for layer in ("policy.network.0", "policy.network.2", "policy.network.4", "policy.network.7"):
        weight = w[f"{layer}.weight"]
        if weight.ndim == 2:
            weight = weight.reshape(len(weight), len(fibers), -1)
        fibers = clusters(np.column_stack([folded(weight, fibers), w[f"{layer}.bias"]]), threshold)
        found[layer] = fibers
    cell = hidden = np.zeros(512, int)
    for _ in range(rounds):
        w_ih, w_hh = w["recurrent.weight_ih_l0"], w["recurrent.weight_hh_l0"]
        rows = np.column_stack([folded(w_ih, fibers), folded(w_hh, hidden)])
        i, f, g, o = clusters(rows, threshold).reshape(4, 512)
        cell = joined(i, f, g, cell)
        hidden = joined(o, cell)
    return found | {"recurrent": hidden}


def engine(
    policy: torch.nn.Module, network: Network, threshold: float, published: bool = True
) -> dict[str, np.ndarray]:
    """The same by the engine."""
    thresholds = {space.name: threshold for space in network.spaces}
    fibers = color_spaces(
        network.spaces, dict(policy.named_parameters()), network.table, thresholds, published
    )
    return {space.name: fibers[space.name].labels for space in network.spaces if not space.whole}


def timed(function: Callable, *args: Any) -> tuple[float, Any]:
    """Seconds of CPU time, and the result."""
    start = time.process_time()
    result = function(*args)
    return time.process_time() - start, result


def rounds_of_lstm(policy: torch.nn.Module, network: Network, threshold: float) -> list[float]:
    """Seconds that each round of the LSTM's refinement takes in the engine."""
    times: list[float] = []

    class Timed(Rows):
        def colors(self, *args: Any) -> np.ndarray:
            start = time.perf_counter()
            colors = super().colors(*args)
            if self.space.kind == "lstm":
                times.append(time.perf_counter() - start)
            return colors

    refinement.Rows = Timed  # type: ignore[misc]
    try:
        engine(policy, network, threshold)
    finally:
        refinement.Rows = Rows  # type: ignore[misc]
    return times


def by_threshold() -> None:
    """Print what coloring to the end costs at thresholds from 0 to 2."""
    work: list[float] = []
    linkage = coloring.linkage

    def counted(distances: np.ndarray, *args: Any) -> np.ndarray:
        work.append(len(distances) / (2048 * 2047 / 2))
        return linkage(distances, *args)

    coloring.linkage = counted
    try:
        for name, copies in (("near copies", True), ("untrained", False)):
            policy, inputs = beam_rider(copies=copies)
            network = trace(policy, inputs).network
            for threshold in THRESHOLDS:
                work.clear()
                seconds, found = timed(engine, policy, network, threshold, False)
                fibers = found["recurrent"].max() + 1
                print(
                    f"{name:12} at {threshold:<6} {len(work):3} linkages, the work of {sum(work):5.2f} of "
                    f"2,048 rows, {seconds:5.2f} CPU seconds; fibers of the LSTM: {fibers}"
                )
    finally:
        coloring.linkage = linkage


def run_of_checkpoints(root: Path, copies: bool, count: int = 16) -> Run:
    """A run of BeamRider's policy, its weights a little farther on at each checkpoint."""
    run = Run.create(root, "beam_rider", "copies" if copies else "plain")
    box, actions = gymnasium.spaces.Box(0, 255, (1, 105, 80), np.uint8), gymnasium.spaces.Discrete(9)
    spec = spec_from("atari", "Policy", "Recurrent", {}, {}, box, actions)
    policy, _ = beam_rider(copies=copies)
    weights = {name: x.clone() for name, x in policy.state_dict().items()}
    for epoch in range(50, 50 * (count + 1), 50):
        for x in weights.values():
            x += 0.02 * torch.randn_like(x) * x.square().mean().sqrt()
        ModelFile(policy=spec, state_dict=weights, epoch=epoch, agent_steps=epoch).save(run.model_path(epoch))
    return run


def counted(repo: Path, run: Run, anew: bool = True) -> tuple[float, str]:
    """CPU seconds of `demo.py --mode fibers` in a checkout, and what it prints.  anew: with nothing known"""
    if anew:
        run.history_path.unlink(missing_ok=True)
    command = [sys.executable, str(repo / "demo.py"), "--mode", "fibers", "--env", "beam_rider"]
    command += ["--exp-id", run.exp_id, "--train.data-dir", str(run.root)]
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def fibers_of_16(before: Path | None, repeats: int) -> None:
    """Print what `--mode fibers` costs, in turns with another checkout's."""
    rows: list[list[Any]] = [["checkpoints", "CPU seconds", "all known", "before", "times faster", "same"]]
    with tempfile.TemporaryDirectory() as root:
        for name, copies in (("near copies", True), ("no copies", False)):
            run = run_of_checkpoints(Path(root), copies)
            ours, known, theirs, same = [], [], [], True
            for _ in range(repeats):
                seconds, printed = counted(REPO, run)
                ours.append(seconds), known.append(counted(REPO, run, anew=False)[0])
                if before is not None:
                    seconds, expected = counted(before.resolve(), run)
                    theirs.append(seconds)
                    same &= printed == expected
            ratios = [b / a for a, b in zip(ours, theirs, strict=False)]
            told = [f"{np.median(x):.2f} [{min(x):.2f}, {max(x):.2f}]" if x else "" for x in (theirs, ratios)]
            rows.append(
                [name, f"{np.median(ours):.2f}", f"{np.median(known):.2f}", *told, same if theirs else ""]
            )
    print(aligned(rows, right=range(1, 3)))


THRESHOLDS = (0, 1e-6, 0.1, 0.3, 0.5, 0.9, 1.0, 1.02, 1.1, 1.5, 2)
LARGE = (512, 1024, 2048, 4096)  # units


def large(units: int) -> dict[str, float]:
    """Collapse an LSTM of so many random units at 0.3, in this process.  -> seconds, peak GiB"""
    torch.manual_seed(0)
    weights = torch.nn.LSTM(64, units)

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.actor, self.value = weights, torch.nn.Linear(units, 4), torch.nn.Linear(units, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden, _ = self.lstm(x)
            return self.actor(hidden), self.value(hidden)

    policy, start = Policy(), time.process_time()
    network = trace(policy, (torch.randn(2, 1, 64),)).network
    fibers = color_spaces(
        network.spaces,
        dict(policy.named_parameters()),
        network.table,
        dict.fromkeys(["lstm", "actor", "value"], 0.3),
    )
    assert len(fibers["lstm"].labels) == units
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"units": units, "seconds": time.process_time() - start, "peak_gib": peak}


def figure(rows: list[dict[str, float]], slope: float) -> Figure:
    drawn = Figure(figsize=(5, 3.5), layout="constrained")
    axes = drawn.subplots()
    work = [work_of(row["units"]) for row in rows]
    axes.loglog(work, [row["seconds"] for row in rows], "o-")
    for x, row in zip(work, rows, strict=True):
        axes.annotate(f"{row['units']:.0f} units, {row['peak_gib']:.1f} GiB", (x, row["seconds"]), fontsize=7)
    axes.set(xlabel="rows^2 x columns", ylabel="CPU seconds", title=f"coloring one LSTM: slope {slope:.2f}")
    return drawn


def work_of(units: float) -> float:
    """rows^2 x columns of an LSTM that reads 64 inputs and itself"""
    return (4 * units) ** 2 * (units + 64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threshold", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--by-threshold", action="store_true")
    parser.add_argument("--fibers", action="store_true")
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--large", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.large:
        print(json.dumps(large(args.large)))
        return
    if args.by_threshold:
        by_threshold()
        return
    if args.fibers:
        fibers_of_16(args.before, args.repeats)
        return

    policy, inputs = beam_rider()
    network = trace(policy, inputs).network
    engine(policy, network, args.threshold)  # once, to be warm
    ratios, ours, theirs = [], [], []
    for _ in range(args.repeats):  # interleaved
        mine, found = timed(engine, policy, network, args.threshold)
        plain, expected = timed(recipe, policy, args.threshold, args.rounds)
        ours.append(mine), theirs.append(plain), ratios.append(plain / mine)
    rows = [
        [name, len(labels), int(labels.max()) + 1, np.array_equal(labels, expected[name])]
        for name, labels in found.items()
    ]
    print(aligned([["space", "units", "fibers", "same as the recipe"], *rows], right=[1, 2]))
    per_round = rounds_of_lstm(policy, network, args.threshold)
    print(f"\nrounds of the LSTM that changed something, or showed that none would: {len(per_round)}")
    print(f"seconds a round, {torch.get_num_threads()} threads: {', '.join(f'{t:.3f}' for t in per_round)}")
    print(
        f"whole coloring, CPU seconds: engine {np.median(ours):.2f}, recipe {np.median(theirs):.2f}: "
        f"{np.median(ratios):.1f} times faster [{min(ratios):.1f}, {max(ratios):.1f}]"
    )
    rows = [
        json.loads(
            subprocess.run(
                [sys.executable, __file__, "--large", str(units)], capture_output=True, check=True
            ).stdout
        )
        for units in LARGE
    ]
    slope = np.polyfit(np.log([work_of(r["units"]) for r in rows]), np.log([r["seconds"] for r in rows]), 1)[
        0
    ]
    for row in rows:
        print(
            f"LSTM of {row['units']} units: {row['seconds']:.1f} CPU seconds, peak {row['peak_gib']:.2f} GiB"
        )
    print(f"time grows as (rows^2 x columns)^{slope:.2f}")
    out = REPO / "benchmarks/coloring"
    out.mkdir(exist_ok=True)
    about = provenance()
    kept = {"machine": about["machine"], "versions": about["versions"], "git_commit": about["git_commit"]}
    kept |= {
        "threads": torch.get_num_threads(),
        "engine": ours,
        "recipe": theirs,
        "large": rows,
        "slope": slope,
    }
    (out / "results.json").write_text(json.dumps(kept, indent=1))
    figure(rows, float(slope)).savefig(out / "coloring.png", dpi=100)


if __name__ == "__main__":
    main()
