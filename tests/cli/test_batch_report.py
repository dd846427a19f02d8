"""What a batch leaves: returns on the terminal, fair times, and the command that repeats it."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pufferlib_kcore.cli import batch, batch_report

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))
import made_up  # noqa: E402


@pytest.mark.parametrize(
    "words",
    [
        "--exp-name t1",
        "--exp-name t1 t2 --epoch-idx 4,6 --linear-thr 0.3 0.7 --kinds original collapsed --seeds 1 2",
        "--exp-name t1 --target-params 0.2 0.1 --kinds collapsed scratch-full --jobs 3 --train.gamma 0.5",
        "--exp-name t1 --kinds original --batch b --env cartpole --train-dir 'a b' --vec serial --track none",
    ],
)
def test_the_command_that_is_kept_asks_for_the_same_batch(words):
    given, passed = batch.parsed(shlex.split(words))
    bash, script, *again = shlex.split(batch.command_line(given, passed))
    assert (bash, script) == ("bash", "kcore.sh")
    assert batch.parsed(again) == (given, passed)
    defaults = "--epoch-idx 50 --linear-thr 0.7 --cnn-thr 0.5 --lstm-thr 1.0 --critic-thr 0.8".split()
    assert batch.parsed([*defaults, *again]) == (given, passed) or "--linear-thr" in again


def test_returns_are_in_the_last_table_with_intervals_where_there_are_seeds(tmp_path):
    entries = made_up.runs(tmp_path, settings=[("params0.2", 0.2)], seeds=2, epochs=20)
    text = batch_report.table(entries)
    how, *lines = text.splitlines()
    assert "95% bootstrap interval" in how and "searched for 20% of the parameters" in text
    assert all(" kept, return " in line for line in lines if line.startswith("done"))
    assert lines[1].count("n=2") == 4 and lines[1].count("[") == 4
    alone = batch_report.table(made_up.runs(tmp_path / "alone", settings=[("0.3", 0.2)], seeds=1, epochs=20))
    assert "interval" not in alone and alone.count(" kept, return ") == 4


def test_policies_take_turns_and_the_first_passes_are_not_timed(monkeypatch):
    """On a clock on which each pass takes a time of its own: the first two of a turn very long."""
    clock, passes = [0.0], []

    def policy(name, seconds):
        def forward(*inputs):
            in_turn = len(passes) - next((i for i in range(len(passes), 0, -1) if passes[i - 1] != name), 0)
            passes.append(name)
            clock[0] += 1000.0 if in_turn < batch_report.WARM else seconds

        return SimpleNamespace(policy=forward, examples=lambda count: ())

    monkeypatch.setattr(batch_report.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(batch_report, "BATCHES", (1,))
    monkeypatch.setattr(batch_report, "CALLS", 1)
    found = batch_report.latencies({"a": policy("a", 1.0), "b": policy("b", 2.0), "c": policy("c", 3.0)})
    assert {key: times[1] for key, times in found.items()} == pytest.approx({"a": 1.0, "b": 2.0, "c": 3.0})
    turns = passes[:: batch_report.WARM + batch_report.CALLS]
    assert turns[:9] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert batch_report.latencies({}) == {}
