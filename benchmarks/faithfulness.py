"""Faithfulness: how a policy acts at 50 to 3% of its size, by every method, before any retraining and after.

    python benchmarks/faithfulness.py train --jobs 3       # four policies, about an hour
    python benchmarks/faithfulness.py measure              # KL, value error, return; goes on where it stopped
    python benchmarks/faithfulness.py retrain              # the same after a fixed number of steps
    python benchmarks/faithfulness.py shake                # KL to itself with its weights moved a little
    python benchmarks/faithfulness.py show                 # tables and figure here; docs/size_and_return.png

Sizes are parts of the parameters: each method gets the most parameters that it can use within the size.
Retraining falls from a fifth of the task's learning rate to 0 over its steps, for every method alike.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

from pufferlib_kcore import environments, graph, policies, settings  # noqa: E402
from pufferlib_kcore.environments import vector  # noqa: E402
from pufferlib_kcore.graph.nested import tensors_in  # noqa: E402
from pufferlib_kcore.graph.rebuild import solve_widths  # noqa: E402
from pufferlib_kcore.jobs.commands import Home  # noqa: E402
from pufferlib_kcore.jobs.training import Origin, TrainRequest  # noqa: E402
from pufferlib_kcore.jobs.training import train as train_on  # noqa: E402
from pufferlib_kcore.policies.restore import Restored, restore  # noqa: E402
from pufferlib_kcore.store import Run, StateFile, provenance  # noqa: E402
from pufferlib_kcore.text import markdown  # noqa: E402
from pufferlib_kcore.training.acting import play  # noqa: E402
from pufferlib_kcore.training.loop import Start  # noqa: E402
from pufferlib_kcore.training.record import record  # noqa: E402

OUT = REPO / "benchmarks/faithfulness"
SIZES = (0.5, 0.2, 0.1, 0.05, 0.03)
CALIBRATE, HELD_OUT, TEST, PLAY = range(1, 5)  # seeds
SMALL_STEPS = "--vec serial --train.threads 1 --base.rnn-name Recurrent "
TASKS = {  # name: (arguments of training, steps of retraining, episodes of a return)
    "cartpole": (SMALL_STEPS + "--env cartpole --train.total-timesteps 409600", 40_960, 32),
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
        294_912,
        32,
    ),
}
RETRAIN_RATE = 0.2  # of the learning rate that the policy was trained at
RETRAINED = ("published recipe", "activations", "auto", "random ablation")


ORIGINAL = "original"


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
        env = self.restored.file.env
        creator = environments.make_creator(env.name, env.package, **env.kwargs)
        return vector.make(creator, "serial", count, 1, None, seed)

    def seen(self, seed: int, states: int) -> list[tuple]:
        vec = self.envs(16, seed)
        try:
            return record(self.policy, vec, seed, states)
        finally:
            vec.close()

    def returns(self, policy: nn.Module, episodes: int) -> tuple[float, float]:
        """Mean return of whole episodes, actions drawn as in training, and half its 95% interval."""
        vec = self.envs(16, PLAY)
        try:
            found = play(policy, vec, PLAY, episodes=episodes).returns
        finally:
            vec.close()
        return float(found.mean()), float(stats.t.ppf(0.975, len(found) - 1) * stats.sem(found))


def case_of(run: Run) -> Case:
    case = Case(restore(run.latest()[1]), [], [], [])
    case.policy.eval()
    case.calibrate, case.held_out = case.seen(CALIBRATE, 4096), case.seen(HELD_OUT, 2048)
    case.test = case.seen(TEST, 4096)
    return case


def size_of(case: Case, policy: nn.Module) -> float:
    return sum(p.numel() for p in policy.parameters()) / sum(p.numel() for p in case.policy.parameters())


@cache
def sizes_by_threshold(case: Case, published: bool) -> dict[float, float]:
    """Threshold -> size, colored by weights; all, since sizes do not always fall as thresholds rise."""
    thresholds = np.linspace(0, 2, 401).tolist()
    return {
        t: size_of(case, graph.collapse(case.policy, case.inputs, t, published=published).policy)
        for t in thresholds
    }


def by_weights(case: Case, size: float, published: bool, calibrate: list[tuple]) -> graph.Collapse | None:
    """The largest collapse within the size."""
    sizes = sizes_by_threshold(case, published)
    threshold = max((t for t in sizes if sizes[t] <= size), key=sizes.__getitem__, default=None)
    if threshold is None:
        return None
    return graph.collapse(case.policy, case.inputs, threshold, published=published, calibrate=calibrate)


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


def original(case: Case) -> graph.Collapse:
    """Nothing merged."""
    return graph.ablate(case.policy, case.inputs, {})


def published(case: Case, size: float) -> graph.Collapse | None:
    return by_weights(case, size, True, [])


def weights(case: Case, size: float) -> graph.Collapse | None:
    return by_weights(case, size, False, case.calibrate)


def activations(case: Case, size: float) -> graph.Collapse | None:
    """The largest collapse within the size: thresholds bisected, more finely near 0."""
    low, high, best = 0.0, 1.0, None
    for _ in range(12):
        middle = (low + high) / 2
        found = graph.collapse(
            case.policy,
            case.inputs,
            2 * middle**3,
            calibrate=case.calibrate,
            colors="activations",
        )
        if size_of(case, found.policy) <= size:
            high, best = middle, found
        else:
            low = middle
    return best


def noise(case: Case, size: float) -> graph.Collapse:
    """Searched on made-up observations."""
    made_up = [policies.noise_inputs(case.restored.spec, seed=seed) for seed in range(2)]
    return graph.search(case.policy, case.inputs, *made_up, target_params=size).collapse


@cache
def auto(case: Case, size: float) -> graph.Collapse:
    found = graph.search(case.policy, case.inputs, case.calibrate, case.held_out, target_params=size)
    return found.collapse


def distilled(case: Case, size: float) -> graph.Collapse:
    return graph.distill(case.policy, auto(case, size), case.calibrate, case.held_out)


def distilled_long(case: Case, size: float) -> graph.Collapse:
    return graph.distill(case.policy, auto(case, size), case.seen(1, 16_384), case.held_out, 3_000)


def ablated(case: Case, size: float, by: str) -> graph.Collapse:
    def controls(widths: dict[str, int]) -> graph.Collapse:
        generator = torch.Generator().manual_seed(0)
        return graph.ablate(case.policy, case.inputs, widths, by=by, generator=generator)

    return by_widths(case, size, controls)


class Outputs(nn.Module):
    """A policy whose output is a list of tensors, the only kind that Torch-Pruning follows."""

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy

    def forward(self, *inputs) -> list[Tensor]:
        return list(tensors_in(self.policy(*inputs)))


def torch_pruning(case: Case, size: float) -> graph.Collapse | None:
    """Its group magnitude pruning, the same ratio in every layer, outputs whole: the largest within the size.

    As it is, Torch-Pruning stops on each of these policies. It runs with the output made a list of tensors
    and the sizes that PufferLib's LSTMWrapper keeps mended by hand. LSTMs keep all of their units.
    """
    try:
        import torch_pruning as tp
    except ImportError:
        raise SystemExit("no Torch-Pruning here: pip install torch-pruning, or leave it out") from None
    heads = {row["space"] for row in graph.spaces(case.policy, case.inputs).rows if row["reason"]}
    whole = original(case)

    def pruned(ratio: float) -> graph.Collapse:
        policy = copy.deepcopy(case.policy)
        raw = [(p, p.ndim - 1) for name, p in policy.named_parameters() if name in heads]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tp.pruner.MagnitudePruner(
                Outputs(policy),
                case.inputs,
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=[m for name, m in policy.named_modules() if name in heads],
                unwrapped_parameters=raw or None,
            ).step()
        policy.input_size = policy.recurrent.input_size
        return replace(whole, policy=policy)

    low, high, best = 0.0, 1.0, None
    for _ in range(10):
        middle = (low + high) / 2
        found = pruned(middle)
        if size_of(case, found.policy) <= size:
            high, best = middle, found
        else:
            low = middle
    return best


METHODS: dict[str, Callable[[Case, float], graph.Collapse | None]] = {
    "published recipe": published,
    "auto, no data": noise,
    "weights": weights,
    "activations": activations,
    "auto": auto,
    "auto, distilled": distilled,
    "auto, distilled long": distilled_long,  # 3,000 steps on 16,384 states, not 200 on 4,096
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
        "widths": solve_widths(found.network, {n: p.shape for n, p in found.policy.named_parameters()}),
    }


def retrain(case: Case, run: Run, found: graph.Collapse, steps: int, task: str) -> dict:
    """Train on for so many steps, the optimizer's state carried along; then play whole episodes."""
    epoch, _ = run.latest(with_state=True)
    state = StateFile.load(run.state_path(epoch))
    names = [name for name, _ in case.policy.named_parameters()]
    optimizer = graph.collapse_optimizer(state.optimizer, found, case.policy, names=names)
    policy = copy.deepcopy(found.policy)
    with tempfile.TemporaryDirectory() as folder:
        rate = run.config()["settings"]["train"]["learning_rate"] * RETRAIN_RATE
        words = f"{TASKS[task][0]} --train.total-timesteps {steps} --train.learning-rate {rate}"
        words += f" --train.anneal-lr True --train.data-dir {folder}"
        args = settings.load(words.split())
        origin = Origin(policy=policy, spec=case.restored.spec, start=Start(epoch, 0, optimizer))
        home = Home(data_dir=folder, vec=args.vec)
        done = train_on(TrainRequest(settings=args.settings, home=home, root=folder, origin=origin))
        records = done.run.metrics()
        if not done.finished or records[-1]["agent_steps"] < steps:
            raise SystemExit(f"the retraining on {task} did not come to its end")
    mean, half = case.returns(policy, TASKS[task][2])
    return {"got": size_of(case, policy), "return": mean, "ci": half, "steps": steps}


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
        about = {"agent_steps": case.restored.file.agent_steps}
        for size, method in [(1.0, ORIGINAL), *((size, method) for size in sizes for method in methods)]:
            if results.has(task=task, size=size, method=method):
                continue
            started = time.time()
            found = original(case) if method == ORIGINAL else METHODS[method](case, size)
            row = (
                {"skipped": "its smallest policy is larger"}
                if found is None
                else row_of(case, run, found, task)
            )
            row["seconds"] = round(time.time() - started, 1)
            results.add(task=task, size=size, method=method, **about, **row)


