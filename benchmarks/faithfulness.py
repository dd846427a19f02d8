"""Faithfulness: how a policy acts at 50 to 3% of its size, by every method, before any retraining and after.

    python benchmarks/faithfulness.py train --jobs 3       # four policies, about an hour
    python benchmarks/faithfulness.py measure              # KL, value error, return; goes on where it stopped
    python benchmarks/faithfulness.py retrain              # the same after a fixed number of steps
    python benchmarks/faithfulness.py show                 # tables and figure, in benchmarks/faithfulness

Sizes are parts of the parameters: each method gets the most parameters that it can use within the size.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.environments.quiet import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore import environments, graph, policies, settings  # noqa: E402
from pufferlib_kcore.cli import train as trainer  # noqa: E402
from pufferlib_kcore.environments import vector  # noqa: E402
from pufferlib_kcore.errors import UserError  # noqa: E402
from pufferlib_kcore.policies.restore import Restored, restore  # noqa: E402
from pufferlib_kcore.store import Run, checkpoints, provenance  # noqa: E402
from pufferlib_kcore.training.evaluate import play  # noqa: E402
from pufferlib_kcore.training.record import record  # noqa: E402
from pufferlib_kcore.training.trainer import Start  # noqa: E402

OUT = REPO / "benchmarks/faithfulness"
SIZES = (0.5, 0.2, 0.1, 0.05, 0.03)
SMALL_STEPS = "--vec serial --train.threads 1 --base.rnn-name Recurrent "
TASKS = {  # name: (arguments of training, steps of retraining, episodes of a return)
    "cartpole": (SMALL_STEPS + "--env cartpole --train.total-timesteps 204800", 40_960, 32),
    "memory_cue": (SMALL_STEPS + "--env memory_cue --train.total-timesteps 204800", 40_960, 320),
    "half_cheetah": (
        SMALL_STEPS + "--env half_cheetah --policy.hidden-size 128 --env.reward-scale 0.1 "
        "--train.total-timesteps 1000000 --train.anneal-lr True --train.update-epochs 5",
        204_800,
        32,
    ),
    "pong": (
        "--vec multiprocessing --env pong --env.framestack 4 --policy.hidden-size 256 "
        "--train.total-timesteps 3000000 --train.num-envs 16 --train.num-workers 4 --train.batch-size 2048 "
        "--train.minibatch-size 512 --train.update-epochs 3 --train.bptt-horizon 8 "
        "--train.learning-rate 5e-4 --train.anneal-lr True --train.gamma 0.99 --train.gae-lambda 0.95 "
        "--train.ent-coef 0.01 --train.clip-coef 0.15 --train.vf-coef 0.5 "
        "--train.vf-clip-coef 0.2 --train.max-grad-norm 0.5",
        102_400,
        32,
    ),
}
RETRAINED = ("published recipe", "activations", "auto", "random ablation")


@dataclass(eq=False)
class Case:
    """A trained policy, and what is recorded of it."""

    restored: Restored
    calibrate: list[tuple]
    held_out: list[tuple]
    test: list[tuple]

    @property
    def policy(self) -> nn.Module:
        return self.restored.policy

    @property
    def inputs(self) -> tuple:
        return self.restored.example_inputs

    def envs(self, count: int, seed: int):
        env = self.restored.payload["env"]
        creator = environments.make_creator(env["name"], env.get("package"), **env["kwargs"])
        return vector.make(creator, "serial", count, 1, None, seed)

    def seen(self, seed: int, states: int) -> list[tuple]:
        vec = self.envs(16, seed)
        try:
            return record(self.policy, vec, seed, states)
        finally:
            vec.close()

    def returns(self, policy: nn.Module, episodes: int) -> tuple[float, float]:
        """Mean return of whole episodes, actions drawn as in training, and half its 95% interval."""
        vec = self.envs(16, 4)
        try:
            found = play(policy, vec, 4, episodes).returns
        finally:
            vec.close()
        return float(found.mean()), float(1.96 * found.std(ddof=1) / len(found) ** 0.5)


def case_of(run: Run) -> Case:
    case = Case(restore(run.latest()[1]), [], [], [])
    case.policy.eval()
    case.calibrate, case.held_out, case.test = case.seen(1, 4096), case.seen(2, 2048), case.seen(3, 4096)
    return case


def size_of(case: Case, policy: nn.Module) -> float:
    return sum(p.numel() for p in policy.parameters()) / sum(p.numel() for p in case.policy.parameters())


def by_threshold(
    case: Case, size: float, collapse: Callable[[float], graph.Collapse]
) -> graph.Collapse | None:
    """The largest collapse within the size: thresholds bisected."""
    low, high, best = 0.0, 2.0, None
    for _ in range(12):
        middle = (low + high) / 2
        found = collapse(middle)
        if size_of(case, found.policy) <= size:
            high, best = middle, found
        else:
            low = middle
    return best


def by_widths(
    case: Case, size: float, controls: Callable[[dict[str, int]], graph.Collapse]
) -> graph.Collapse:
    """The same part of the units of each space, as many as the size allows."""
    free = {r["space"]: r["units"] for r in graph.spaces(case.policy, case.inputs).rows if not r["reason"]}
    low, high, best = 0.0, 1.0, controls(dict.fromkeys(free, 1))
    for _ in range(10):
        middle = (low + high) / 2
        found = controls({name: max(1, int(middle * units)) for name, units in free.items()})
        if size_of(case, found.policy) <= size:
            low, best = middle, found
        else:
            high = middle
    return best


def published(case: Case, size: float) -> graph.Collapse | None:
    return by_threshold(case, size, lambda t: graph.collapse(case.policy, case.inputs, t, published=True))


def weights(case: Case, size: float) -> graph.Collapse | None:
    found = by_threshold(case, size, lambda t: graph.collapse(case.policy, case.inputs, t))
    threshold = found and next(iter(found.thresholds.values()))
    return found and graph.collapse(case.policy, case.inputs, threshold, calibrate=case.calibrate)


def activations(case: Case, size: float, calibrate: list[tuple] | None = None) -> graph.Collapse | None:
    seen = calibrate or case.calibrate

    def collapse(threshold: float) -> graph.Collapse:
        return graph.collapse(case.policy, case.inputs, threshold, calibrate=seen, colors="activations")

    return by_threshold(case, size, collapse)


def noise(case: Case, size: float) -> graph.Collapse | None:
    return activations(case, size, policies.noise_inputs(case.restored.spec))


@cache
def auto(case: Case, size: float) -> graph.Collapse:
    found = graph.search(case.policy, case.inputs, case.calibrate, case.held_out, target_params=size)
    return found.collapse


def distilled(case: Case, size: float) -> graph.Collapse:
    return graph.distill(case.policy, auto(case, size), case.calibrate, case.held_out)


def ablated(case: Case, size: float, by: str) -> graph.Collapse:
    def controls(widths: dict[str, int]) -> graph.Collapse:
        generator = torch.Generator().manual_seed(0)
        return graph.ablate(case.policy, case.inputs, widths, by=by, generator=generator)

    return by_widths(case, size, controls)


def torch_pruning(case: Case, size: float) -> graph.Collapse | None:
    """Group magnitude pruning, the outputs left whole; tried on a copy, since it stops on LSTMs (1.6.1)."""
    try:
        import torch_pruning as tp

        pruned = copy.deepcopy(case.policy)
        heads = (
            [m for m in pruned.modules() if isinstance(m, nn.Linear) and m is not pruned.policy.encoder]
            if hasattr(pruned.policy, "encoder")
            else [pruned.policy.actor, pruned.policy.value_fn]
        )
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        tp.pruner.MagnitudePruner(
            pruned, case.inputs, importance=importance, pruning_ratio=1 - size**0.5, ignored_layers=heads
        ).step()
        pruned(*case.inputs)
    except Exception as error:
        raise UserError(f"Torch-Pruning stops: {type(error).__name__} {error}") from None
    raise UserError("Torch-Pruning runs here: compare with it by hand")


METHODS: dict[str, Callable[[Case, float], graph.Collapse | None]] = {
    "published recipe": published,
    "no data": noise,
    "weights": weights,
    "activations": activations,
    "auto": auto,
    "auto, distilled": distilled,
    "random ablation": lambda case, size: ablated(case, size, "random"),
    "L1 ablation": lambda case, size: ablated(case, size, "l1"),
    "Torch-Pruning": torch_pruning,
}


def measure(case: Case, found: graph.Collapse, episodes: int) -> dict:
    apart = graph.divergence(case.policy, found.policy, case.test, found.network, found.merges)
    mean, half = case.returns(found.policy, episodes)
    return {
        "got": size_of(case, found.policy),
        "kl": apart.kl,
        "value_error": apart.value_error,
        "look": apart.look,
        "return": mean,
        "ci": half,
        "widths": found.widths,
    }


def retrain(
    case: Case, run: Run, found: graph.Collapse, steps: int, task: str, size: float, method: str
) -> dict:
    """Train on for so many steps, the optimizer's state carried along; then play whole episodes."""
    epoch, _ = run.latest(with_state=True)
    state = checkpoints.load(run.state_path(epoch), format=checkpoints.STATE)
    optimizer = graph.collapse_optimizer(state["optimizer"], found, case.policy)
    total = state["agent_steps"] + steps
    name = f"{task}_{size:g}_{method.replace(' ', '_')}"
    words = f"{TASKS[task][0]} --exp-id {name} --train.total-timesteps {total}".split()
    args = settings.load([*words, "--train.data-dir", str(run.path.parent / "retrained")])
    start = Start(epoch, state["agent_steps"], optimizer)
    job = trainer.Job(
        args.settings, args.settings.train.data_dir, None, found.policy, case.restored.spec, start
    )
    trainer.fit(job, args)
    mean, half = case.returns(found.policy.cpu().float(), TASKS[task][2])
    return {"return": mean, "ci": half, "steps": steps}


