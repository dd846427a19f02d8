"""Identity: rows are one where every column agrees to rounding, and nothing hides a column that does not."""

import numpy as np
import pytest

from pufferlib_kcore.fibration.coloring import color
from pufferlib_kcore.fibration.identity import agree, same
from pufferlib_kcore.fibration.partition import number, one_block

EPS = np.finfo(float).eps


def plainly(rows, slack, within):
    """Each row joins the first that is the head of a group, lies in its block and agrees with it."""
    heads, labels = [], []
    dead = (abs(rows) <= slack).all(axis=1)
    for i in range(len(rows)):
        fits = [
            h for h in heads
            if within[h] == within[i] and dead[h] == dead[i]
            and (abs(rows[h] - rows[i]) <= slack[h] + slack[i]).all()
        ]  # fmt: skip
        heads += [] if fits else [i]
        labels.append((fits or [i])[0])
    return number(np.array(labels, int))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("grid", [0.01, 0.3, 3.0])  # steps between rows, in parts of the slack
def test_groups_are_those_of_a_plain_search(seed, grid):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 90)), int(rng.integers(1, 40))
    slack = 1e-3 * rng.choice([0, 1, 1, 5], (n, d)) * rng.choice([1e-9, 1, 1e9], d)
    rows = rng.normal(size=(5, d))[rng.integers(0, 5, n)] * rng.choice([1e-9, 1, 1e9], d)
    rows += grid * slack * rng.integers(-3, 4, (n, d)) * (rng.random((n, d)) < 0.1)
    rows[:, 0] = 1e12 * (seed % 2)
    rows[rng.random(n) < 0.1] = 0
    within = rng.integers(0, 3, n)
    np.testing.assert_array_equal(same(rows, slack, within), plainly(rows, slack, within))


def test_many_rows_that_no_direction_tells_apart():
    """Slack as wide as half of all numbers, as in 8 bits: the columns themselves have to."""
    rng = np.random.default_rng(0)
    rows, slack = rng.normal(size=(300, 30)), np.full((300, 30), 0.3)
    np.testing.assert_array_equal(same(rows, slack, one_block(300)), plainly(rows, slack, one_block(300)))


def test_a_chain_of_rows_does_not_drift_apart():
    rows = 1 + 1.5e-3 * np.arange(40)[:, None]
    labels = same(rows, np.full_like(rows, 1e-3), one_block(40))
    assert labels.tolist() == np.repeat(np.arange(20), 2).tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1, 1e30])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("common", [0, 1, 1e3, 1e6])
def test_a_large_column_hides_nothing(dtype, scale, common):
    rng = np.random.default_rng(0)
    rows = (scale * np.hstack([np.full((16, 1), common), rng.normal(size=(16, 4))])).astype(dtype)
    rows[9] = rows[2]
    rows[12] = rows[3]
    rows[12, 3] *= 1 + 400 * np.finfo(dtype).eps
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 9, 10, 11, 12, 13, 14]
    assert color(rows, 0).tolist() == expected


def test_a_large_row_hides_nothing_of_small_ones():
    rows = np.random.default_rng(0).normal(size=(20, 6)) * np.repeat([1e20, 1e-20], 10)[:, None]
    assert color(rows, 0).max() == 19
    assert color(np.vstack([rows, rows]), 0).tolist() == [*range(20), *range(20)]


def test_a_few_roundings_more_or_less_are_the_same_and_many_are_not():
    for dtype in (np.float16, np.float32, np.float64):
        row = np.random.default_rng(0).uniform(1, 2, 8).astype(dtype)
        near, far = (
            row + k * np.finfo(dtype).eps * np.array([0, 1, 0, -1, 0, 0, 1, 0], dtype) for k in (1, 99)
        )
        assert color(np.stack([row, near.astype(dtype), far.astype(dtype)]), 0).tolist() == [0, 0, 1]


def test_odd_shapes():
    for n, d in ((0, 3), (1, 0), (3, 0), (1, 1)):
        assert same(np.ones((n, d)), np.zeros((n, d)), one_block(n)).tolist() == [0] * n
    assert same(np.ones((9, 7)), np.zeros((9, 7)), one_block(9)).max() == 0
    assert same(np.ones((3, 7)), np.zeros((3, 7)), np.array([5, 1, 5])).tolist() == [0, 1, 0]


def test_columns_are_compared_to_the_last():
    rows = np.zeros((2, 5000))
    rows[:, 0] = 1
    for column in (1, 15, 16, 79, 80, 4999):
        other = rows.copy()
        other[1, column] = 1e-9
        assert agree(other, np.full_like(rows, 1e-12), np.array([0, 0]), np.array([1, 0])).tolist() == [
            False,
            True,
        ]
    assert agree(rows, np.zeros_like(rows), np.array([0]), np.array([1])).all()
