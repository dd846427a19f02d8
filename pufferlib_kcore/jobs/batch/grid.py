"""Grid: the runs that a batch is asked for, each as a task; what cannot be run is said before anything is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pufferlib_kcore import settings as settings_room
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch.request import BatchRequest
from pufferlib_kcore.jobs.batch.task import Task
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.settings.sections import KINDS
from pufferlib_kcore.settings.uses import users
from pufferlib_kcore.settings.values import run_name
from pufferlib_kcore.store import MettaFolder, metta, names

OF_THE_MACHINE = ("data_dir", "threads", "num_workers", "env_batch_size", "device", "keep_state", "epoch")


@dataclass(frozen=True)
class Origin:
    """A checkpoint that runs of the grid begin from."""

    run: MettaFolder
    epoch: int
    path: Path
    plain: Mapping[str, Mapping[str, Any]] | None  # the settings that the run was made with, where it says


def grid(request: BatchRequest, tell: Callable[[str], None]) -> list[Task]:
    """All runs that are asked for.  Raises UserError for what cannot be run, before anything is."""
    tasks: dict[str, Task] = {}
    for origin in origins(request, tell):
        for kind, seed in product(request.kinds, request.seeds or [None]):
            for setting in [()] if kind == "original" else request.settings:
                task = task_of(request, origin, kind, setting, seed)
                tasks[task.name] = task
    if not tasks:
        raise UserError("nothing to do: the grid is empty")
    return list(tasks.values())


def origins(request: BatchRequest, tell: Callable[[str], None]) -> Iterator[Origin]:
    """The checkpoints that are asked for, or the nearest; told where one is not as it was asked for."""
    for exp in request.exp_name:
        run = metta.find(request.train_dir, exp)
        if request.env is not None and run.env not in (request.env, None):
            raise UserError(f"{run.path} was trained on {run.env}, not on --env {request.env}")
        for asked in request.epoch_idx:
            epoch, path = run.nearest(asked)
            if epoch != asked:
                tell(f"{exp}: no checkpoint of epoch {asked}, the nearest is {epoch}")
            if not run.state_path(epoch).is_file():
                tell(f"{exp}: no {run.state_path(epoch).name}: the optimizer starts cold")
            yield Origin(run, epoch, path, run.config().get("settings"))


def task_of(
    request: BatchRequest, origin: Origin, kind: str, setting: tuple[float, ...], seed: int | None
) -> Task:
    """One run.  Raises UserError where it cannot begin, or was made before with other settings."""
    exp, passed = origin.run.exp_id, request.passed
    about = names.MettaRun(exp, origin.epoch, names.METTA_ROLE_OF[kind], setting, seed)
    name = run_name(names.metta_run(about), "the run")
    collapse = collapse_words(request, origin, setting)
    words = [*collapse, "--run", name, "--track", request.track, "--wandb-group", exp, *passed]
    words += [] if kind == "collapsed" else ["--control", kind]
    words += [] if seed is None else ["--seed", str(seed)]
    argv = ("--mode", "train", *words)
    settings = settled(origin, argv)
    check_steps(origin, settings.train.total_timesteps)
    folder = MettaFolder(Path(request.train_dir) / name)
    same_as_before(folder, settings.to_plain(), ("train", "env", "collapse")[: 2 + (kind != "original")])
    return Task(
        name=name,
        exp=exp,
        epoch=origin.epoch,
        kind=kind,
        setting=setting,
        seed=seed,
        collapse=() if kind == "original" else (*collapse, *of_the_collapse(passed)),
        argv=argv,
        folder=folder,
        steps=settings.train.total_timesteps,
    )


def collapse_words(request: BatchRequest, origin: Origin, setting: tuple[float, ...]) -> list[str]:
    """demo.py's options that say what is collapsed, and by what; () is the original: by nothing."""
    words = ["--layout", "metta", "--train.data-dir", request.train_dir, "--exp-id", origin.run.exp_id]
    words += ["--collapse-epoch", str(origin.epoch)]
    if request.env and origin.plain is None:  # nothing else says it
        words += ["--env", request.env]
    if len(setting) == 1:
        return [*words, "--collapse", "auto", "--collapse.target-params", names.decimal(setting[0])]
    by_kind = zip(KINDS, setting, strict=False)
    return words + [word for kind, t in by_kind for word in (f"--collapse.{kind}", names.decimal(t))]


def settled(origin: Origin, argv: Sequence[str]) -> Settings:
    """The settings of a training.  Raises UserError where they do not fit, or contradict the run."""
    from pufferlib_kcore.jobs import stored  # which takes PufferLib, and seconds

    plain = origin.plain
    args = settings_room.load(list(argv), lambda args: plain)
    stored.check_run(origin.run, stored.Over(args.overrides, args.env, args.config))
    if plain is None:
        return args.settings
    return settings_room.from_plain(plain, args.overrides, args.config)


def check_steps(origin: Origin, steps: int) -> None:
    """Raise UserError where the checkpoint is at the training's end, or beyond."""
    taken = names.parse_metta_checkpoint(origin.path.name)
    if taken is not None and taken.agent_steps >= steps:
        raise UserError(
            f"nothing to do: {origin.run.exp_id} had taken {taken.agent_steps:,} steps at epoch "
            f"{origin.epoch}; train.total_timesteps is {steps:,}; choose an earlier --epoch-idx, or go "
            f"further with --train.total-timesteps {2 * taken.agent_steps}"
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


def same_as_before(folder: MettaFolder, asked: Mapping[str, Any], sections: Sequence[str]) -> None:
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


def found_beside(tasks: Sequence[Task], train_dir: Path) -> list[Task]:
    """The other retrained runs of the same experiments, of earlier batches."""
    exps, known = {task.exp for task in tasks}, {task.name for task in tasks}
    kinds = {role: kind for kind, role in names.METTA_ROLE_OF.items()}
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
