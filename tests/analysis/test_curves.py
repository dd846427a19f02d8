"""Laws of curves: means over what is there, steps in proportion to epochs."""

import math

import numpy as np
import pytest

from pufferlib_kcore.analysis.curves import Curve, moving_mean, weighted_mean
from pufferlib_kcore.errors import UserError


def curve(returns, episodes=None, first=1, batch=1000):
    records = [{"epoch": first + i, "agent_steps": (first + i) * batch} for i in range(len(returns))]
    for i, record in enumerate(records):
        record["episode_return"] = returns[i]
        if episodes is not None:
            record["episodes"] = episodes[i]
    return Curve.from_records(records)


def plainly(values, weights, window):
    """moving_mean, an entry at a time."""
    means = []
    for i in range(len(values)):
        near = range(max(i - window // 2, 0), min(i + (window - 1) // 2 + 1, len(values)))
        there = [j for j in near if math.isfinite(values[j]) and weights[j] > 0]
        total = sum(weights[j] for j in there)
        means.append(sum(weights[j] * values[j] for j in there) / total if there else math.nan)
    return means


def test_the_moving_mean_is_the_mean_over_each_window():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = int(rng.integers(1, 40))
        values = np.where(rng.random(n) < 0.4, np.nan, rng.normal(500, 300, n))
        weights = rng.integers(0, 5, n).astype(float)
        for window in (1, 2, 3, 8, n, 3 * n):
            found = moving_mean(values, weights, window)
            np.testing.assert_allclose(found, plainly(values, weights, window), rtol=1e-9, atol=1e-9)


def test_smoothing_keeps_a_constant_and_stays_within_what_was_seen():
    rng = np.random.default_rng(1)
    returns = [None if rng.random() < 0.5 else 7.0 for _ in range(200)]
    smooth = curve(returns).smoothed()
    assert np.allclose(smooth[np.isfinite(smooth)], 7.0) and np.isfinite(smooth).sum() > 150
    ragged = curve(list(rng.normal(size=200)))
    smooth, seen = ragged.smoothed(), ragged.returns
    assert seen.min() - 1e-9 <= smooth.min() and smooth.max() <= seen.max() + 1e-9
    assert np.allclose(ragged.smoothed(1), seen)


def test_epochs_count_by_their_episodes():
    found = curve([10.0, 40.0, None], episodes=[3, 1, 0])
    assert found.smoothed(5)[0] == found.final(1.0) == pytest.approx(17.5)
    assert curve([10.0, 40.0]).final(1.0) == 25.0  # where the log does not count them, alike


def test_the_final_return_is_of_the_last_tenth():
    assert curve([0.0] * 90 + [5.0] * 10).final() == 5.0
    assert curve([0.0] * 90 + [None] * 9 + [5.0]).final() == 5.0
    assert math.isnan(curve([0.0] * 90 + [None] * 10).final())
    assert curve([3.0]).final() == curve([3.0]).best() == 3.0


def test_a_run_in_which_no_episode_finished_has_no_return_but_is_a_curve():
    found = curve([None, None, None], episodes=[0, 0, 0])
    assert np.isnan(found.returns).all() and np.isnan(found.smoothed()).all()
    assert math.isnan(found.final()) and math.isnan(found.best())
    assert found.steps.tolist() == [1000, 2000, 3000]
    assert math.isnan(weighted_mean(np.array([]), np.array([])))


def test_steps_are_interpolated_and_go_on_in_proportion():
    found = Curve.from_records([{"epoch": e, "agent_steps": s} for e, s in ((30, 600), (10, 100))])
    assert found.epochs.tolist() == [10, 30]  # sorted
    assert found.steps_at([0, 5, 10, 20, 30, 60]).tolist() == [0, 50, 100, 350, 600, 1200]
    resumed = curve([1.0, 2.0], first=52)
    assert resumed.steps_at(51) == pytest.approx(51_000)


def test_no_records_is_one_sentence():
    with pytest.raises(UserError, match="no record to draw"):
        Curve.from_records([])
