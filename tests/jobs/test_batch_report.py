"""What a batch leaves: returns on the terminal, fair times, and who failed."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pufferlib_kcore.jobs.batch import report

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
import made_up  # noqa: E402


def test_returns_are_in_the_last_table_with_intervals_where_there_are_seeds(tmp_path):
    entries = made_up.runs(tmp_path, settings=[("params0.2", 0.2)], seeds=2, epochs=20)
    text = report.table(entries)
    how, *lines = text.splitlines()
    assert "95% bootstrap interval" in how and "searched for 20% of the parameters" in text
    assert all(" kept, return " in line for line in lines if line.startswith("done"))
    assert lines[1].count("n=2") == 4 and lines[1].count("[") == 4
    alone = report.table(made_up.runs(tmp_path / "alone", settings=[("0.3", 0.2)], seeds=1, epochs=20))
    assert "interval" not in alone and alone.count(" kept, return ") == 4


def test_policies_take_turns_and_the_first_passes_are_not_timed(monkeypatch):
    """On a clock on which each pass takes a time of its own: the first two of a turn very long."""
    clock, passes = [0.0], []

    def policy(name, seconds):
        def forward(*inputs):
            in_turn = len(passes) - next((i for i in range(len(passes), 0, -1) if passes[i - 1] != name), 0)
            passes.append(name)
            clock[0] += 1000.0 if in_turn < report.WARM else seconds

        return SimpleNamespace(policy=forward, examples=lambda count: ())

    monkeypatch.setattr(report.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(report, "BATCHES", (1,))
    monkeypatch.setattr(report, "CALLS", 1)
    found = report.latencies({"a": policy("a", 1.0), "b": policy("b", 2.0), "c": policy("c", 3.0)})
    assert {key: times[1] for key, times in found.items()} == pytest.approx({"a": 1.0, "b": 2.0, "c": 3.0})
    turns = passes[:: report.WARM + report.CALLS]
    assert turns[:9] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert report.latencies({}) == {}
