"""Claims: what is one, and what the numbers of seeds say of it."""

import numpy as np
import pytest
from scipy import stats

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.claims import Claim

SEEDS = [{"x": x, "best": 10.0, "none": None} for x in (4.0, 5.0, 6.0)]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("x < 0.9 * best", "held"),
        ("x > 0.9 * best", "did not hold"),
        ("x < 5.5", "cannot be told"),
        ("x - best < -1", "held"),
        ("x > 1 and x < best / 1.1", "held"),
        ("x > 1 and x > best", "did not hold"),
        ("x > 1 and x < 5.5", "cannot be told"),
        ("x > none", "cannot be told"),
        ("x > best / 0 - best / 0", "cannot be told"),
    ],
)
def test_verdicts(text, verdict):
    assert Claim(text).answer(SEEDS).verdict == verdict


def test_the_interval_is_that_of_the_differences_over_seeds():
    beyond = np.array([5.0, 4.0, 3.0]) + 0.0
    low, high = stats.t.interval(0.95, 2, beyond.mean(), stats.sem(beyond))
    answer = Claim("x < 0.9 * best").answer(SEEDS)
    assert f"beyond by 4 [{low:.4g}, {high:.4g}], 3 seeds" in answer.why


def test_one_seed_is_judged_by_its_numbers_and_says_so():
    answer = Claim("x < best").answer(SEEDS[:1])
    assert answer.verdict == "held" and "one seed" in answer.why


@pytest.mark.parametrize(
    "text", ["", "x", "x == 1", "1 < x < 2", "f(x) > 1", "x > 'a'", "x[0] > 1", "x > 1 or x < 0"]
)
def test_what_is_no_claim_is_refused(text):
    with pytest.raises(UserError, match="is no claim: expected an inequality"):
        Claim(text)


def test_a_name_that_is_not_measured_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="names bset, which is not measured: did you mean best"):
        Claim("x > bset").answer(SEEDS)
