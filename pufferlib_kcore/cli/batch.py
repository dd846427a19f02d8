"""Batch: retrain many collapses of many checkpoints, each beside its controls, and report on all of them."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from pufferlib_kcore import settings as settings_room
from pufferlib_kcore.cli import answered
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import progress
from pufferlib_kcore.jobs.batch import launch
from pufferlib_kcore.jobs.batch.launch import Command, Outcome, is_installed
from pufferlib_kcore.jobs.progress import counted
from pufferlib_kcore.settings.arguments import TRACKERS, Parser
from pufferlib_kcore.settings.layers import unknown
from pufferlib_kcore.settings.sections import KINDS as SPACE_KINDS
from pufferlib_kcore.settings.uses import users
from pufferlib_kcore.settings.values import DISTANCE, Bounds, read, run_name
from pufferlib_kcore.store import MettaFolder, atomic, metta, names
from pufferlib_kcore.store.lock import locked

KINDS = names.METTA_ROLE_OF
OF_THE_MACHINE = ("data_dir", "threads", "num_workers", "env_batch_size", "device", "keep_state", "epoch")
PASSED = ("--vec", "--wandb-project", "--wandb-entity", "--config", "--trust-checkpoint")
INSTEAD = {  # options of demo.py that the grid sets
    **{f"--collapse.{kind}": f"--{kind}-thr" for kind in SPACE_KINDS},
    **dict.fromkeys(
        ("--collapse", "--collapse.threshold"), "--linear-thr, --cnn-thr, --lstm-thr, --critic-thr"
    ),
    **dict.fromkeys(("--collapse-epoch", "--collapse.epoch"), "--epoch-idx"),
    **dict.fromkeys(("--collapse.target-params", "--collapse.max-kl"), "--target-params"),
    **dict.fromkeys(("--seed", "--train.seed"), "--seeds"),
    **dict.fromkeys(("--run", "--exp-id", "--resume"), "--exp-name"),
    **dict.fromkeys(("--control", "--mode", "--layout"), "--kinds"),
    "--train.data-dir": "--train-dir",
    "--wandb-group": "--exp-name",
}
THRESHOLDS = dict(zip(SPACE_KINDS, (0.7, 0.5, 1.0, 0.8), strict=True))


@dataclass(frozen=True)
class Task:
    """One run of the grid."""

    name: str
    exp: str
    epoch: int
    kind: str
    setting: tuple[float, ...]
    seed: int | None
    collapse: tuple[str, ...]  # the arguments that say which collapse; () for the original
    argv: tuple[str, ...]  # of demo.py
    folder: MettaFolder
    steps: int  # where it ends

    def is_done(self) -> bool:
        """Whether its newest checkpoint, which it would go on from, is its end."""
        found = self.folder.checkpoints()
        name = names.parse_metta_checkpoint(found[-1][1].name) if found else None
        return name is not None and name.agent_steps >= self.steps


def main(argv: Sequence[str] | None = None) -> int:
    """-> 0 when all runs are done, 1 when one failed or was stopped, 2 for a user's mistake"""
    words = sys.argv[1:] if argv is None else argv
    try:
        return answered("kcore", lambda: run(*parsed(words)), "free space for train_dir; a rerun goes on")
    except KeyboardInterrupt:
        launch.stop()
        print("kcore: stopped; the same command goes on where this one was", file=sys.stderr)
        return 1


def run(given: argparse.Namespace, passed: list[str]) -> int:
    """Work the grid off, then write its report."""
    signal.signal(signal.SIGTERM, _interrupted)
    folder = Path(given.train_dir) / (given.batch or "+".join(given.exp_name) + "_kcore")
    if MettaFolder(folder).exists():
        raise UserError(f"{folder} is a run: name another --batch")
    tasks = grid(given, passed)
    logs = folder / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {logs}: {error.strerror}; choose another --train-dir") from error
    with locked(folder, "wait until it ends, or name another --batch"):
        said = {"command": command_line(given, passed), "passed": passed, **vars(given)}
        atomic.write(folder / "batch.json", (json.dumps(said, indent=2) + "\n").encode())
        failed = work(tasks, given, logs)
        try:
            from pufferlib_kcore.cli import batch_report

            others = found_beside(tasks, Path(given.train_dir))
            with progress.shown("making the report"):
                told = batch_report.write(folder, [*tasks, *others], failed, said["command"])
            print(told)
        except UserError as error:
            print(f"kcore: no report: {error}", file=sys.stderr)
            return 1
    return 1 if failed or any(not task.is_done() for task in tasks) else 0


