"""Metta's layout: train_dir/<run>/<run>/checkpoints/<run>__e<epoch>__s<agent steps>__t<seconds>__sc0.pt"""

import difflib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic, names
from pufferlib_kcore.store.runs import Run

ROOT = "train_dir"  # where runs lie if nothing else is said
SHOWN = 5  # names in a sentence
STATE = ".state.pt"  # of the optimizer, beside each checkpoint; trainer_state.pt is the newest of them


@dataclass(frozen=True)
class MettaFolder(Run):
    """A run in Metta's layout, which does what Run does by the same names.

    It differs where the layout does: its name is its folder's; a checkpoint's file name says steps and
    seconds, too, so that `model_path` and `state_path` find files that are there, and `new_files` names new
    ones; a run that is retrained from a collapse lies beside the collapsed run; no state is pruned.
    """

    @property
    def root(self) -> Path:
        return self.path.absolute().parent

    @property
    def checkpoint_folder(self) -> Path:
        """<run>/<run>/checkpoints, or where there is none, the one below another name."""
        own = self.path / self.path.name / "checkpoints"
        return own if own.is_dir() else next(iter(sorted(self.path.glob("*/checkpoints"))), own)

    def model_path(self, epoch: int) -> Path:
        """The checkpoint of an epoch.  Raises UserError where there is none."""
        found = dict(self._files(state=False))
        if epoch not in found:
            raise UserError(
                f"{self.checkpoint_folder} has no checkpoint of epoch {epoch}: it has {list(found)}"
            )
        return found[epoch]

    def state_path(self, epoch: int) -> Path:
        return self.model_path(epoch).with_suffix(STATE)

    def new_files(self, epoch: int, agent_steps: int, seconds: float) -> tuple[Path, Path]:
        found = dict(self._files(state=False))
        if epoch not in found:  # else this run was killed later on, and comes to the epoch again
            name = names.MettaCheckpoint(self.path.name, epoch, agent_steps, int(seconds))
            found[epoch] = self.checkpoint_folder / names.metta_checkpoint(name)
        try:
            self.checkpoint_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {self.checkpoint_folder}: {error.strerror}") from error
        return found[epoch], found[epoch].with_suffix(STATE)

    def prune_states(self, keep: str = "auto", collapse_epochs: Sequence[int] = (50,)) -> list[Path]:
        """Deletes nothing, and gives the newest state Metta's name for it, trainer_state.pt, as well.

        The epoch to collapse is chosen after training here (`kcore.sh --epoch-idx`, in a grid several): no
        state can be told to be of no use, and a collapse without its state starts the optimizer cold.
        """
        self.check_keep(keep)
        if not self.states():
            return []
        newest = self.states()[-1][1]
        link = newest.with_name(".trainer_state.pt" + atomic.SUFFIX)
        link.unlink(missing_ok=True)
        os.link(newest, link)
        os.replace(link, newest.with_name("trainer_state.pt"))
        return []

    def train_command(self, anew: bool = False) -> str:
        return train_command(self.env, self.root, None if anew else self.exp_id)

    @contextmanager
    def lock(self) -> Iterator["MettaFolder"]:
        with super().lock():
            atomic.sweep(self.checkpoint_folder)
            yield self

    def _files(self, state: bool) -> list[tuple[int, Path]]:
        paths = self.checkpoint_folder.iterdir() if self.checkpoint_folder.is_dir() else ()
        end = STATE if state else ".pt"
        parsed = [
            (names.parse_metta_checkpoint(p.name.removesuffix(end) + ".pt"), p)
            for p in paths
            if p.name.endswith(end)
        ]
        return sorted((name.epoch, path) for name, path in parsed if name and path.is_file())


def find(root: str | Path, name: str) -> MettaFolder:
    """The experiment of that name.  Raises UserError naming the nearest where there is none."""
    found = MettaFolder(Path(root) / name)
    if name and found.checkpoints():
        return found
    folders = sorted(Path(root).iterdir()) if Path(root).is_dir() else []
    known = [path.name for path in folders if path.is_dir() and MettaFolder(path).checkpoints()]
    first = [name for name in known if names.parse_metta_run(name) is None]  # not retrained from another
    if near := difflib.get_close_matches(name, first, n=3) or difflib.get_close_matches(name, known, n=3):
        hint = f"did you mean {' or '.join(near)}?"
    elif first:
        shown = difflib.get_close_matches(name, first, SHOWN, cutoff=0)
        count = "" if len(first) <= SHOWN else f", the nearest {SHOWN} of {len(first)}"
        hint = f"there are {', '.join(shown)}{count}"
    else:
        hint = f"train one with `{train_command(None, root, name)}`"
    raise UserError(f"no experiment '{name}' with a checkpoint in {root}; {hint}")


def train_command(env: str | None, root: str | Path = ROOT, name: str | None = None) -> str:
    """The command that starts a run in this layout; what is not known is in capitals."""
    words = [*program.WORDS, "--mode", "train", "--layout", "metta", "--run", name or "NAME"]
    place = [] if Path(root).absolute() == Path(ROOT).absolute() else ["--train.data-dir", str(root)]
    return shlex.join([*words, "--env", env or "ENV", *place])
