"""The failure lab's programs of experiments/: a demo, the suite, stress tests, protocols, reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.arguments import Parser
from pufferlib_kcore.settings.values import Bounds, read

SUITE = "results/lab/suite"
STRESS = "results/lab/stress"


def lab_demo(argv: Sequence[str]) -> int:
    """A career, its optimum, two agents of which one is paid for the wrong thing; two minutes."""
    parser = _parser("experiments.lab_demo", "The failure lab in two minutes: what fails, and how it shows.")
    parser.add_argument("--root", default="results/lab/demo", help="where it is kept (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", default=["0", "1"], help="seeds (default: 0 1)")
    given = parser.parse_args(argv)
    from pufferlib_kcore.failure_lab.demo import demo

    demo(Path(given.root), _numbers(given.seeds, "--seeds"), partial(print, flush=True))
    return 0


def run_all_experiments(argv: Sequence[str]) -> int:
    """Every agent with every reward."""
    from pufferlib_kcore.failure_lab.learning import NINE
    from pufferlib_kcore.failure_lab.suite import REWARDS, Suite, run_part, run_suite
    from pufferlib_kcore.jobs.progress import shown

    parser = _parser("experiments.run_all_experiments", "Every agent with every reward, over seeds; goes on.")
    add = parser.add_argument
    add("--folder", default=SUITE, help="where it is kept (default: %(default)s)")
    add("--agents", nargs="+", default=list(NINE), help="(default: all nine)")
    add("--rewards", nargs="+", default=list(REWARDS), help="(default: five)")
    add("--seeds", nargs="+", default=["0", "1", "2"], help="(default: 0 1 2)")
    add("--regime", default="stable", help="stable, boom, recession or volatile (default: stable)")
    add("--episodes", default="100", help="of training (default: 100)")
    add("--eval-episodes", default="100", help="of evaluation (default: 100)")
    add("--jobs", default="1", help="experiments at once; they share the cores (default: 1)")
    add("--launcher", default="local", help="where they run: local, ray, slurm (default: local)")
    add("--slurm", nargs="+", default=[], help="submitit's parameters, as slurm_partition=short")
    add("--part", action="store_true", help="in this process, without a report (used by itself)")
    given = parser.parse_args(argv)
    suite = Suite(
        folder=Path(given.folder),
        agents=tuple(given.agents),
        rewards=tuple(given.rewards),
        seeds=_numbers(given.seeds, "--seeds"),
        regime=given.regime,
        episodes=_whole(given.episodes, "--episodes", 1),
        eval_episodes=_whole(given.eval_episodes, "--eval-episodes", 2),
        jobs=_whole(given.jobs, "--jobs", 1),
        launcher=_launcher(given.launcher),
        slurm=_pairs(given.slurm),
    )
    if given.part:
        run_part(suite)
        return 0
    failed = run_suite(suite, partial(print, flush=True), shown)
    print(f"wrote {suite.folder}/RESULTS_REPORT.md, full_comparison_*.json and index.html")
    return 1 if failed else 0


def stress_tests(argv: Sequence[str]) -> int:
    """Failures induced on purpose."""
    from pufferlib_kcore.failure_lab.stress import TESTS, Lab
    from pufferlib_kcore.failure_lab.stress_report import run_stress
    from pufferlib_kcore.jobs.progress import shown

    parser = _parser(
        "experiments.stress_tests", "Failures that are induced, each beside its control; goes on."
    )
    add = parser.add_argument
    add("tests", nargs="*", help=f"some of {', '.join(sorted(TESTS))} (default: all)")
    add("--folder", default=STRESS, help="where it is kept (default: %(default)s)")
    add("--seeds", nargs="+", default=list("01234"), help="(default: 0 1 2 3 4)")
    add("--episodes", default="100", help="of evaluation (default: 100)")
    add("--shorter", default="1", help="training is so many times shorter (default: 1)")
    add("--jobs", default="1", help="trainings at once (default: 1)")
    given = parser.parse_args(argv)
    lab = Lab(
        Path(given.folder),
        _numbers(given.seeds, "--seeds"),
        _whole(given.episodes, "--episodes", 2),
        shorter=_whole(given.shorter, "--shorter", 1),
        jobs=_whole(given.jobs, "--jobs", 1),
    )
    found = run_stress(lab, given.tests, partial(print, flush=True), shown)
    good = sum(one["passed"] for one in found.values())
    print(f"{good} of {len(found)} passed; wrote {lab.root}/STRESS_TEST_REPORT.md")
    return 0


def run_protocol(argv: Sequence[str]) -> int:
    """Protocols from YAML files."""
    from pufferlib_kcore.failure_lab.protocol import ExperimentProtocol
    from pufferlib_kcore.failure_lab.runner import ExperimentRunner

    parser = _parser("experiments.run_protocol", "Carry out protocols: hypotheses, and what decides them.")
    parser.add_argument("files", nargs="+", help="YAML files")
    parser.add_argument("--root", default="results/lab", help="where they are kept (default: %(default)s)")
    given = parser.parse_args(argv)
    protocols = [ExperimentProtocol.load(path) for path in given.files]
    for protocol in protocols:
        result = ExperimentRunner(given.root, verbose=True).run(protocol)
        print(f"{protocol.hypothesis}\n{result.answer}\nwrote {result.folder}")
    return 0


def generate_report(argv: Sequence[str]) -> int:
    """The suite's report from its results."""
    from pufferlib_kcore.failure_lab.suite_report import write
    from pufferlib_kcore.store.lab import lab_folders

    parser = _parser("experiments.generate_report", "Write the report of experiments that are there.")
    parser.add_argument("--folder", default=SUITE, help="the suite's (default: %(default)s)")
    given = parser.parse_args(argv)
    folder = Path(given.folder)
    results = [one.result() for one in lab_folders(folder) if one.result_path.is_file()]
    if not results:
        raise UserError(f"{folder} holds no results: run python -m experiments.run_all_experiments")
    write(folder, results)
    print(f"wrote {folder}/RESULTS_REPORT.md and index.html of {len(results)} experiments")
    return 0


