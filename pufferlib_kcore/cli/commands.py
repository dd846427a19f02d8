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
    """Goes on with a run that was stopped; one that has saved nothing yet starts anew."""
    mode = ["--mode", "train", "--env", str(run.env)]
    if args.layout == "metta":
        return demo(args, *mode, "--run", run.exp_id)
    return demo(args, *mode, *(["--resume"] if run.checkpoints() else []), "--exp-id", run.exp_id)


def collapse(args: Args, run: Run) -> str:
    """Collapses a run and trains it on: the guide's second step."""
    return demo(args, "--mode", "train", "--env", str(run.env), "--exp-id", run.exp_id, "--collapse", "0.3")


def compare(args: Args, run: Run) -> str:
    """Compares a run with what it was collapsed from: the third."""
    return demo(args, "--mode", "report", "--exp-id", run.exp_id)


def batch(args: Args, run: Run) -> str:
    """Collapses a run in Metta's layout at its middle, and retrains it; further, where it has no middle."""
    epochs = [epoch for epoch, _ in run.checkpoints()]
    words = ["--exp-name", run.exp_id, "--epoch-idx", str(epochs[len(epochs) // 2])]
    root = str(args.settings.train.data_dir)
    words += [] if root == metta.ROOT else ["--train-dir", root]
    if len(epochs) == 1:
        words += ["--train.total-timesteps", str(2 * args.settings.train.total_timesteps)]
    words += ["--vec", "ale"] if args.vec == "ale" else []
    return shlex.join(["bash", "kcore.sh", *words])