# --- the grid -----------------------------------------------------------------------------------


def grid(given: argparse.Namespace, passed: list[str]) -> list[Task]:
    """All runs that are asked for.  Raises UserError for what cannot be run, before anything is."""
    tasks: dict[str, Task] = {}
    targets = [(size,) for size in given.target_params]
    settings = targets or list(product(*(getattr(given, f"{kind}_thr") for kind in THRESHOLDS)))
    for exp in given.exp_name:
        source = metta.find(given.train_dir, exp)
        if given.env is not None and source.env not in (given.env, None):
            raise UserError(f"{source.path} was trained on {source.env}, not on --env {given.env}")
        for asked in given.epoch_idx:
            epoch, path = source.nearest(asked)
            if epoch != asked:
                print(f"{exp}: no checkpoint of epoch {asked}, the nearest is {epoch}", flush=True)
            if not source.state_path(epoch).is_file():
                print(f"{exp}: no {source.state_path(epoch).name}: the optimizer starts cold", flush=True)
            for kind, seed in product(given.kinds, given.seeds or [None]):
                for setting in [()] if kind == "original" else settings:
                    task = task_of(given, passed, source, epoch, path, kind, setting, seed)
                    tasks[task.name] = task
    if not tasks:
        raise UserError("nothing to do: the grid is empty")
    return list(tasks.values())


def task_of(
    given: argparse.Namespace,
    passed: list[str],
    source: MettaFolder,
    epoch: int,
    path: Path,
    kind: str,
    setting: tuple[float, ...],
    seed: int | None,
) -> Task:
    from pufferlib_kcore.jobs import stored  # which takes PufferLib, and seconds

    name = run_name(
        names.metta_run(names.MettaRun(source.exp_id, epoch, KINDS[kind], setting, seed)), "the run"
    )
    from_ = ["--layout", "metta", "--train.data-dir", given.train_dir, "--exp-id", source.exp_id]
    from_ += ["--collapse-epoch", str(epoch)]
    plain = source.config().get("settings")
    if given.env and plain is None:  # nothing else says it
        from_ += ["--env", given.env]
    if len(setting) == 1:
        collapse = [*from_, "--collapse", "auto", "--collapse.target-params", names.decimal(setting[0])]
    else:
        by_kind = zip(THRESHOLDS, setting, strict=False)
        collapse = from_ + [w for kind, t in by_kind for w in (f"--collapse.{kind}", names.decimal(t))]
    words = [*collapse, "--run", name, "--track", given.track, "--wandb-group", source.exp_id, *passed]
    words += [] if kind == "collapsed" else ["--control", kind]
    words += [] if seed is None else ["--seed", str(seed)]
    args = settings_room.load(["--mode", "train", *words], lambda args: plain)
    settings = (
        args.settings if plain is None else settings_room.from_plain(plain, args.overrides, args.config)
    )
    stored.check_run(source, stored.Over(args.overrides, args.env, args.config))
    steps = settings.train.total_timesteps
    checkpoint = names.parse_metta_checkpoint(path.name)
    if checkpoint is not None and checkpoint.agent_steps >= steps:
        raise UserError(
            f"nothing to do: {source.exp_id} had taken {checkpoint.agent_steps:,} steps at epoch {epoch}; "
            f"train.total_timesteps is {steps:,}; choose an earlier --epoch-idx, or go further with "
            f"--train.total-timesteps {2 * checkpoint.agent_steps}"
        )
    chosen = () if kind == "original" else (*collapse, *of_the_collapse(passed))
    folder = MettaFolder(Path(given.train_dir) / name)
    same_as_before(folder, settings.to_plain(), ("train", "env", "collapse")[: 2 + (kind != "original")])
    return Task(
        name, source.exp_id, epoch, kind, setting, seed, chosen, ("--mode", "train", *words), folder, steps
    )


