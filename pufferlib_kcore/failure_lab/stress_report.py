"""Stress report: all stress tests run, what passed, what failed and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.stress import TESTS, Lab
from pufferlib_kcore.jobs.progress import Watch, counted, unwatched
from pufferlib_kcore.store import atomic
from pufferlib_kcore.store.forks import read_json, write_json
from pufferlib_kcore.store.lock import locked
from pufferlib_kcore.text import markdown

# What the published program says of its tests, each of which "passed".
PUBLISHED = {
    "T1.1": "85% switches",
    "T2.2": "dense 175, sparse 9, of two different rewards",
    "T3.1": "largest Q 1,065, called an explosion",
    "T3.3": "one action 99.6%, called a collapse",
    "T4.1": "175 falls to 0.2",
    "T8.1": "175.3 ± 1.6",
}


def run_stress(
    lab: Lab,
    only: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
    watch: Watch = unwatched,
) -> dict[str, dict[str, Any]]:
    """Run what is not done, write STRESS_TEST_REPORT.md and STRESS_TEST_RESULTS.json.  -> by number

    Raises UserError for a number that there is not, and where others run in that folder.
    """
    numbers = sorted(only or TESTS)
    for number in numbers:
        TESTS[number]  # or its sentence
    lab.root.mkdir(parents=True, exist_ok=True)
    settings = {"seeds": list(lab.seeds), "episodes": lab.episodes, "shorter": lab.shorter}
    with locked(lab.root, "wait until it ends, or name another --folder"):
        path = lab.root / "STRESS_TEST_RESULTS.json"
        fresh: dict[str, Any] = {"settings": settings, "tests": {}}
        before = read_json(path) if path.is_file() else fresh
        if before["settings"] != settings:
            raise UserError(
                f"{lab.root} holds stress tests of {before['settings']}, and these are of {settings}: "
                "name another --folder"
            )
        found = before["tests"]
        left = [number for number in numbers if number not in found]
        for number in counted(left, len(left), "stress tests", watch):
            outcome = TESTS[number].run(lab)
            found[number] = outcome.plain()
            write_json(path, {"settings": settings, "tests": found})
            say(f"{number} {TESTS[number].name}: {'passed' if outcome.passed else 'failed'}: {outcome.why}")
        atomic.write(lab.root / "STRESS_TEST_REPORT.md", report(found, settings).encode())
    return {number: found[number] for number in numbers}


def report(found: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """Markdown.  A test passes where its failure showed as expected, and its control did not."""
    rows = [
        [
            number,
            TESTS[number].name,
            "passed" if one["passed"] else "FAILED",
            PUBLISHED.get(number, ""),
            one["found"] and f"{one['induced']}: {one['found']}",
        ]
        for number, one in sorted(found.items())
    ]
    good = sum(one["passed"] for one in found.values())
    lines = [
        "# Stress tests",
        "",
        f"{good} of {len(found)} passed; seeds {', '.join(map(str, settings['seeds']))} (T8.1: 0 to 4), "
        f"{settings['episodes']} episodes each; intervals are 95% (t, over seeds). A test passes where what "
        "it expects shows itself beyond its interval, and does not in its control. With agents that act by "
        "chance none passes but T0, which asks for none.",
        "",
        *markdown(["test", "name", "result", "published", "detectors"], rows),
        "",
    ]
    for number, one in sorted(found.items()):
        test = TESTS[number]
        lines += [f"## {number} {test.name}", "", f"Expected: {test.expected}.", ""]
        lines += [f"{'Passed' if one['passed'] else 'Failed'}: {one['why']}.", ""]
    return "\n".join(lines)


def load(folder: Path) -> dict[str, Any]:
    """What stands there.  Raises UserError where nothing does."""
    path = folder / "STRESS_TEST_RESULTS.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no stress tests: run python -m experiments.stress_tests")
    return read_json(path)
