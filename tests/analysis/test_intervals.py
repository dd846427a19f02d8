"""Laws of the statistics: known answers, known coverage, and nothing said where nothing can be."""

import numpy as np
import pytest
from scipy import stats

from pufferlib_kcore.analysis import intervals
from pufferlib_kcore.analysis.intervals import Estimate, change, improvement, interquartile_mean


def test_the_interquartile_mean_leaves_out_the_outer_quarters():
    assert intervals.iqm(np.arange(1, 9)) == 4.5
    assert intervals.iqm(np.array([1000.0, 1, 2, 3, -1000, 4, 5, 6])) == np.mean([2, 3, 4, 5])
    assert intervals.iqm(np.array([1.0, 2.0, 6.0])) == 3.0  # three seeds have no outer quarter
    rows = np.random.default_rng(0).normal(size=(12, 5))
    assert np.allclose(intervals.iqm(rows, axis=0), [np.sort(x)[3:9].mean() for x in rows.T])


@pytest.mark.parametrize("x, y, expected", [([1, 2, 3], [1, 2, 3], 0.5), ([4, 5, 6], [1, 2, 3], 1.0)])
def test_improvement_on_known_samples(x, y, expected):
    found = improvement([x], [y])
    assert found.value == expected and improvement([y], [x]).value == 1 - expected
    assert found.low <= expected <= found.high and found.seeds == 3


def test_improvement_counts_pairs_and_half_of_the_ties():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, 9), rng.integers(0, 6, 7)
    pairs = np.sign(x[:, None] - y[None, :])
    assert improvement([x], [y]).value == pytest.approx(np.mean((pairs + 1) / 2))
    assert improvement([[7, 7, 7]], [[7, 7]]).value == 0.5


def test_improvement_of_strata_is_the_mean_over_them_whatever_their_scale():
    found = improvement([[2, 3], [2000, 3000]], [[0, 1], [2000, 3000]])
    assert found.value == 0.75 and found.seeds == 2
    assert (found.low, found.high) == (0.5, 1.0)  # only the second stratum varies


def test_strata_are_resampled_each_on_its_own():
    """Two strata, each of equal seeds: nothing varies.  Pooled, their difference would."""
    two = interquartile_mean([0.0] * 4, [10.0] * 4)
    assert (two.value, two.low, two.high) == (5.0, 5.0, 5.0)
    pooled = interquartile_mean([0.0] * 4 + [10.0] * 4)
    assert pooled.value == 5.0 and pooled.low < 5 < pooled.high


def test_change_is_relative_to_the_base_of_each_stratum():
    found = change([[110.0, 110.0], [-5.0, -5.0]], [[100.0, 100.0], [-10.0, -10.0]])
    assert found.value == pytest.approx(np.mean([0.1, 0.1, 0.5, 0.5]))
    assert change([[1.0, 2.0]], [[1.0, 3.0]]).bounded


def test_the_interval_covers_as_often_as_it_says():
    """1,000 samples of 60 normals: 95% of the intervals hold 0, to four standard errors less a bias of 1%."""
    _, low, high = intervals.band(np.random.default_rng(0).normal(size=(60, 1000)))
    covered = np.mean((low <= 0) & (0 <= high))
    assert 0.91 < covered < 0.98
    few = intervals.band(np.random.default_rng(0).normal(size=(3, 1000)))
    assert 0.70 < np.mean((few[1] <= 0) & (0 <= few[2])) < 0.79  # as the module and the page say


def test_improvement_covers_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.5 / np.sqrt(2))
    covered = []
    for _ in range(200):
        found = improvement([rng.normal(0.5, 1, 40)], [rng.normal(0, 1, 40)])
        covered.append(found.low <= truth <= found.high)
    assert 0.89 < np.mean(covered) <= 1.0


def test_more_seeds_narrow_the_interval_and_the_same_seeds_repeat_it():
    returns = np.random.default_rng(2).normal(size=64)
    wide, narrow = interquartile_mean(returns[:8]), interquartile_mean(returns)
    assert narrow.high - narrow.low < wide.high - wide.low
    assert interquartile_mean(returns) == narrow


def test_one_seed_has_no_interval_and_no_seed_no_value():
    one = interquartile_mean([3.0])
    assert one.value == 3.0 and not one.bounded and str(one) == "3"
    none = interquartile_mean([])
    assert np.isnan(none.value) and none.seeds == 0 and str(none) == ""
    assert not improvement([[1.0]], [[2.0, 3.0]]).bounded
    assert not one.apart(interquartile_mean([100.0, 101.0]))
    assert np.isnan(intervals.p_value([], [1.0]))
    middle, low, high = intervals.band(np.arange(5.0)[None])
    assert middle.tolist() == [0, 1, 2, 3, 4] and np.isnan(low).all() and np.isnan(high).all()


def test_intervals_are_apart_where_they_do_not_meet():
    low, over, touching, high = (Estimate(x, x - 1, x + 1, 3) for x in (0.0, 1.5, 2.0, 2.5))
    assert low.apart(high) and high.apart(low)
    assert not any(low.apart(other) or other.apart(low) for other in (low, over, touching))


def test_three_against_three_cannot_reach_the_usual_level():
    assert intervals.p_value([4, 5, 6], [1, 2, 3]) == pytest.approx(0.1)
    assert intervals.p_value([5, 6, 7, 8], [1, 2, 3, 4]) == pytest.approx(2 / 70)