def of_the_collapse(passed: Sequence[str]) -> list[str]:
    """The options, with their values, that --mode collapse uses as well."""
    kept: list[str] = []
    wanted = False
    for word in passed:
        if word.startswith("--"):
            name = word.partition("=")[0]
            modes = users(name.removeprefix("--").replace("-", "_") if "." in name else name)
            wanted = modes is None or "collapse" in modes
        if wanted:
            kept.append(word)
    return kept


def same_as_before(folder: MettaFolder, asked: dict[str, Any], sections: Sequence[str]) -> None:
    """Raise UserError where a run is there that was made with other settings: no mean may mix the two."""
    made = folder.config().get("settings") if folder.checkpoints() else None
    if not made:
        return
    for section in sections:
        for key, value in asked[section].items():
            old = made[section].get(key, value)
            if old != value and key not in OF_THE_MACHINE:
                raise UserError(
                    f"{folder.path} was made with {section}.{key} = {old}, and {value} is asked for: delete "
                    "it, or take another --train-dir"
                )


def found_beside(tasks: list[Task], train_dir: Path) -> list[Task]:
    """The other retrained runs of the same experiments, of earlier batches."""
    exps, known = {task.exp for task in tasks}, {task.name for task in tasks}
    kinds = {role: kind for kind, role in KINDS.items()}
    found = []
    for path in sorted(train_dir.iterdir()):
        name, folder = names.parse_metta_run(path.name), MettaFolder(path)
        if name and name.experiment in exps and path.name not in known and folder.checkpoints():
            try:
                steps = folder.config()["settings"]["train"]["total_timesteps"]
            except (UserError, KeyError):
                continue
            about = (path.name, name.experiment, name.epoch, kinds[name.role], name.setting, name.seed)
            found.append(Task(*about, (), (), folder, steps))
    return found


# --- the work -----------------------------------------------------------------------------------


def work(tasks: list[Task], given: argparse.Namespace, logs: Path) -> dict[str, str]:
    """Collapse what is to be collapsed, then train what is not done.  -> {run: why it failed}"""
    left = [task for task in tasks if not task.is_done()]
    print(f"{len(tasks)} runs: {len(tasks) - len(left)} done before, {len(left)} to do", flush=True)
    failed: dict[str, str] = {}
    groups: dict[tuple[str, ...], list[Task]] = {}
    for task in left:
        if task.collapse and not task.folder.checkpoints():
            groups.setdefault(task.collapse, []).append(task)
    first = {
        command(("--mode", "collapse", *words), f"collapse_{_tag(group[0])}", logs): group
        for words, group in groups.items()
    }
    collapsing = launch.run_all(list(first), given.launcher, given.jobs, given.slurm)
    for done, outcome in counted(collapsing, len(first), f"collapsing: {len(first)} to do", progress.shown):
        report(done, outcome)
        if outcome.status:
            failed |= {task.name: f"its collapse failed: {why(done, outcome)}" for task in first[done]}
    commands = {command(task.argv, task.name, logs): task for task in left if task.name not in failed}
    for done, task in commands.items():
        if not task.folder.checkpoints():  # what an earlier run of that name took is none of this one's
            done.log.with_suffix(".json").unlink(missing_ok=True)
    training = launch.run_all(list(commands), given.launcher, given.jobs, given.slurm, remember)
    for done, outcome in counted(
        training, len(commands), f"training: {len(commands)} runs to do", progress.shown
    ):
        report(done, outcome)
        if outcome.status or not commands[done].is_done():
            failed[done.name] = why(done, outcome)
    return failed


def command(argv: Sequence[str], name: str, logs: Path) -> Command:
    return Command(
        name, (sys.executable, str(launch.ROOT / "demo.py"), *argv), (logs / f"{name}.log").absolute()
    )


def report(done: Command, outcome: Outcome) -> None:
    how = "done" if not outcome.status else f"failed: {why(done, outcome)}"
    print(f"{done.name}: {how} ({outcome.seconds:.0f} s)", flush=True)


def why(done: Command, outcome: Outcome) -> str:
    """The last line that a command printed, or what stopped it."""
    if outcome.message:
        return outcome.message
    if outcome.status < 0:
        return f"ended by signal {-outcome.status}"
    lines = done.log.read_text(errors="replace").strip().splitlines() if done.log.is_file() else []
    return lines[-1][:300] if lines else f"exit status {outcome.status}"


