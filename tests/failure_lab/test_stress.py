"""Stress tests: those that ask for an agent are not passed by one that acts by chance."""

import json

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.stress import TESTS, Lab
from pufferlib_kcore.failure_lab.stress.lab import Interval, Scores, beats, counts
from pufferlib_kcore.failure_lab.stress_report import run_stress


@pytest.mark.parametrize("number", TESTS)
def test_chance_passes_none_but_those_that_ask_for_no_agent(number, tmp_path):
    test = TESTS[number]
    outcome = test.run(Lab(tmp_path, seeds=(0, 1, 2), episodes=20, random=True))
    assert outcome.passed != test.trains, outcome.why


def test_every_group_has_its_test():
    assert {number.split(".")[0] for number in TESTS} == {f"T{k}" for k in range(9)}


def test_intervals_are_over_seeds():
    x = Interval.of(np.array([1.0, 2.0, 3.0]))
    assert np.isclose(x.mean, 2) and np.isclose(x.high - x.mean, 4.302653 / 3**0.5, atol=1e-5)
    assert not x.above and Interval.of(np.array([1.0, 1.1, 1.2])).above
    assert not Interval.of(np.array([5.0])).above, "one seed shows nothing"

    def scores(true, kinds=()):
        true = np.array(true)
        return Scores(true, true, true, true, true, tuple(frozenset(k) for k in kinds))

    assert beats(scores([3.0, 5.0]), scores([1.0, 3.0])).mean == 2
    told = counts("nan", scores([1.0], [["nan"]]), scores([1.0, 2.0], [[], ["nan"]]))
    assert told == {"induced": "nan", "found": "1 of 1, in the control 1 of 2"}


def test_reports_go_on_and_other_settings_are_refused(tmp_path):
    lab = Lab(tmp_path, episodes=5)
    run_stress(lab, ["T0.1"])
    path = tmp_path / "STRESS_TEST_RESULTS.json"
    held = json.loads(path.read_text())
    held["tests"]["T0.1"]["why"] = "marked"
    path.write_text(json.dumps(held))
    found = run_stress(lab, ["T0.1"])
    assert found["T0.1"]["why"] == "marked"
    assert "Passed: marked." in (tmp_path / "STRESS_TEST_REPORT.md").read_text()
    with pytest.raises(UserError, match="name another --folder"):
        run_stress(Lab(tmp_path, episodes=6), ["T0.1"])
    with pytest.raises(UserError, match="unknown stress test 'T9.9'"):
        run_stress(lab, ["T9.9"])


def test_what_was_trained_is_not_trained_again(tmp_path):
    from pufferlib_kcore.failure_lab.worlds import World

    lab = Lab(tmp_path, seeds=(0,), episodes=5, shorter=20)
    one = lab.scores("dqn", World())
    made = sorted(tmp_path.rglob("*.zip"))
    again = Lab(tmp_path, seeds=(0,), episodes=5, shorter=20).scores("dqn", World())
    assert one.true == again.true and sorted(tmp_path.rglob("*.zip")) == made
    moved = lab.scores("dqn", World(), World("career", {"regime": "boom"}))
    assert moved.true != one.true and sorted(tmp_path.rglob("*.zip")) == made
