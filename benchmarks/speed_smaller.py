"""Smaller: how fast policies of 100, 50, 20 and 10% of the parameters train and act.

    python benchmarks/speed.py smaller [--checkpoint model.pt] [--rounds 3]

Units are kept at random (`ablate`), the same part of each space, as many as the size allows: time depends
on widths alone, not on which units are kept or what they learned. Sizes take turns, each in a process of its
own: latency of one step of acting (float32, one thread), then training as configured, steps/s of whole epochs
after the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))

from rounds import SETTINGS, Failed, Measured, cell, in_turn, machine, ratios, run, spread

from pufferlib_kcore.text import markdown

SIZES = (1.0, 0.5, 0.2, 0.1)
BATCHES = (1, 64)
WHAT = {"steps_per_second": "training, steps/s"} | {f"latency_{b}": f"a step of {b}, ms" for b in BATCHES}


# In a process of its own


def one(size: float, checkpoint: str | None, update_epochs: int, epochs: int, words: list[str]) -> dict:
    """Measure one policy.  -> steps_per_second, latency_* in milliseconds, params, kept, widths"""
    import torch
    from torch import nn

    from pufferlib_kcore import settings
    from pufferlib_kcore.jobs import profiling
    from pufferlib_kcore.jobs.world import World
    from pufferlib_kcore.policies import build, example_inputs
    from pufferlib_kcore.policies.restore import restore

    args = settings.load(["--env", "beam_rider", "--train.update-epochs", str(update_epochs), *words])
    row: dict[str, Any] = {}

    def make(world: World) -> nn.Module:
        if checkpoint:
            restored = restore(checkpoint)
            world.check(restored.spec, checkpoint)
            whole, inputs = restored.policy, restored.example_inputs
        else:
            spec = world.spec(args.settings)
            whole, inputs = build(spec), example_inputs(spec)
        found = smaller(whole, inputs, size)
        policy = found.policy if size < 1 else whole
        torch.set_num_threads(1)
        row.update({f"latency_{batch}": 1000 * latency(policy, inputs, batch) for batch in BATCHES})
        row.update(params=params(policy), kept=params(policy) / params(whole), widths=found.widths)
        return policy

    request = profiling.ProfileRequest(settings=args.settings, vec=args.vec, epochs=epochs, make=make)
    row["steps_per_second"] = profiling.profile(request).speed
    return row


def params(policy: Any) -> int:
    return sum(p.numel() for p in policy.parameters())


def smaller(policy: Any, inputs: tuple, size: float) -> Any:
    """The most units within the size, the same part of each space.  -> graph.Collapse"""
    from pufferlib_kcore import graph

    free = {r["space"]: r["units"] for r in graph.spaces(policy, inputs).rows if not r["reason"]}
    low, high = 0.0, 1.0
    best = graph.ablate(policy, inputs, dict.fromkeys(free, 1))
    if size >= 1:
        return graph.ablate(policy, inputs, {})
    for _ in range(10):
        middle = (low + high) / 2
        widths = {name: max(1, int(middle * units)) for name, units in free.items()}
        found = graph.ablate(policy, inputs, widths)
        if params(found.policy) <= size * params(policy):
            low, best = middle, found
        else:
            high = middle
    return best


def latency(policy: Any, inputs: tuple, batch: int, seconds: float = 2.0) -> float:
    """Median seconds of a step of acting, state and all, as the trainer takes it."""
    import torch

    from pufferlib_kcore.training.unroll import initial_state, step

    obs = inputs[0][:1].repeat(batch, *[1] * (inputs[0].ndim - 1))
    state, times = initial_state(policy, batch), []
    end = time.perf_counter() + seconds
    with torch.no_grad():
        while len(times) < 20 or time.perf_counter() < end:
            start = time.perf_counter()
            state = step(policy, obs, state)[2]
            times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


# In the benchmark's process


def measure(args: argparse.Namespace, measured: Measured) -> dict[str, Any]:
    """All sizes in turn.  -> the section of speed.json"""
    train = {**SETTINGS, **args.set}
    del train["train.checkpoint_interval"]
    update_epochs, checkpoint = (
        args.update_epochs[0],
        args.checkpoint and str(Path(args.checkpoint).absolute()),
    )
    found: dict[str, dict[int, dict]] = {str(size): {} for size in SIZES}
    for turn in range(1, args.rounds + 1):
        for size in in_turn(list(found), turn):
            key = dict(table="smaller", size=size, round=turn, train=train, epochs=args.epochs)
            key |= dict(update_epochs=update_epochs, checkpoint=checkpoint)
            row = measured.find(**key)
            if row is None:
                out, words = (
                    args.work / "smaller.json",
                    [f"--{name}={value}" for name, value in train.items()],
                )
                options = ["--size", size, "--update-epochs", update_epochs, "--epochs", args.epochs]
                options += ["--checkpoint", checkpoint] if checkpoint else []
                try:
                    run([__file__, "--out", out, *options, *words], args.work / f"smaller-{size}.log")
                except Failed as error:
                    print(f"{size}: {error}", flush=True)
                    continue
                row = measured.add(**key, **json.loads(out.read_text()))
            found[size][turn] = row
            values = "  ".join(f"{what} {row[name]:,.2f}" for name, what in WHAT.items())
            print(f"round {turn}  {float(size):4.0%}  {values}", flush=True)
    sizes = {}
    for size, rows in found.items():
        if not rows:
            continue
        first, values = next(iter(rows.values())), {}
        for name in WHAT:
            mine = {turn: row[name] for turn, row in rows.items()}
            whole = {turn: row[name] for turn, row in found[str(SIZES[0])].items()}
            over = ratios(mine, whole) if name == "steps_per_second" else ratios(whole, mine)
            values[name] = {"rounds": mine, "times_faster": over}
        sizes[size] = {key: first[key] for key in ("params", "kept", "widths")} | values
    about = {"settings": train, "update_epochs": update_epochs, "epochs": args.epochs}
    return {**measured.about, **about, "checkpoint": checkpoint and Path(checkpoint).name, "sizes": sizes}


def tables(section: dict[str, Any]) -> list[str]:
    lines = ["## Smaller policies", "", machine(section), ""]
    source = section["checkpoint"] or "a fresh policy"
    lines += [
        f"BeamRider, {section['update_epochs']} update epochs, multiprocessing; units of {source} kept "
        "at random, the same part of each layer (time depends on widths alone). Acting: one step with its "
        "state, float32, one thread. Median over rounds [least, most]; faster: than the whole, by round.",
        "",
    ]
    header = ["kept", "parameters"] + [cell for what in WHAT.values() for cell in (what, "faster")]
    rows = []
    for row in section["sizes"].values():
        cells = [f"{row['kept']:.1%}", f"{row['params']:,}"]
        for name in WHAT:
            form = ",.0f" if name == "steps_per_second" else ".2f"
            cells.append(cell(spread(list(row[name]["rounds"].values())), form))
            cells.append(cell(spread(row[name]["times_faster"]), ".2f", " x"))
        rows.append(cells)
    return [*lines, *markdown(header, rows), ""]


def figure(section: dict[str, Any]) -> Figure:
    """How many times faster, over size."""
    drawn = Figure(figsize=(5, 3.6), layout="constrained")
    axes = drawn.subplots()
    rows = list(section["sizes"].values())
    for name, what in WHAT.items():
        found = [(row["kept"], spread(row[name]["times_faster"])) for row in rows]
        points = [(kept, s["median"], s["min"], s["max"]) for kept, s in found if s]
        kept, middle, low, high = zip(*points, strict=True)
        axes.plot(kept, middle, "o-", label=what.split(",")[0])
        axes.fill_between(kept, low, high, alpha=0.2)
    axes.set(xlabel="parameters kept", ylabel="times faster than the whole", xscale="log", yscale="log")
    axes.set_xticks([row["kept"] for row in rows], [f"{row['kept']:.0%}" for row in rows])
    axes.set_yticks(range(1, 2 + int(axes.get_ylim()[1])), minor=False)
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.legend()
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, required=True)
    parser.add_argument("--checkpoint")
    parser.add_argument("--update-epochs", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args, words = parser.parse_known_args()
    row = one(args.size, args.checkpoint, args.update_epochs, args.epochs, words)
    args.out.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