def table(rows: list[dict], task: str, key: str) -> list[str]:
    """A Markdown table: a row a method, a column a size."""
    found = []
    for method in METHODS:
        cells = []
        for size in SIZES:
            row = next((r for r in rows if (r["task"], r["size"], r["method"]) == (task, size, method)), {})
            cell = f"{row[key]:.{4 if key == 'return' else 3}g}" if key in row else "-"
            cell += f" +- {row['ci']:.2g}" if key == "return" and key in row else ""
            fewer = "steps" in row and row["steps"] != TASKS[task][1]
            cells.append(f"{cell} (after {row['steps']:,})" if fewer else cell)
        if any(cell != "-" for cell in cells):
            found.append([method, *cells])
    return markdown([task, *(f"{size:.0%}" for size in SIZES)], found)


def figure(before: list[dict], after: list[dict]) -> Figure:
    """KL, return before and return after retraining, over the size; one column a task."""
    tasks = [task for task in TASKS if any(r["task"] == task for r in before)]
    drawn = Figure(figsize=(4 * len(tasks), 9), layout="constrained")
    panels = drawn.subplots(3, len(tasks), squeeze=False, sharex=True)
    for task, column in zip(tasks, panels.T, strict=True):
        for axes, rows, key in zip(column, (before, before, after), ("kl", "return", "return"), strict=True):
            own = [r for r in rows if r["task"] == task and key in r]
            for i, method in enumerate(METHODS):
                some = sorted((r for r in own if r["method"] == method), key=lambda r: r["got"])
                if some:
                    x, y = (
                        [r["got"] for r in some],
                        [max(r[key], 1e-7) if key == "kl" else r[key] for r in some],
                    )
                    bars = None if key == "kl" else [r["ci"] for r in some]
                    axes.errorbar(x, y, bars, fmt="o-", ms=3, lw=1, color=f"C{i}", label=method)
            for whole in (r for r in own if r["method"] == ORIGINAL and key == "return"):
                axes.axhspan(whole[key] - whole["ci"], whole[key] + whole["ci"], color="0.85")
                axes.axhline(whole[key], color="0.5", lw=1)
        column[0].set(title=task, xscale="log", yscale="log", xlim=(0.015, 0.7))
        column[2].set(xlabel="parameters kept", xticks=SIZES, xticklabels=[f"{s:.0%}" for s in SIZES])
        column[2].minorticks_off()
    for axes, label in zip(
        panels[:, 0],
        ("KL to the original, nats", "return before retraining", "return after retraining"),
        strict=True,
    ):
        axes.set_ylabel(label)
    named = {
        label: line
        for panel in panels[0]
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    drawn.legend(list(named.values()), list(named), loc="outside lower center", ncols=5, fontsize=8)
    return drawn


FIRST = {  # what the README's first figure shows: method, what it is called there, its color and marker
    "auto, distilled": ("this plugin: --collapse auto", "#d1495b", "o"),
    "published recipe": ("published recipe", "#2f5d9b", "s"),
    "random ablation": ("random ablation", "#6b6f76", "^"),
}
TITLES = {
    "cartpole": "CartPole + LSTM",
    "memory_cue": "memory cue",
    "half_cheetah": "HalfCheetah-v5",
    "pong": "Pong",
}


def first_figure(rows: list[dict]) -> Figure:
    """Return over size before any retraining: the collapse, the published recipe, random ablation."""
    drawn = Figure(figsize=(11, 3.3), layout="constrained")
    panels = drawn.subplots(1, len(TITLES), sharex=True)
    for axes, (task, title) in zip(panels, TITLES.items(), strict=True):
        own = [row for row in rows if row["task"] == task and "return" in row]
        axes.set_visible(bool(own))
        if not own:  # not measured yet
            continue
        whole = next(row for row in own if row["method"] == ORIGINAL)
        axes.axhline(whole["return"], color="0.2", lw=1, ls=(0, (4, 3)), label="the original")
        for method, (label, color, marker) in FIRST.items():
            some = sorted((r for r in own if r["method"] == method), key=lambda r: r["size"])
            x, y, bars = ([row[key] for row in some] for key in ("size", "return", "ci"))
            axes.errorbar(x, y, bars, fmt=f"{marker}-", ms=5, lw=1.8, color=color, label=label)
        axes.set(title=title, xscale="log", xlim=(0.6, 0.025), xticks=SIZES)
        axes.set_xticks(SIZES, [f"{size:.0%}" for size in SIZES])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("episode return")
    drawn.supxlabel("parameters kept, before any retraining", fontsize=10)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
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
        whole = next(r for r in own if r["method"] == ORIGINAL)
        look = next((r["look"] for r in own if "look" in r), float("nan"))
        lines += [
            f"## {task}",
            f"Original: return {whole['return']:.4g} +- {whole['ci']:.2g}; "
            f"KL of its states to their mean {look:.3g} nats.",
            "",
        ]
        for what, key in (("KL", "kl"), ("value error", "value_error"), ("return", "return")):
            lines += [f"{what}, before any retraining", "", *table(own, task, key), ""]
        own_after = [r for r in after if r["task"] == task]
        if own_after:
            whole = next((r for r in own_after if r["method"] == ORIGINAL), None)
            beside = f" (original, as many: {whole['return']:.4g} +- {whole['ci']:.2g})" if whole else ""
            lines += [
                f"return after {TASKS[task][1]:,} steps of retraining{beside}",
                "",
                *table(own_after, task, "return"),
                "",
            ]
        for size in (0.2, 0.1):
            kl = {r["method"]: r["kl"] for r in own if r["size"] == size and "kl" in r}
            if "published recipe" in kl:
                ratios = [
                    f"{m} {kl['published recipe'] / max(k, 1e-12):.3g}"
                    for m, k in kl.items()
                    if m != "published recipe"
                ]
                lines.append(
                    f"KL of the published recipe over KL of others, at {size:.0%}: "
                    + ", ".join(ratios)
                    + "\n"
                )
    (OUT / "results.md").write_text("\n".join(lines))
    if rows:
        figure(rows, after).savefig(OUT / "faithfulness.png", dpi=100)
        first_figure(rows).savefig(REPO / "docs/size_and_return.png", dpi=110)
    print("\n".join(lines))


def train(args: argparse.Namespace) -> None:
    """Each policy, one after the other in each job."""

    def one(task: str) -> None:
        words = f"{TASKS[task][0]} --exp-id {task} --train.data-dir {args.runs}".split()
        subprocess.run([sys.executable, str(REPO / "demo.py"), *words], check=True, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, args.tasks))