def remember(done: Command, outcome: Outcome) -> None:
    """Add up time, and keep the highest memory, over the attempts at a run."""
    path = done.log.with_suffix(".json")
    old = recalled(path)
    usage = replace(
        outcome,
        seconds=outcome.seconds + old.get("seconds", 0),
        peak_bytes=max(outcome.peak_bytes, old.get("peak_bytes", 0)),
    )
    atomic.write(path, json.dumps(asdict(usage)).encode())


def recalled(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _tag(task: Task) -> str:
    return names.metta_run(names.MettaRun(task.exp, task.epoch, "base", task.setting))


def _interrupted(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


# --- the command line ---------------------------------------------------------------------------


def parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The grid, and the arguments that every training gets.

    Lists are words, or within one word parted by spaces; whole numbers and names by commas, too.
    """
    parser = Parser(
        prog="bash kcore.sh",
        allow_abbrev=False,
        description="Collapse a trained run's checkpoint and retrain it, beside its controls. "
        "Every list in a parameter makes the grid larger. Other options, such as --train.total-timesteps, "
        "go to every training.",
    )
    add = parser.add_argument
    lists: dict[str, Any] = {"nargs": "+", "metavar": "X"}
    add("--exp-name", **lists, help="runs in train_dir to collapse")
    add("--epoch-idx", **lists, default=["50"], help="epochs to collapse at, or the nearest (default: 50)")
    for kind, value in THRESHOLDS.items():
        said = f"cosine distances, 0 to 2, for kind {kind} (default: {value})"
        add(f"--{kind}-thr", action="append", **lists, help=said)
    said = "in place of thresholds: parts of the parameters to keep, found by a search on recorded states"
    add("--target-params", **lists, default=[], help=said)
    add("--seeds", **lists, default=[], help="seeds of training, and of what controls draw")
    add("--kinds", **lists, default=["collapsed"], help=f"which of {', '.join(KINDS)} (default: collapsed)")
    add("--train-dir", default="train_dir", help="folder of the runs (default: train_dir)")
    add("--env", help="the environment, to check that it is the run's")
    add("--batch", help="name of the batch's folder in train_dir (default: <exp>_kcore)")
    add("--jobs", default="1", metavar="N", help="trainings at once; they share the cores (default: 1)")
    add("--launcher", default="local", help=f"where they run: {', '.join(launch.LAUNCHERS)} (default: local)")
    said = "with --launcher slurm: submitit's parameters, such as slurm_partition=short; cluster=local tries "
    add("--slurm", **lists, default=[], help=said + "them out on this machine")
    said = "wandb, tensorboard or none (default: wandb, offline, if it is there)"
    add("--track", default="auto", help=said)
    words = [re.sub(r"^--[\w-]+", lambda m: m[0].replace("_", "-"), word) for word in argv]
    given, passed = parser.parse_known_args(words)
    check_passed(passed, parser.options())
    given.exp_name = [name.rstrip("/") for name in _words(given.exp_name or [])]
    named = [("--exp-name", name) for name in given.exp_name]
    for option, name in (*named, *([] if given.batch is None else [("--batch", given.batch)])):
        run_name(name, option)
        if "/" in name or name.startswith("."):
            raise UserError(f"{name!r} is a path: give the run's name alone, and its folder by --train-dir")
    if not given.exp_name:
        raise UserError("which run? name it, as in bash kcore.sh --exp-name t1 --epoch-idx 340")
    given.epoch_idx = _numbers(given.epoch_idx, "--epoch-idx", 340, Bounds(0))
    given.seeds = _numbers(given.seeds, "--seeds", 1, Bounds(0, 2**31 - 1))
    typed = []
    for kind, value in THRESHOLDS.items():
        said_so = getattr(given, f"{kind}_thr") or [[str(value)]]
        found = [_number(t, f"--{kind}-thr", value, DISTANCE) for t in _texts(said_so[-1])]
        setattr(given, f"{kind}_thr", found)
        if len(said_so) > 1 or found != [value]:  # kcore.sh gives each of them once
            typed.append(f"--{kind}-thr")
    part = Bounds(0, 1, above=True, hint=" (a part of the parameters)")
    given.target_params = [_number(t, "--target-params", 0.2, part) for t in _texts(given.target_params)]
    if typed and given.target_params:
        raise UserError(f"--target-params takes the place of thresholds: leave {typed[0]} out, or it")
    given.kinds = _words(given.kinds)
    for kind in given.kinds:
        if kind not in KINDS:
            raise UserError(unknown(f"kind {kind!r}", kind, KINDS))
    if given.kinds == ["original"] and (typed or given.target_params):
        option = typed[0] if typed else "--target-params"
        raise UserError(f"--kinds original collapses nothing: leave {option} out, or add the kind collapsed")
    given.jobs = Bounds(1).check(read(given.jobs, int, "--jobs", "2"), "--jobs")
    if given.launcher not in launch.LAUNCHERS:
        raise UserError(unknown(f"launcher {given.launcher!r}", given.launcher, launch.LAUNCHERS))
    odd = next((word for word in given.slurm if not re.fullmatch(r"\w+=.+", word)), None)
    if odd is not None:
        raise UserError(f"--slurm {odd!r}: expected name=value, as in --slurm slurm_partition=short")
    given.slurm = dict(word.split("=", 1) for word in given.slurm)
    launch.check_launcher(given.launcher, given.slurm)
    if given.track not in ("auto", *TRACKERS):
        raise UserError(unknown(f"tracker {given.track!r}", given.track, TRACKERS))
    if given.track == "auto":
        given.track = "wandb" if is_installed("wandb") else "none"
    empty = [f"--{k}-thr" for k in THRESHOLDS if not getattr(given, f"{k}_thr") and not given.target_params]
    empty += [f"--{name.replace('_', '-')}" for name in ("epoch_idx", "kinds") if not getattr(given, name)]
    if empty:
        raise UserError(f"nothing to do: {empty[0]} is empty")
    return given, passed


def command_line(given: argparse.Namespace, passed: Sequence[str]) -> str:
    """The command that asks for the same batch, whatever kcore.sh and the environment say."""
    words = ["bash", "kcore.sh"]
    unused = given.target_params or given.kinds == ["original"]
    left_out = [f"{kind}_thr" for kind in THRESHOLDS] if unused else []
    left_out += [name for name, value in vars(given).items() if value in (None, [], {}, "local")]
    for name, value in vars(given).items():
        if name in left_out:
            continue
        values = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
        values = values if isinstance(values, list) else [values]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join([*words, *passed])


def check_passed(passed: Sequence[str], own: Sequence[str]) -> None:
    """Raise UserError for what is no option of training, or one that the batch decides itself."""
    options = [word.partition("=")[0] for word in passed if word.startswith("--")]
    if passed and not passed[0].startswith("--"):
        raise UserError(f"unknown argument {passed[0]!r}: bash kcore.sh --help lists all")
    for option in options:
        if option in INSTEAD:
            raise UserError(f"{option} is the batch's to say: give {INSTEAD[option]}")
        if "." not in option and option not in PASSED:
            raise UserError(unknown(f"argument {option!r}", option, [*own, *PASSED]))


def _words(texts: Sequence[str]) -> list[str]:
    """Names, parted by spaces or commas."""
    return list(dict.fromkeys(word for text in texts for word in re.split(r"[,\s]+", text) if word))


def _texts(texts: Sequence[str]) -> list[str]:
    """Numbers with a point in them, parted by spaces alone: 0,1 may be meant as one or as two."""
    return list(dict.fromkeys(word for text in texts for word in text.split()))


def _numbers(texts: Sequence[str], where: str, example: int, bounds: Bounds) -> list[int]:
    """Whole numbers, parted by spaces or commas; 1,000 is refused, since it is one number elsewhere."""
    for text in _texts(texts):
        if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
            raise UserError(
                f"{where} = {text!r}: one number or several? write {text.replace(',', '')}, or "
                f"{text.replace(',', ' ')}"
            )
    return [_number(word, where, example, bounds, int) for word in _words(texts)]


def _number(text: str, where: str, example: Any, bounds: Bounds, kind: type = float) -> Any:
    value = bounds.check(read(text, kind, where, str(example)), where)
    return value + kind(0)  # -0.0 becomes 0.0