class Results:
    """Rows on disk, one a line, each written when it is done; what is there is not done again."""

    def __init__(self, name: str):
        self.path = OUT / f"{name}.jsonl"
        self.rows = (
            [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        )

    def has(self, **key) -> bool:
        return any(all(row[k] == v for k, v in key.items()) for row in self.rows)

    def add(self, **row) -> None:
        about = provenance()
        row |= {"machine": about["machine"], "versions": about["versions"], "commit": about["git_commit"]}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            {k: v for k, v in row.items() if k not in ("widths", "machine", "versions", "commit")}, flush=True
        )


def grid(args: argparse.Namespace, name: str, sizes, methods, row_of: Callable[..., dict]) -> None:
    results = Results(name)
    for task in args.tasks:
        run = Run.open(Path(args.runs) / task)
        case = case_of(run)
        if name == "before" and not results.has(task=task, method="original"):
            mean, half = case.returns(case.policy, TASKS[task][2])
            results.add(task=task, size=1.0, method="original", **{"return": mean, "ci": half})
        for size in sizes:
            for method in methods:
                if results.has(task=task, size=size, method=method):
                    continue
                started = time.time()
                try:
                    found = METHODS[method](case, size)
                    row = (
                        {"skipped": "no threshold gives this size"}
                        if found is None
                        else row_of(case, run, found, task, size, method)
                    )
                except UserError as error:
                    row = {"skipped": str(error)}
                results.add(
                    task=task, size=size, method=method, seconds=round(time.time() - started, 1), **row
                )


