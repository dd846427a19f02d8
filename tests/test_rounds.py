"""Rounds of benchmarks: what is measured stays measured, ratios pair rounds, no process outlives its turn."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from rounds import Failed, Measured, ratios, run


def test_ratios_are_of_the_same_round():
    assert ratios({1: 2.0, 2: 9.0, 3: 40.0}, {1: 1.0, 3: 10.0}) == [2.0, 4.0]


def test_a_row_counts_at_its_commit_alone(tmp_path):
    path = tmp_path / "measured.jsonl"
    Measured(path).add(table="trainers", round=1, speed=3.0)
    Measured(path).add(table="memory", round=1)
    assert Measured(path).find(table="trainers", round=1)["speed"] == 3.0
    elsewhere = [json.loads(line) | {"commit": "another"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in elsewhere))
    assert Measured(path).find(table="trainers", round=1) is None
    Measured(path).forget("trainers")
    assert [json.loads(line)["table"] for line in path.read_text().splitlines()] == ["memory"]


def test_what_a_measurement_started_ends_with_it(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)\n"
        "sys.exit('no luck')\n"
    )
    with pytest.raises(Failed, match="no luck"):
        run([program], tmp_path / "log")
    left = int((tmp_path / "log").read_text().split()[0])
    for _ in range(100):
        if not alive(left):
            return
        time.sleep(0.1)
    raise AssertionError(f"process {left} is still there")


def alive(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        status = Path(f"/proc/{process}/stat")
        return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
