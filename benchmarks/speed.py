"""Speed: our trainer beside others, smaller policies beside larger ones, and what a training keeps in memory.

    python benchmarks/speed.py --pufferlib-trainer path/to/clean_pufferl.py    # trainers
    python benchmarks/speed.py smaller                                         # policies of 100 to 10%
    python benchmarks/speed.py memory                                          # peak over what it needs
    python benchmarks/speed.py show                                            # what was measured before

Trainers: BeamRider, 16 envs, batch 4,096, minibatch 1,024, bptt 8, 3 update epochs and 1, the same network
(benchmarks/rivals.py says what the rivals are); ours also in 1, 2, 4 and more processes of torchrun, up to
one a core. A first round tries each rival's thread settings; then all take turns, each rival at its best.
Steps/s are of whole epochs after the first; ratios are taken within each round. PufferLib's trainer is left
out without its path, sb3 where sb3_contrib is not installed.

Writes speed.json, results.md and figures to benchmarks/speed. Each measurement is kept when it is done, in
experiments/speed/measured.jsonl, and not done again at the same commit (--again: from the start).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import rounds  # noqa: E402
import speed_memory  # noqa: E402
import speed_smaller  # noqa: E402
from rounds import LIMIT, SETTINGS, Failed, Measured, cell, in_turn, machine, ratios, spread  # noqa: E402

from pufferlib_kcore.environments.cores import available_cores  # noqa: E402
from pufferlib_kcore.errors import UserError  # noqa: E402
from pufferlib_kcore.settings.arguments import BACKENDS  # noqa: E402
from pufferlib_kcore.text import markdown  # noqa: E402

OURS = "ours"
START, PATIENCE = 60, 4  # a trial gets so many seconds, and so many times as long as its fastest sibling


@dataclass(frozen=True)
class Entrant:
    """One trainer, and the settings that it is tried at."""

    title: str
    settings: dict[str, list[Any]]  # its name -> options; the fastest is taken
    rival: str | None = None  # its name in rivals.py; None: ours
    why_not: str | None = None  # it cannot run here
    processes: int | None = None  # that torchrun starts; None: without torchrun


def entrants(trainer: str | None, tried: Sequence[int] | None = None) -> dict[str, Entrant]:
    """All that take part.  trainer: path of PufferLib's; tried: torch's threads, None for 1 to all cores"""
    cores = available_cores()
    found = {}
    for backend in BACKENDS:
        if backend == "ray":  # for several machines
            continue
        note = " (other preprocessing)" if backend == "ale" else ""
        name = OURS if backend == BACKENDS[0] else f"{OURS}-{backend}"
        found[name] = Entrant(f"ours, {backend}{note}", {"auto": ["--vec", backend]})
    options = ["--vec", BACKENDS[0], "--train.precision", "float32"]
    found[f"{OURS}-float32"] = Entrant(f"ours, {BACKENDS[0]}, float32", {"auto": options})

    envs, processes = SETTINGS["train.num_envs"], 1
    while processes <= cores and envs % processes == 0:
        threads = cores // processes
        setting = f"{counted(threads, 'thread')} each"
        options = {setting: ["--vec", "serial", "--train.threads", str(threads)]}
        title = f"ours, torchrun, {counted(processes, 'process', 'es')}"
        found[f"{OURS}-torchrun-{processes}"] = Entrant(title, options, processes=processes)
        processes *= 2

    tried = tried or range(1, cores + 1)
    by_threads = {counted(n, "thread"): ["--threads", str(n)] for n in tried}
    workers = max(n for n in range(1, cores + 1) if envs % n == 0)
    both = {
        f"{vec}, {name}": [*options, "--vec", vec, "--workers", str(workers)]
        for vec in ("serial", "multiprocessing")
        for name, options in by_threads.items()
    }
    why_not = None if trainer else "name PufferLib 2.0's clean_pufferl.py with --pufferlib-trainer"
    if trainer and not Path(trainer).is_file():
        raise UserError(f"--pufferlib-trainer {trainer} is no file: expected a copy of clean_pufferl.py")
    path = ["--trainer", Path(trainer or "").absolute()]
    settings = {name: [*path, *options] for name, options in both.items()}
    found["pufferlib"] = Entrant("PufferLib 2.0's trainer", settings, "pufferlib", why_not)
    found["cleanrl"] = Entrant("synchronous loop, as CleanRL's", by_threads, "cleanrl")
    why_not = None if importlib.util.find_spec("sb3_contrib") else "pip install sb3-contrib"
    found["sb3"] = Entrant("sb3-contrib's RecurrentPPO", both, "sb3", why_not)
    return found


def counted(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number > 1 else ''}"


def steps_per_second(
    entrant: Entrant, setting: str, train: dict[str, Any], epochs: int, log: Path, limit: float
) -> float:
    """Train one epoch and then so many, and time these.  Raises Failed, also after `limit` seconds."""
    folder, options = log.with_suffix(""), entrant.settings[setting]
    shutil.rmtree(folder, ignore_errors=True)
    steps = (1 + epochs) * train["train.batch_size"]
    if entrant.rival is None:
        words = [f"--{key}={value}" for key, value in (train | {"train.total_timesteps": steps}).items()]
        options = ["--env", "beam_rider", *options, *words]
        rows, clock = rounds.train(options, folder, entrant.processes, limit), "uptime"
    else:
        options = ["--steps", steps, *options, *(f"{key}={value}" for key, value in train.items())]
        rows, clock = rounds.train_rival(entrant.rival, options, folder, limit), "wall"
    shutil.rmtree(folder)
    if len(rows) != 1 + epochs:
        raise Failed(f"{len(rows)} epochs instead of {1 + epochs} ({log})")
    return (rows[-1]["agent_steps"] - rows[0]["agent_steps"]) / (rows[-1][clock] - rows[0][clock])


def trainers(args: argparse.Namespace, measured: Measured) -> dict[str, Any]:
    """Measure all entrants in turn.  -> the section of speed.json"""
    known = entrants(args.pufferlib_trainer, args.threads)
    unknown = set(args.only or ()) - known.keys()
    if unknown:
        raise UserError(f"--only {' '.join(sorted(unknown))}: expected some of {' '.join(known)}")
    chosen = {name: e for name, e in known.items() if not args.only or name in args.only}
    for name, entrant in list(chosen.items()):
        if entrant.why_not:
            print(f"{name} is left out: {entrant.why_not}", flush=True)
            del chosen[name]
    began = time.perf_counter()

    def measure(
        name: str, setting: str, turn: int, update_epochs: int, epochs: int, limit: float = LIMIT
    ) -> float | None:
        train = {**SETTINGS, **args.set, "train.update_epochs": update_epochs}
        key = dict(table="trainers", entrant=name, setting=setting, round=turn, train=train, epochs=epochs)
        row = measured.find(**key)
        if row is None:
            log = args.work / f"{name}-{setting.replace(', ', '-').replace(' ', '')}-{update_epochs}.log"
            try:
                speed = steps_per_second(chosen[name], setting, train, epochs, log, limit)
            except Failed as error:
                print(f"{name}, {setting}: {error}", flush=True)
                return None
            row = measured.add(**key, steps_per_second=speed)
        what = f"round {turn}" if turn else "trial"
        minutes = (time.perf_counter() - began) / 60
        line = f"{row['steps_per_second']:8,.1f} steps/s"
        print(
            f"{minutes:6.1f} min  {update_epochs} update epochs  {what:8} {name:14} {setting:28} {line}",
            flush=True,
        )
        return row["steps_per_second"]

    section: dict[str, Any] = {**measured.about, "settings": {**SETTINGS, **args.set}, "epochs": args.epochs}
    section["update_epochs"] = {}
    for update_epochs in args.update_epochs:
        tried: dict[str, dict[str, float]] = {}
        for name, entrant in chosen.items():
            if len(entrant.settings) > 1:
                tried[name] = {}
                for setting in entrant.settings:
                    steps = (1 + args.trial_epochs) * {**SETTINGS, **args.set}["train.batch_size"]
                    fastest = max(tried[name].values(), default=None)
                    limit = START + PATIENCE * steps / fastest if fastest else LIMIT
                    if speed := measure(name, setting, 0, update_epochs, args.trial_epochs, limit):
                        tried[name][setting] = speed
        best = {name: max(speeds, key=speeds.__getitem__) for name, speeds in tried.items() if speeds}
        best |= {name: next(iter(e.settings)) for name, e in chosen.items() if len(e.settings) == 1}
        found: dict[str, dict[int, float]] = {name: {} for name in chosen if name in best}
        for turn in range(1, args.rounds + 1):
            for name in in_turn(list(found), turn):
                speed = measure(name, best[name], turn, update_epochs, args.epochs)
                if speed:
                    found[name][turn] = speed
        section["update_epochs"][str(update_epochs)] = {
            name: {
                "title": chosen[name].title,
                "setting": best[name],
                "tried": tried.get(name, {}),
                "steps_per_second": speeds,
                "ours_over_it": ratios(found[OURS], speeds) if OURS in found and name != OURS else [],
            }
            for name, speeds in found.items()
        }
    return section


def trainer_tables(section: dict[str, Any]) -> list[str]:
    t = section["settings"]
    lines = ["## Trainers", "", machine(section), ""]
    lines += [
        f"BeamRider, {t['train.num_envs']} envs, batch {t['train.batch_size']:,}, minibatch "
        f"{t['train.minibatch_size']:,}, bptt {t['train.bptt_horizon']}: {section['epochs']} epochs after "
        "the first. Median over rounds [least, most]; ratios are taken within each round. Rivals run at the "
        "fastest of the settings that the first round tried (all of them: speed.json).",
        "",
    ]
    for update_epochs, rows in section["update_epochs"].items():
        header = [f"{update_epochs} update epochs", "setting", "steps/s", "ours over it"]
        cells = [
            [
                row["title"],
                row["setting"],
                cell(spread(list(row["steps_per_second"].values())), ",.0f"),
                cell(spread(row["ours_over_it"]), ".2f", " x"),
            ]
            for row in rows.values()
        ]
        lines += [*markdown(header, cells), ""]
    return lines


def trainer_figure(section: dict[str, Any]) -> Figure:
    """Bars of median steps/s, lines from the slowest to the fastest round."""
    panels = section["update_epochs"]
    drawn = Figure(figsize=(5 * len(panels) + 1.5, 3.6), layout="constrained")
    for axes, (update_epochs, rows) in zip(
        drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for place, row in enumerate(reversed(rows.values())):
            found = spread(list(row["steps_per_second"].values()))
            if found is None:
                continue
            color = "tab:blue" if row["title"].startswith("ours") else "tab:gray"
            axes.barh(row["title"], found["median"], color=color)
            axes.plot([found["min"], found["max"]], [place, place], color="black")
            if over := spread(row["ours_over_it"]):
                axes.annotate(f"  {over['median']:.2f} x", (found["max"], place), va="center", fontsize=8)
        axes.set(xlabel="steps/s, and ours (multiprocessing) over it", title=f"{update_epochs} update epochs")
        axes.margins(x=0.15)
    return drawn


@dataclass(frozen=True)
class Part:
    """One of the things that are measured."""

    measure: Callable[[argparse.Namespace, Measured], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[str]]
    figure: Callable[[dict[str, Any]], Figure] | None = None
    picture: str = ""


PARTS = {
    "trainers": Part(trainers, trainer_tables, trainer_figure, "speed.png"),
    "smaller": Part(speed_smaller.measure, speed_smaller.tables, speed_smaller.figure, "smaller.png"),
    "memory": Part(speed_memory.measure, speed_memory.tables),
}


def show(folder: Path) -> None:
    """results.md and the figures, of all that speed.json holds."""
    path = folder / "speed.json"
    sections = json.loads(path.read_text()) if path.exists() else {}
    lines = ["# Speed", "", "Made by `benchmarks/speed.py`; `speed.json` holds all rounds.", ""]
    for name, section in sections.items():
        part = PARTS[name]
        lines += part.tables(section)
        if part.figure:
            part.figure(section).savefig(folder / part.picture, dpi=100)
            lines += [f"![{name}]({part.picture})", ""]
    if sections:
        (folder / "results.md").write_text("\n".join(lines))
    print("\n".join(lines) if sections else f"nothing is measured in {folder} yet")


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """["train.batch_size=512"] -> {"train.batch_size": 512}"""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.startswith("train."):
            raise UserError(f"--set {word}: expected a setting and its value, as train.batch_size=512")
        found[key] = int(text) if text.isdecimal() else text
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", nargs="?", choices=[*PARTS, "show"], default="trainers")
    add("--pufferlib-trainer", metavar="PATH", help="PufferLib 2.0's clean_pufferl.py")
    add("--rounds", type=int, default=3)
    add("--update-epochs", type=int, nargs="+", default=[3, 1], help="passes over each batch (default: 3 1)")
    some = "ours ours-float32 ours-torchrun-2 pufferlib cleanrl sb3 ..."
    add("--only", nargs="+", metavar="ENTRANT", help=some)
    add("--epochs", type=int, default=3, help="that are timed, after the first")
    add("--trial-epochs", type=int, default=1, help="the same, where settings are tried")
    add("--threads", type=int, nargs="+", help="of torch, to try with each rival (default: 1 to all cores)")
    add("--checkpoint", metavar="FILE", help="smaller: of this policy, not of a fresh one")
    add("--set", nargs="+", default=[], metavar="train.KEY=VALUE", help="other settings, for a quick look")
    add("--again", action="store_true", help="measure again what is measured")
    add("--out", type=Path, default=REPO / "benchmarks/speed", help="folder of tables and figures")
    add("--work", type=Path, default=REPO / "experiments/speed", help="folder of measurements and logs")
    args = parser.parse_args()
    args.out, args.work = args.out.absolute(), args.work.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what != "show":
        args.set = overrides(args.set)
        measured = Measured(args.work / "measured.jsonl")
        if args.again:
            measured.forget(args.what)
        section = PARTS[args.what].measure(args, measured)
        kept = args.out / "speed.json"
        sections = json.loads(kept.read_text()) if kept.exists() else {}
        sections[args.what] = section
        ordered = {name: sections[name] for name in PARTS if name in sections}
        kept.write_text(json.dumps(ordered, indent=1) + "\n")
    show(args.out)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is being measured ends as well
    try:
        main()
    except UserError as error:
        sys.exit(f"speed.py: {error}")