def table(rows: list[dict], task: str, key: str) -> list[str]:
    """A Markdown table: a row a method, a column a size."""
    lines = [
        f"| {task} | " + " | ".join(f"{size:.0%}" for size in SIZES) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    for method in METHODS:
        cells = []
        for size in SIZES:
            row = next((r for r in rows if (r["task"], r["size"], r["method"]) == (task, size, method)), {})
            cell = f"{row[key]:.3g}" if key in row else "-"
            cells.append(f"{cell} +- {row['ci']:.2g}" if key == "return" and key in row else cell)
        if any(cell != "-" for cell in cells):
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def figure(rows: list[dict]) -> Figure:
    """KL above, return below, over the size; one column a task."""
    tasks = [task for task in TASKS if any(r["task"] == task for r in rows)]
    drawn = Figure(figsize=(4 * len(tasks), 6.5), layout="constrained")
    panels = drawn.subplots(2, len(tasks), squeeze=False, sharex=True)
    for task, (above, below) in zip(tasks, panels.T, strict=True):
        own = [r for r in rows if r["task"] == task and "return" in r]
        for i, method in enumerate(METHODS):
            some = sorted((r for r in own if r["method"] == method), key=lambda r: r["size"])
            if some:
                sizes, color = [r["size"] for r in some], f"C{i}"
                above.plot(
                    sizes, [max(r["kl"], 1e-7) for r in some], "o-", ms=3, lw=1, color=color, label=method
                )
                below.errorbar(
                    sizes,
                    [r["return"] for r in some],
                    [r["ci"] for r in some],
                    fmt="o-",
                    ms=3,
                    lw=1,
                    color=color,
                )
        for original in (r for r in own if r["method"] == "original"):
            below.axhspan(
                original["return"] - original["ci"], original["return"] + original["ci"], color="0.85"
            )
            below.axhline(original["return"], color="0.5", lw=1)
        above.set(title=task, xscale="log", yscale="log")
        below.set(xlabel="parameters kept", xticks=SIZES, xticklabels=[f"{s:.0%}" for s in SIZES])
        below.minorticks_off()
    panels[0][0].set_ylabel("KL to the original, nats")
    panels[1][0].set_ylabel("return before retraining")
    panels[0][0].legend(fontsize=7)
    return drawn


def show() -> None:
    rows, after = Results("before").rows, Results("after").rows
    lines = [
        "# Faithfulness",
        "",
        "Made by `benchmarks/faithfulness.py`; `before.jsonl` and `after.jsonl` hold all.",
        "",
    ]
    for task in TASKS:
        own = [r for r in rows if r["task"] == task]
        if not own:
            continue
        original = next(r for r in own if r["method"] == "original")
        look = next((r["look"] for r in own if "look" in r), float("nan"))
        lines += [
            f"## {task}",
            f"Original: return {original['return']:.4g} +- {original['ci']:.2g}; "
            f"KL of its states to their mean {look:.3g} nats.",
            "",
        ]
        for what, key in (("KL", "kl"), ("value error", "value_error"), ("return", "return")):
            lines += [f"{what}, before any retraining", "", *table(own, task, key), ""]
        own_after = [r for r in after if r["task"] == task]
        if own_after:
            lines += [
                f"return after {TASKS[task][1]:,} steps of retraining",
                "",
                *table(own_after, task, "return"),
                "",
            ]
        for size in (0.2, 0.1):
            kl = {r["method"]: r["kl"] for r in own if r["size"] == size and "kl" in r}
            if "published recipe" in kl:
                ratios = [
                    f"{m} {kl['published recipe'] / k:.3g}" for m, k in kl.items() if m != "published recipe"
                ]
                lines.append(
                    f"KL of the published recipe over KL of others, at {size:.0%}: "
                    + ", ".join(ratios)
                    + "\n"
                )
    (OUT / "results.md").write_text("\n".join(lines))
    figure(rows).savefig(OUT / "faithfulness.png", dpi=100)
    print("\n".join(lines))


def train(args: argparse.Namespace) -> None:
    """Each policy, one after the other in each job."""

    def one(task: str) -> None:
        words = f"{TASKS[task][0]} --exp-id {task} --train.data-dir {args.runs}".split()
        subprocess.run([sys.executable, str(REPO / "demo.py"), *words], check=True, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, args.tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure", "retrain", "show"])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--sizes", nargs="+", type=float)
    parser.add_argument(
        "--runs", default=str(REPO / "experiments/faithfulness"), help="folder of the trained runs"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    OUT.mkdir(exist_ok=True)
    if args.what == "train":
        train(args)
    elif args.what == "measure":
        grid(
            args,
            "before",
            args.sizes or SIZES,
            args.methods or METHODS,
            lambda case, run, found, task, size, method: measure(case, found, TASKS[task][2]),
        )
    elif args.what == "retrain":
        grid(
            args,
            "after",
            args.sizes or (0.1, 0.03),
            args.methods or RETRAINED,
            lambda case, run, found, task, size, method: retrain(
                case, run, found, TASKS[task][1], task, size, method
            ),
        )
    show()


if __name__ == "__main__":
    main()
