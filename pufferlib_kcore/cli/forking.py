"""The programs of experiments/: forks of SAC and DDPG, their figures, a check, and two weights compared."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pufferlib_kcore.cli import answered
from pufferlib_kcore.connectivity.plan import Plan, help_of
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.arguments import Parser
from pufferlib_kcore.settings.studies import flat
from pufferlib_kcore.settings.values import Bounds, read

CURE = "free space; the same command goes on"
CHECK = {  # minutes, from the first step to the last figure
    "total_steps": "3000",
    "learning_starts": "400",
    "batch_size": "64",
    "eval_freq": "1000",
    "eval_episodes": "4",
    "fork_points": "0.05,0.5",
    "fork_episodes": "8",
    "alphas": "5",
    "experiment_name": "check",
}
CHECKED = ("InvertedDoublePendulum-v5",)


def program(name: str, run: Callable[[Sequence[str]], int]) -> int:
    """Run one of them with the command line's words.  -> exit status"""
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return answered(name, lambda: run(sys.argv[1:]), CURE)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        return 130


def _interrupted(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def run_env(argv: Sequence[str]) -> int:
    """Train, fork, walk the lines, draw."""
    from pufferlib_kcore.jobs.forking import fork
    from pufferlib_kcore.jobs.progress import shown

    parser = _parser(
        "experiments.run_env", "Train SAC or DDPG, fork it, and walk the lines between children."
    )
    _plan_arguments(parser)
    add = parser.add_argument
    add(
        "--config",
        help="YAML file of these settings; flags come over it (experiments/experiment_default_config.yaml)",
    )
    add("--root", default=".", help="folder of results/ and model_weights/ (default: here)")
    add("--anew", action="store_true", help="do not go on with one of the same settings that was stopped")
    given = parser.parse_args(_plain(argv))
    done = fork(plan_of(given), Path(given.root), anew=given.anew, watch=shown)
    print(done)
    figures = draw(str(done.folder.results), None)
    print(
        f"wrote {done.folder.results}, {done.folder.weights}, and {len(figures)} figures "
        f"in {done.folder.figures}"
    )
    return 0


def analyze(argv: Sequence[str]) -> int:
    """Draw what an experiment found."""
    parser = _parser("experiments.analyze", "Figures of an experiment's forks.")
    parser.add_argument("--results_dir", required=True, help="results/<experiment>/<env>/<algo>/seed_..")
    parser.add_argument(
        "--total_steps", help="of the training, for the axis of time (default: as it was run)"
    )
    given = parser.parse_args(_plain(argv))
    steps = given.total_steps
    steps = (
        None
        if steps is None
        else Bounds(1).check(read(steps, int, "--total_steps", "200000"), "--total_steps")
    )
    for path in draw(given.results_dir, steps):
        print(f"wrote {path}")
    return 0


def check_run(argv: Sequence[str]) -> int:
    """Both algorithms, several seeds, from the first step to the figures, in minutes."""
    from pufferlib_kcore.jobs.forking import fork
    from pufferlib_kcore.jobs.progress import shown

    parser = _parser("experiments.check_run", "Run small experiments end to end: whether all works here.")
    add = parser.add_argument
    add("--envs", nargs="+", default=list(CHECKED), help="environments")
    add("--algos", nargs="+", default=["SAC", "DDPG"], help="algorithms")
    add("--seeds", nargs="+", default=["0", "1"], help="seeds")
    add("--total_steps", default=CHECK["total_steps"], help=f"of each (default: {CHECK['total_steps']})")
    add("--root", default=".", help="folder of results/ and model_weights/ (default: here)")
    given = parser.parse_args(_plain(argv))
    for env in given.envs:
        for algo in given.algos:
            for seed in given.seeds:
                texts = {**CHECK, "env": env, "algo": algo, "seed": seed, "total_steps": given.total_steps}
                done = fork(Plan.of(texts), Path(given.root), anew=True, watch=shown)
                print(done)
                print(
                    f"{algo} on {env}, seed {seed}: {len(draw(str(done.folder.results), None))} figures",
                    flush=True,
                )
    print("all of it works here")
    return 0


def compare(argv: Sequence[str]) -> int:
    """The line between two weights."""
    from pufferlib_kcore.jobs.lines import CompareRequest
    from pufferlib_kcore.jobs.lines import compare as compared
    from pufferlib_kcore.jobs.progress import shown

    parser = _parser("experiments.compare", "The straight line between two policies' weights.")
    add = parser.add_argument
    add("weights_a", help="a file of weights, a folder with final.pt, or a checkpoint or run of demo.py")
    add("weights_b", help="another one, of the same environment and architecture")
    add("--alphas", default="101", help="places, the ends among them (default: 101)")
    add("--episodes", default="100", help="at each place (default: 100)")
    add("--seed", default="0", help="of the episodes, which are the same at every place (default: 0)")
    add("--sampled", action="store_true", help="draw actions, not take the likeliest")
    add("--aligned", action="store_true", help="the line to B with its neurons matched to A's, too")
    add("--jobs", help="processes (default: one for each core)")
    add("--output", default=".", help="folder of lmc_results.json and lmc_plot.png (default: here)")
    given = parser.parse_args(_plain(argv))
    done = compared(
        CompareRequest(
            one=given.weights_a,
            other=given.weights_b,
            alphas=Bounds(2).check(read(given.alphas, int, "--alphas", "101"), "--alphas"),
            episodes=Bounds(1).check(read(given.episodes, int, "--episodes", "100"), "--episodes"),
            seed=Bounds(0).check(read(given.seed, int, "--seed", "0"), "--seed"),
            greedy=not given.sampled,
            aligned=given.aligned,
            jobs=None
            if given.jobs is None
            else Bounds(1).check(read(given.jobs, int, "--jobs", "2"), "--jobs"),
            output=Path(given.output),
        ),
        shown,
    )
    print(done)
    return 0


def draw(results_dir: str, total_steps: int | None) -> list[Path]:
    """Figures of an experiment.  Raises UserError where it has no fork's result yet."""
    from pufferlib_kcore.analysis import interpolations
    from pufferlib_kcore.store.forks import ForkFolder

    folder = ForkFolder.open(results_dir)
    forks = folder.forks()
    if not forks:
        raise UserError(f"{folder.results} has no fork's result yet: run the experiment again, which goes on")
    if total_steps is None:
        total_steps = int(folder.config().get("settings", {}).get("total_steps", 200_000))
    return interpolations.draw(folder, forks, total_steps)


# --- the command line -----------------------------------------------------------------------------


def plan_of(given: argparse.Namespace) -> Plan:
    """Flags over the file over defaults.  Raises UserError."""
    texts: dict[str, str] = {}
    where: dict[str, str] = {}
    if given.config is not None:
        texts = flat(given.config)
        where = {name: f"{given.config}: {name}" for name in texts}
    flags = {name: value for name, value in vars(given).items() if name in help_of() and value is not None}
    return Plan.of({**texts, **flags}, {**where, **{name: f"--{name}" for name in flags}})


def _plan_arguments(parser: Parser) -> None:
    for name, said in help_of().items():
        if name == "sampled":
            parser.add_argument("--sampled", action="store_const", const="True", help=said)
        else:
            parser.add_argument(f"--{name}", metavar=name.upper(), help=said)


def _plain(argv: Sequence[str]) -> list[str]:
    """--total-steps is --total_steps"""
    found = []
    for word in argv:
        flag, equals, value = word.partition("=")
        found.append(
            flag.replace("-", "_").replace("__", "--", 1) + equals + value if word[:2] == "--" else word
        )
    return found


def _parser(name: str, description: str) -> Parser:
    found: Any = Parser(prog=f"python3 -m {name}", allow_abbrev=False, description=description)
    return found
