"""--mode train: a new run, one that goes on, or one that starts from a collapsed policy."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pufferlib_kcore import store
from pufferlib_kcore.cli.collapse import collapse_request
from pufferlib_kcore.cli.found import run_source, taken_up
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import commands, controls, stored
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.collapsing import Ready, collapse
from pufferlib_kcore.jobs.progress import shown
from pufferlib_kcore.jobs.training import Trained, TrainRequest, resumed, retrained, train
from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import Run, names
from pufferlib_kcore.training import parallel
from pufferlib_kcore.training.reporting import Tracking


def run(args: Args) -> int:
    """Train, and print what to do next.

    -> exit status: 0, also where a companion has stopped it; 128 + the signal that has
    """
    with parallel.group(worlds.device(args.settings.train.device)) as together:
        request = together.first(lambda: train_request(args))
        with stop_signals() as stop:
            done = train(request, together, stop, say)
        if together.leads:
            say(ending(done, request, args))
        return 0 if done.finished or done.reason else stop.status


def train_request(args: Args) -> TrainRequest:
    """Which of the kinds of training the arguments ask for.  Raises UserError for a run that does not fit."""
    data_dir = args.settings.train.data_dir
    if args.layout == "metta":
        return metta_request(args)
    if args.collapse is not None:
        done = collapse(collapse_request(args), shown)
        say(done.text)
        return retrained(done, home(args), done.folder.path, tracking=tracking(args))
    if args.exp_id is not None:
        try:
            found = store.find_run(data_dir, args.exp_id)
        except UserError:
            if args.resume:
                raise
            return new(args, args.exp_id)
        if found.checkpoints():
            return going_on(args, found)
        stored.check_env(args.env, stored.env_of(found), found.path)
        return new(args, args.exp_id)
    if args.resume:
        return going_on(args, store.newest_run(data_dir, worlds.env_name(args.settings)))
    return new(args)


def metta_request(args: Args) -> TrainRequest:
    """A run in Metta's layout: new, going on, or retrained from a checkpoint of another."""
    root, other = args.settings.train.data_dir, args.collapse is not None or args.control is not None
    name = args.run or (retraining_name(args) if other else None)
    if name is None or re.search(r"[\s,/]", name) or name.startswith("."):
        raise UserError(f"which run? name it in one word, as in --layout metta --run t1, not {name!r}")
    found = store.MettaFolder(Path(root) / name)
    stored.check_env(args.env, stored.env_of(found), found.path)
    if found.checkpoints():
        return going_on(args, found)
    if not other:
        return new(args, name)
    ready = retrained_from(args)
    say(ready.text)
    return retrained(ready, home(args), root, name=name, tracking=tracking(args))


def new(args: Args, name: str | None = None) -> TrainRequest:
    root = args.settings.train.data_dir
    return TrainRequest(
        settings=args.settings, home=home(args), root=root, name=name, tracking=tracking(args)
    )


def going_on(args: Args, found: Run) -> TrainRequest:
    return resumed(taken_up(args, found), home(args), say, tracking=tracking(args))


def retrained_from(args: Args) -> Ready:
    """The collapsed policy, or the control that --control names, both ready to train on."""
    request = collapse_request(args)
    if args.control is None:
        return collapse(request, shown)
    kind: Any = args.control
    return controls.control(controls.ControlRequest(kind=kind, collapse=request), shown)


def retraining_name(args: Args) -> str:
    """What a retrained run is called where --run does not say it."""
    source = run_source(args).run
    c, epoch = args.settings.collapse, source.nearest(args.settings.collapse.epoch)[0]
    role = names.METTA_ROLE_OF[args.control or "collapsed"]
    setting = tuple(c.thresholds().values()) if args.collapse != "auto" else (c.target_params or 0.0,)
    setting = () if role == "original" else setting
    if args.collapse == "auto" and c.target_params is None:
        raise UserError(
            "a run in Metta's layout is named after --collapse.target-params: give it, or --run NAME"
        )
    return names.metta_run(names.MettaRun(source.exp_id, epoch, role, setting))


def ending(done: Trained, request: TrainRequest, args: Args) -> str:
    """What was made, and what to do next."""
    run, where, steps = done.run, request.home, args.settings.train.total_timesteps
    if not run.checkpoints():
        return "stopped before the first epoch ended, and nothing is saved: the same command starts again"
    how = "done" if done.finished else f"stopped by {done.reason}" if done.reason else "stopped"
    said = f"{how}; saved {run.latest()[1]}"
    if not done.finished:
        return f"{said}\ngo on: {commands.go_on(where, run)}"
    if args.layout == "metta":
        then = "" if request.collapse else f"\ncollapse and retrain: {commands.batch(where, run, steps)}"
    elif request.collapse:
        then = f"\ncompare: {commands.compare(where, run)}"
    else:
        then = f"\ncollapse: {commands.collapse(where, run, args.settings.collapse.epoch, steps)}"
    return said + then


def home(args: Args) -> commands.Home:
    return commands.Home(data_dir=str(args.settings.train.data_dir), layout=args.layout, vec=args.vec)


def tracking(args: Args) -> Tracking:
    kind: Any = args.track
    return Tracking(kind=kind, project=args.wandb_project, group=args.wandb_group, entity=args.wandb_entity)


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Stop:
    """Whether a signal has asked to stop."""

    number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    @property
    def status(self) -> int:
        """What a shell calls the end by a signal: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.number or signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within: the first Ctrl-C or SIGTERM asks training to stop and save; a second Ctrl-C interrupts it."""
    stop = Stop()

    def on_signal(number: int, frame: Any) -> None:
        if stop() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.number = number

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
