"""Barriers on lines whose heights are known."""

import numpy as np
import pytest

from pufferlib_kcore.connectivity.barriers import chord_barrier, is_stable, mean_barrier, relative

A = np.linspace(0, 1, 101)


def line(f, episodes=40, noise=0.0, shared=0.0, seed=0):
    """Returns f(a) in each episode; `shared` is an episode's own luck, the same at every a."""
    rng = np.random.default_rng(seed)
    luck = shared * rng.normal(size=episodes)
    return f(A)[:, None] + luck + noise * rng.normal(size=(len(A), episodes))


def test_a_valley_of_known_depth_by_both_definitions():
    returns = line(lambda a: 100 + 20 * a - 60 * 4 * a * (1 - a))
    chord, mean = chord_barrier(A, returns), mean_barrier(A, returns)
    assert chord.value == pytest.approx(60) and chord.alpha == 0.5 and chord.is_one
    lowest = (100 + 20 * A - 240 * A * (1 - A)).min()
    assert mean.value == pytest.approx(110 - lowest)


def test_a_straight_line_has_no_barrier_by_the_chord_and_half_the_difference_by_the_mean():
    returns = line(lambda a: -300 + 100 * a)
    assert (
        chord_barrier(A, returns).value == pytest.approx(0, abs=1e-9) and not chord_barrier(A, returns).is_one
    )
    assert mean_barrier(A, returns).value == pytest.approx(50)


def test_scale_and_shift_of_returns_change_no_verdict():
    base = line(lambda a: -200 - 30 * 4 * a * (1 - a), noise=5)
    one = chord_barrier(A, base)
    other = chord_barrier(A, 7 * base - 1000)
    assert other.value == pytest.approx(7 * one.value) and other.low == pytest.approx(7 * one.low)
    assert relative(one, (-200, -200), -500) == pytest.approx(
        relative(other, (7 * -200 - 1000,) * 2, 7 * -500 - 1000)
    )


def test_noise_alone_is_rarely_called_a_barrier():
    """One line of twenty at most, in the long run, for many episodes; a bootstrap of the largest difference
    itself would call each of them one."""
    called = sum(
        chord_barrier(A, line(lambda a: 0 * a, episodes=100, noise=10, seed=i), i).is_one for i in range(60)
    )
    assert called <= 6


def test_what_episodes_share_does_not_blur_a_barrier():
    """Common random numbers: 50 units of luck, and a barrier of 5."""
    f = lambda a: -5 * 4 * a * (1 - a)  # noqa: E731
    paired = chord_barrier(A, line(f, noise=1, shared=50))
    assert paired.is_one and 3 < paired.low < 5 < paired.high < 7


def test_the_interval_covers_the_height():
    inside = 0
    for i in range(60):
        found = chord_barrier(A, line(lambda a: -20 * 4 * a * (1 - a), noise=15, seed=i), i)
        inside += found.low <= 20 <= found.high
    assert inside >= 55


def test_stability_is_in_units_of_the_ends_height_over_a_random_policy():
    shallow = chord_barrier(A, line(lambda a: -100 - 2 * 4 * a * (1 - a), noise=0.1))
    deep = chord_barrier(A, line(lambda a: -100 - 40 * 4 * a * (1 - a), noise=0.1))
    assert is_stable(shallow, (-100, -100), -200) and not is_stable(deep, (-100, -100), -200)
    assert not is_stable(deep, (-100, -100), -100), "ends that are no better than chance"


def test_one_episode_says_nothing_for_sure():
    found = chord_barrier(A, line(lambda a: -20 * 4 * a * (1 - a), episodes=1))
    assert found.value == pytest.approx(20) and not found.is_one