def shake(args: argparse.Namespace) -> None:
    """How far a policy is from itself with weights moved at random: what no collapse can be held to."""
    for task in args.tasks:
        case = case_of(Run.open(Path(args.runs) / task))
        same = graph.collapse(case.policy, case.inputs, 0)
        for part in (1e-5, 1e-4, 1e-3):
            kls = []
            for seed in range(10):
                moved, generator = copy.deepcopy(case.policy), torch.Generator().manual_seed(seed)
                with torch.no_grad():
                    for p in moved.parameters():
                        spread = p.std() if p.numel() > 1 else p.abs()
                        p += part * spread * torch.randn(p.shape, generator=generator)
                kls.append(graph.divergence(case.policy, moved, case.test, same.network, {}).kl)
            found = f"KL {np.median(kls):.2g} (median of 10), {max(kls):.2g} (largest)"
            print(f"{task}: weights moved by {part:g} of their spread: {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "measure", "retrain", "shake", "show"])
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
            lambda case, run, found, task: measure(case, found, TASKS[task][2]),
        )
    elif args.what == "shake":
        shake(args)
        return
    elif args.what == "retrain":
        grid(
            args,
            "after",
            args.sizes or (0.1, 0.03),
            args.methods or RETRAINED,
            lambda case, run, found, task: retrain(case, run, found, TASKS[task][1], task),
        )
    show()


if __name__ == "__main__":
    main()