def show_results(argv: Sequence[str]) -> int:
    """Results as a table."""
    from pufferlib_kcore.failure_lab.comparator import ExperimentComparator
    from pufferlib_kcore.store.lab import lab_folders

    parser = _parser("experiments.show_results", "Experiments that are there, the best first.")
    parser.add_argument("--folder", default="results/lab", help="(default: %(default)s)")
    given = parser.parse_args(argv)
    comparator = ExperimentComparator()
    for one in lab_folders(given.folder):
        if one.result_path.is_file():
            comparator.add_result(one.result_path)
    if not comparator.results:
        raise UserError(f"{given.folder} holds no results: run python -m experiments.lab_demo")
    print(comparator.get_summary_table())
    return 0


def _parser(name: str, description: str) -> Parser:
    found: Any = Parser(prog=f"python -m {name}", allow_abbrev=False, description=description)
    return found


def _numbers(texts: Sequence[str], option: str) -> tuple[int, ...]:
    found = [word for text in texts for word in text.replace(",", " ").split()]
    return tuple(_whole(text, option, 0) for text in found)


def _whole(text: str, option: str, least: int) -> int:
    return Bounds(least).check(read(text, int, option, str(max(least, 2))), option)


def _launcher(name: str) -> str:
    from pufferlib_kcore.jobs.batch.launch import LAUNCHERS
    from pufferlib_kcore.settings.layers import unknown

    if name not in LAUNCHERS:
        raise UserError(unknown(f"launcher {name!r}", name, LAUNCHERS))
    return name


def _pairs(words: Sequence[str]) -> dict[str, str]:
    odd = next((word for word in words if "=" not in word), None)
    if odd is not None:
        raise UserError(f"--slurm {odd!r}: expected name=value, as in --slurm slurm_partition=short")
    return dict(word.split("=", 1) for word in words)
