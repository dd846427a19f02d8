"""Commands: what to type next, written so that a shell takes it as it stands."""

from __future__ import annotations

import shlex

from pufferlib_kcore.settings import Args
from pufferlib_kcore.store import Run, metta, runs


def demo(args: Args, *words: str) -> str:
    """python demo.py with these words, on the runs where these arguments had theirs.

    --vec ale goes with all that runs environments, since its pictures are others.
    """
    root = str(args.settings.train.data_dir)
    if args.layout == "metta":
        place = ["--layout", "metta", *([] if root == metta.ROOT else ["--train.data-dir", root])]
    else:
        place = runs.place(root)
    vec = ["--vec", "ale"] if args.vec == "ale" else []
    return shlex.join(["python", "demo.py", *words, *vec, *place])


def go_on(args: Args, run: Run) -> str:
    """Goes on with a run that was stopped."""
    name = ["--run"] if args.layout == "metta" else ["--resume", "--exp-id"]
    return demo(args, "--mode", "train", *_env(run), *name, run.exp_id)


def collapse(args: Args, run: Run) -> str:
    """Collapses a run and trains it on: the guide's second step."""
    words = ["--exp-id", run.exp_id, "--collapse", "0.3"]
    epoch, last = run.nearest(args.settings.collapse.epoch)[0], run.latest()[0]
    if epoch == last:  # which leaves nothing to train
        epoch = _middle(run)
        words += ["--collapse-epoch", str(epoch)]
    return demo(args, "--mode", "train", *_env(run), *words, *_further(args, epoch == last))


def compare(args: Args, run: Run) -> str:
    """Compares a run with what it was collapsed from: the third."""
    return demo(args, "--mode", "report", "--exp-id", run.exp_id)


def batch(args: Args, run: Run) -> str:
    """Collapses a run in Metta's layout at its middle, and retrains it."""
    epoch = _middle(run)
    words = ["--exp-name", run.exp_id, "--epoch-idx", str(epoch)]
    root = str(args.settings.train.data_dir)
    words += [] if root == metta.ROOT else ["--train-dir", root]
    words += ["--vec", "ale"] if args.vec == "ale" else []
    return shlex.join(["bash", "kcore.sh", *words, *_further(args, epoch == run.latest()[0])])


def _middle(run: Run) -> int:
    """An epoch that has others after it, where there are others."""
    epochs = [epoch for epoch, _ in run.checkpoints()]
    return epochs[(len(epochs) - 1) // 2]


def _further(args: Args, at_the_end: bool) -> list[str]:
    """More steps, where all are taken."""
    steps = 2 * args.settings.train.total_timesteps
    return ["--train.total-timesteps", str(steps)] if at_the_end else []


def _env(run: Run) -> list[str]:
    return [] if run.env is None else ["--env", run.env]
