"""The lab's programs, as they are typed: a suite that goes on, its reports, mistakes in one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--agents",
    "always_switch",
    "random",
    "--rewards",
    "short_term_v1",
    "sparse_v1",
    "--seeds",
    "0",
    "1",
]
SMALL += ["--episodes", "2", "--eval-episodes", "5", "--folder", "suite"]


def program(name, *words, cwd, status=0):
    """What it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"experiments.{name}", *words]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    program("run_all_experiments", *SMALL, cwd=folder)
    return folder


def test_a_suite_is_told_in_one_report(suite):
    folder = suite / "suite"
    text = (folder / "RESULTS_REPORT.md").read_text()
    found = json.loads(next(folder.glob("full_comparison_*.json")).read_text())
    assert len(found) == 4 and all(len(one["seeds"]) == 2 for one in found)
    switch = next(one for one in found if one["protocol"]["name"] == "always_switch-sparse_v1")
    mean = sum(seed["true_return"] for seed in switch["seeds"]) / 2
    assert re.search(rf"\| always_switch +\| +sparse_v1 .*{mean:.4g}", text)
    assert "one action, always, is optimal here" in text
    page = (folder / "index.html").read_text()
    assert "always_switch" in page and "data:image/png" in page and "<script" not in page


def test_a_suite_goes_on_and_takes_more_in(suite):
    path = suite / "suite" / "random-sparse_v1" / "seed_0" / "seed.json"
    mark = {**json.loads(path.read_text()), "true_return": -99.0}
    path.write_text(json.dumps(mark))
    (suite / "suite" / "random-sparse_v1" / "result.json").unlink()
    more = [word if word != "random" else "conservative" for word in SMALL]
    program("run_all_experiments", *more, "--jobs", "2", cwd=suite)
    program("run_all_experiments", *SMALL, cwd=suite)
    result = json.loads((suite / "suite" / "random-sparse_v1" / "result.json").read_text())
    assert result["seeds"][0]["true_return"] == -99.0, "what is done is not done again"
    said = program("generate_report", "--folder", "suite", cwd=suite)
    assert "of 6 experiments" in said
    assert "conservative-sparse_v1" in program("show_results", "--folder", "suite", cwd=suite)


def test_mistakes(suite, tmp_path):
    def refused(name, *words):
        return program(name, *words, cwd=suite, status=2)

    assert "did you mean dqn" in refused("run_all_experiments", "--agents", "dqm")
    assert "did you mean sparse_v1" in refused("run_all_experiments", "--rewards", "sparce_v1")
    assert "did you mean boom" in refused("run_all_experiments", "--regime", "booom")
    assert "holds a suite with episodes 2, and this has 3" in refused(
        "run_all_experiments", *SMALL, "--episodes", "3"
    )
    assert "unknown launcher 'slrum'" in refused("run_all_experiments", "--launcher", "slrum")
    assert "expected name=value" in refused("run_all_experiments", "--launcher", "slurm", "--slurm", "x")
    assert "unknown stress test 'T1.9'" in refused("stress_tests", "T1.9", "--folder", "stress")
    assert "holds no results" in refused("show_results", "--folder", str(tmp_path))
    assert "no such file" in refused("run_protocol", "none.yaml")


def test_a_protocol_from_a_file(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(
        "name: one\nhypothesis: who stays burns out\nclaim: final_burnout > 0.99\nagent_type: always_stay\n"
        "eval_episodes: 4\n"
    )
    said = program("run_protocol", str(path), cwd=tmp_path)
    assert "held: final_burnout > 0.99" in said
    assert (tmp_path / "results" / "lab" / "one" / "report.md").is_file()
