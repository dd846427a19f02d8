"""Batch: kcore.sh's command line as a request, and what came of it."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NoReturn

from pufferlib_kcore.cli import answered
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import progress
from pufferlib_kcore.jobs.batch import launch, local
from pufferlib_kcore.jobs.batch.request import THRESHOLDS, BatchRequest
from pufferlib_kcore.jobs.batch.run import run_batch
from pufferlib_kcore.jobs.installed import is_installed
from pufferlib_kcore.settings.arguments import TRACKERS, Parser
from pufferlib_kcore.settings.layers import unknown
from pufferlib_kcore.settings.sections import KINDS
from pufferlib_kcore.settings.values import DISTANCE, Bounds, read, run_name
from pufferlib_kcore.store import names

PASSED = ("--vec", "--wandb-project", "--wandb-entity", "--config", "--trust-checkpoint")
INSTEAD = {  # options of demo.py that the grid sets
    **{f"--collapse.{kind}": f"--{kind}-thr" for kind in KINDS},
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


def main(argv: Sequence[str] | None = None) -> int:
    """-> 0 when all runs are done, 1 when one failed or was stopped, 2 for a user's mistake"""
    words = sys.argv[1:] if argv is None else argv
    try:
        return answered("kcore", lambda: run(parsed(words)), "free space for train_dir; a rerun goes on")
    except KeyboardInterrupt:
        local.stop()
        print("kcore: stopped; the same command goes on where this one was", file=sys.stderr)
        return 1


def run(request: BatchRequest) -> int:
    """Run it, and print what came of it.  -> exit status"""
    signal.signal(signal.SIGTERM, _interrupted)
    done = run_batch(request, partial(print, flush=True), progress.shown)
    if done.no_report:
        print(f"kcore: no report: {done.no_report}", file=sys.stderr)
    else:
        print(done.report)
    return 0 if done.all_done else 1


def _interrupted(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


# --- the command line ---------------------------------------------------------------------------


def parsed(argv: Sequence[str]) -> BatchRequest:
    """What kcore.sh is asked for.  Raises UserError for what cannot be.

    Lists are words, or within one word parted by spaces; whole numbers and names by commas, too.
    """
    parser = _parser()
    words = [re.sub(r"^--[\w-]+", lambda m: m[0].replace("_", "-"), word) for word in argv]
    given, passed = parser.parse_known_args(words)
    check_passed(passed, parser.options())
    exp_name = _run_names(given)
    epoch_idx = _numbers(given.epoch_idx, "--epoch-idx", 340, Bounds(0))
    seeds = _numbers(given.seeds, "--seeds", 1, Bounds(0, 2**31 - 1))
    thresholds, typed = _thresholds(given)
    part = Bounds(0, 1, above=True, hint=" (a part of the parameters)")
    targets = [_number(t, "--target-params", 0.2, part) for t in _texts(given.target_params)]
    kinds = _kinds(given)
    check_collapse(kinds, targets, typed)
    request = BatchRequest(
        exp_name=tuple(exp_name),
        epoch_idx=tuple(epoch_idx),
        **thresholds,
        target_params=tuple(targets),
        seeds=tuple(seeds),
        kinds=tuple(kinds),
        train_dir=given.train_dir,
        env=given.env,
        batch=given.batch,
        jobs=Bounds(1).check(read(given.jobs, int, "--jobs", "2"), "--jobs"),
        launcher=_one_of("launcher", given.launcher, launch.LAUNCHERS),
        slurm=_pairs(given.slurm),
        track=_tracker(given.track),
        passed=tuple(passed),
    )
    launch.check_launcher(request.launcher, request.slurm)
    check_lists(request)
    return request


def _parser() -> Parser:
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
    said = f"which of {', '.join(names.METTA_ROLE_OF)} (default: collapsed)"
    add("--kinds", **lists, default=["collapsed"], help=said)
    add("--train-dir", default="train_dir", help="folder of the runs (default: train_dir)")
    add("--env", help="the environment, to check that it is the run's")
    add("--batch", help="name of the batch's folder in train_dir (default: <exp>_kcore)")
    add("--jobs", default="1", metavar="N", help="trainings at once; they share the cores (default: 1)")
    add("--launcher", default="local", help=f"where they run: {', '.join(launch.LAUNCHERS)} (default: local)")
    said = "with --launcher slurm: submitit's parameters, such as slurm_partition=short; cluster=local tries "
    add("--slurm", **lists, default=[], help=said + "them out on this machine")
    said = "wandb, tensorboard or none (default: wandb, offline, if it is there)"
    add("--track", default="auto", help=said)
    return parser


def _run_names(given: argparse.Namespace) -> list[str]:
    """The runs to collapse, once --batch is a name as well."""
    found = [name.rstrip("/") for name in _words(given.exp_name or [])]
    named = [("--exp-name", name) for name in found]
    for option, name in (*named, *([] if given.batch is None else [("--batch", given.batch)])):
        run_name(name, option)
        if "/" in name or name.startswith("."):
            raise UserError(f"{name!r} is a path: give the run's name alone, and its folder by --train-dir")
    if not found:
        raise UserError("which run? name it, as in bash kcore.sh --exp-name t1 --epoch-idx 340")
    return found


def _thresholds(given: argparse.Namespace) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """The thresholds by a request's names, and the options that somebody typed."""
    thresholds, typed = {}, []
    for kind, value in THRESHOLDS.items():
        said = getattr(given, f"{kind}_thr") or [[str(value)]]
        found = [_number(t, f"--{kind}-thr", value, DISTANCE) for t in _texts(said[-1])]
        thresholds[f"{kind}_thr"] = tuple(found)
        if len(said) > 1 or found != [value]:  # kcore.sh gives each of them once
            typed.append(f"--{kind}-thr")
    return thresholds, typed


def _kinds(given: argparse.Namespace) -> list[str]:
    return [_one_of("kind", kind, names.METTA_ROLE_OF) for kind in _words(given.kinds)]


def _one_of(what: str, name: str, known: Collection[str]) -> str:
    if name not in known:
        raise UserError(unknown(f"{what} {name!r}", name, known))
    return name


def _pairs(words: Sequence[str]) -> dict[str, str]:
    odd = next((word for word in words if not re.fullmatch(r"\w+=.+", word)), None)
    if odd is not None:
        raise UserError(f"--slurm {odd!r}: expected name=value, as in --slurm slurm_partition=short")
    return dict(word.split("=", 1) for word in words)


def _tracker(name: str) -> str:
    if name == "auto":
        return "wandb" if is_installed("wandb") else "none"
    return _one_of("tracker", name, TRACKERS)


def check_collapse(kinds: Sequence[str], targets: Sequence[float], typed: Sequence[str]) -> None:
    """Raise UserError for thresholds beside sizes, and for either where nothing is collapsed."""
    if typed and targets:
        raise UserError(f"--target-params takes the place of thresholds: leave {typed[0]} out, or it")
    if kinds == ["original"] and (typed or targets):
        option = typed[0] if typed else "--target-params"
        raise UserError(f"--kinds original collapses nothing: leave {option} out, or add the kind collapsed")


def check_lists(request: BatchRequest) -> None:
    """Raise UserError for a list without which the grid is empty."""
    known = request.options()
    needed = [] if request.target_params else [f"{kind}_thr" for kind in THRESHOLDS]
    for name in (*needed, "epoch_idx", "kinds"):
        if not known[name]:
            raise UserError(f"nothing to do: --{name.replace('_', '-')} is empty")


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
