"""Found: the run that a command line names, and the settings that it was made with, from files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pufferlib_kcore import store
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import Args, Settings
from pufferlib_kcore.store import MettaFolder, Run

if TYPE_CHECKING:
    from pufferlib_kcore.jobs.source import RunSource, Source
    from pufferlib_kcore.jobs.stored import Over


def stored_plain(args: Args) -> Mapping[str, Mapping[str, Any]] | None:
    """The settings with which the run that the arguments name was made; None where they name none.

    For the modes that take a run's settings over.  Raises UserError where a run is needed and not there, and
    for the name of a new run that no folder can have.
    """
    found = named(args) if args.mode in ("train", "eval", "collapse") else None
    return None if found is None else found.config().get("settings")


def named(args: Args) -> Run | None:
    """The run to go on with, to collapse or to play; None for a new one, and where a file is named."""
    root, env, trains = args.settings.train.data_dir, args.settings.base.env_name, args.mode == "train"
    new = trains and not args.resume and args.collapse is None
    if args.eval_model_path is not None:
        return None
    if args.layout == "metta":
        going_on = MettaFolder(Path(root) / args.run) if trains and args.run else None
        if going_on is not None and going_on.checkpoints():
            return going_on
        return None if new or args.exp_id is None else store.metta.find(root, args.exp_id)
    if args.exp_id is None:
        return None if new or env is None else store.newest_run(root, env)
    try:
        found = store.find_run(root, args.exp_id)
    except UserError:
        if not new:
            raise
        Run.check_name(args.exp_id)
        return None
    return None if new and not found.checkpoints() else found


def run_source(args: Args) -> RunSource:
    """The run that --exp-id names, else the newest of the env, as the arguments take it up.

    Raises UserError where there is none, or it contradicts the arguments.
    """
    data_dir = args.settings.train.data_dir
    if args.layout == "metta":
        found: Run = store.metta.find(data_dir, args.exp_id or "")
    elif args.exp_id is not None:
        found = store.find_run(data_dir, args.exp_id)
    elif args.settings.base.env_name is None:
        raise UserError("which run? name it with --exp-id, or its environment with --env")
    else:
        found = store.newest_run(data_dir, args.settings.base.env_name)
    source = taken_up(args, found)
    source.check()
    return source


def taken_up(args: Args, found: Run) -> RunSource:
    """A run, and what the arguments say over it."""
    from pufferlib_kcore.jobs.source import RunSource  # which takes PufferLib, and seconds

    return RunSource(run=found, over=over(args), vec=args.vec, trusted=trusted(args))


def checkpoint_source(args: Args) -> Source:
    """The file that --eval-model-path names, else a run."""
    from pufferlib_kcore.jobs.source import FileSource

    if args.eval_model_path is None:
        return run_source(args)
    path = Path(args.eval_model_path)
    return FileSource(path=path, over=over(args), vec=args.vec, trusted=trusted(args))


def over(args: Args) -> Over:
    """What the arguments say over the settings of a run."""
    from pufferlib_kcore.jobs.stored import Over

    return Over(overrides=args.overrides, env=args.env, config=args.config)


def trusted(args: Args) -> Settings | None:
    """With --trust-checkpoint: the settings that describe a pickled module."""
    return args.settings if args.trust_checkpoint else None
