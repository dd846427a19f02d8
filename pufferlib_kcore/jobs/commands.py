"""Commands: what to type next, written so that a shell takes it as it stands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pufferlib_kcore import program
from pufferlib_kcore.store import Run, metta, runs


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where runs are, and where their environments run: what every command on them says."""

    data_dir: str
    layout: str = "experiments"
    vec: str = "multiprocessing"


def demo(home: Home, *words: str) -> str:
    """python demo.py with these words, on the runs of a home.

    --vec ale goes with all that runs environments, since its pictures are others.
    """
    root = home.data_dir
    if home.layout == "metta":
        place = ["--layout", "metta", *([] if root == metta.ROOT else ["--train.data-dir", root])]
    else:
        place = runs.place(root)
    vec = ["--vec", "ale"] if home.vec == "ale" else []
    return shlex.join([*program.WORDS, *words, *vec, *place])


def go_on(home: Home, run: Run) -> str:
    """Goes on with a run that was stopped."""
    name = ["--run"] if home.layout == "metta" else ["--resume", "--exp-id"]
    return demo(home, "--mode", "train", *_env(run), *name, run.exp_id)


def collapse(home: Home, run: Run, asked: int, steps: int) -> str:
    """Collapses a run and trains it on: the guide's second step.

    asked  the epoch to collapse, or the nearest;  steps  that the run has taken
    """
    words = ["--exp-id", run.exp_id, "--collapse", "0.3"]
    epoch, last = run.nearest(asked)[0], run.latest()[0]
    if epoch == last:  # which leaves nothing to train
        epoch = _middle(run)
        words += ["--collapse-epoch", str(epoch)]
    return demo(home, "--mode", "train", *_env(run), *words, *_further(steps, epoch == last))


def compare(home: Home, run: Run) -> str:
    """Compares a run with what it was collapsed from: the third."""
    return demo(home, "--mode", "report", "--exp-id", run.exp_id)


def batch(home: Home, run: Run, steps: int) -> str:
    """Collapses a run in Metta's layout at its middle, and retrains it."""
    epoch = _middle(run)
    words = ["--exp-name", run.exp_id, "--epoch-idx", str(epoch)]
    words += [] if home.data_dir == metta.ROOT else ["--train-dir", home.data_dir]
    words += ["--vec", "ale"] if home.vec == "ale" else []
    return shlex.join(["bash", "kcore.sh", *words, *_further(steps, epoch == run.latest()[0])])


def _middle(run: Run) -> int:
    """An epoch that has others after it, where there are others."""
    epochs = [epoch for epoch, _ in run.checkpoints()]
    return epochs[(len(epochs) - 1) // 2]


def _further(steps: int, at_the_end: bool) -> list[str]:
    """More steps, where all are taken."""
    return ["--train.total-timesteps", str(2 * steps)] if at_the_end else []


def _env(run: Run) -> list[str]:
    return [] if run.env is None else ["--env", run.env]
