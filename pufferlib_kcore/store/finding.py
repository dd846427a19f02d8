"""Finding runs: by name, by path, or the newest of an env."""

import difflib
from collections.abc import Iterator
from pathlib import Path

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import names
from pufferlib_kcore.store.runs import CollapseFolder, Run, age, runs_in, train_command


def runs_below(root: str | Path) -> Iterator[Run]:
    """Every run below root, by name; after each one those that were resumed from its collapses."""
    for run in runs_in(root):
        yield run
        for folder in run.collapses():
            yield from runs_below(folder.path)


def find_run(root: str | Path, exp_id: str | Path) -> Run:
    """The run of that name, or at that path below root or the working directory.

    A run resumed from a collapse is found by its bare name too, where no other has it.
    Raises UserError naming the nearest names where there is none.
    """
    for path in (Path(root) / exp_id, Path(exp_id)):
        if path.is_dir() and names.parse_collapse_folder(path.name):
            inside = _listed(CollapseFolder(path).runs()) or "none yet"
            raise UserError(f"{path} is a collapse folder, expected a run; runs resumed from it: {inside}")
        if Run(path).exists():
            return Run(path)
    known = list(runs_below(root))
    named = [run for run in known if run.path.name == str(exp_id)]
    if len(named) > 1:
        raise UserError(f"--exp-id {exp_id} names {len(named)} runs; say which: {_listed(named)}")
    if named:
        return named[0]
    near = difflib.get_close_matches(str(exp_id), [run.exp_id for run in known], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"start one with `{train_command(None, root)}`"
    raise UserError(f"no run '{exp_id}' in {root}; {hint}")


def newest_run(root: str | Path, env: str) -> Run:
    """The top-level run of env whose newest checkpoint is the youngest.  Raises UserError if none is."""
    found = [run for run in runs_in(root) if run.env in (env, names.env_tag(env)) and run.checkpoints()]
    if not found:
        raise UserError(
            f"no run of {env} with a checkpoint in {root}; make one with `{train_command(env, root)}`"
        )
    return max(found, key=age)


def _listed(runs: list[Run]) -> str:
    return ", ".join(run.exp_id for run in runs)
