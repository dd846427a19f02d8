"""The benchmark of equal learning, on planted curves: who learns more is found, what was trained is kept."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import equal_learning
from rounds import Measured

LEVEL = {entrant: 10 * place for place, entrant in enumerate(equal_learning.OURS)}  # bfloat16 learns least


def planted(entrant, seed, steps, trainer, folder):
    """Twenty epochs that rise to a return of 19 + seed + the entrant's level; none ends in the first."""
    keys = ("seed", "epoch", "agent_steps", "episodes", "episode_return")
    returns = [None] + [epoch - 1 + seed + LEVEL[entrant] for epoch in range(2, 21)]
    return [dict(zip(keys, (seed, i, i * 100, 2, r), strict=True)) for i, r in enumerate(returns, 1)]


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """What `cartpole` finds, and finds again without training anew."""
    args = Namespace(pufferlib_trainer=None, seeds=3, steps=2000, jobs=2)
    monkeypatch.setattr(equal_learning, "learn", planted)
    found = equal_learning.cartpole(args, Measured(tmp_path / "measured.jsonl"))
    monkeypatch.setattr(equal_learning, "learn", None)
    assert equal_learning.cartpole(args, Measured(tmp_path / "measured.jsonl")) == found
    return found


def test_finals_are_of_the_last_tenth_and_means_of_epochs_with_episodes(trained):
    found = equal_learning.seeds(trained[equal_learning.FIRST])
    assert [found[seed]["final return"] for seed in (1, 2, 3)] == [19.5, 20.5, 21.5]
    assert [found[seed]["mean return of all epochs"] for seed in (1, 2, 3)] == [11, 12, 13]


def test_the_table_tells_who_learns_more(trained):
    about = {"machine": {"cpu": "a CPU", "cores": 4}, "versions": {"torch": "2"}, "git_commit": None}
    better = {entrant: equal_learning.seeds(records) for entrant, records in trained.items()}
    same = {equal_learning.FIRST: better[equal_learning.FIRST], "ours, float32": better[equal_learning.FIRST]}
    result = {**about, "steps": 2000, "tasks": {"better": better, "same": same}}
    rows = [line.split("|") for line in equal_learning.tables(result) if line.startswith("| ours")]
    assert [[cell.strip() for cell in (row[4], row[6])] for row in rows] == [
        ["-", "-"],
        ["0 [0, 0]", "0 [0, 0]"],
        ["0 [0, 0]", "0 [0, 0]"],
        ["-", "-"],
        ["0.5 [0.05556, 0.9444]", "0.5 [0.05556, 0.9444]"],
    ]
