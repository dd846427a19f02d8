"""Coloring: planted rows, the edges of the threshold, dead rows; against the recipe written out plainly."""

import numpy as np
import pytest
from naive import clusters
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.cluster import AgglomerativeClustering

from pufferlib_kcore.fibration import coloring
from pufferlib_kcore.fibration.coloring import SAME, color
from pufferlib_kcore.fibration.partition import number

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.7, 1.0, 1.2, 1.9])
@pytest.mark.parametrize("spread", [0.1, 0.5, 5.0])
def test_partitions_are_the_recipes(threshold, spread):
    rng = np.random.default_rng(int(100 * (threshold + spread)))
    rows = rng.normal(size=(6, 9))[rng.integers(0, 6, 40)] + spread * rng.normal(size=(40, 9))
    np.testing.assert_array_equal(color(rows, threshold), clusters(rows, threshold))


def test_partitions_are_scikit_learns_on_many_rows():
    rows = RNG.normal(size=(400, 12))
    model = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=0.4)
    np.testing.assert_array_equal(color(rows, 0.4), number(model.fit_predict(rows)))


def test_zero_merges_what_is_identical_and_nothing_else():
    base = RNG.normal(size=(5, 8))
    rows = np.vstack([base, base[2], base[4] * (1 + 1e-9), -base[0], 2 * base[1], base[3] + 0.01])
    assert color(rows, 0).tolist() == [0, 1, 2, 3, 4, 2, 5, 6, 7, 8]
    assert color(rows, 1e-9).tolist() == [0, 1, 2, 3, 4, 2, 4, 5, 1, 6]


def test_zero_is_the_same_in_single_precision():
    base = RNG.normal(size=(5, 8)).astype(np.float32)
    assert color(base[[0, 1, 0, 2, 1, 3]], 0).tolist() == [0, 1, 0, 2, 1, 3]


def test_scaled_copies_merge_at_any_threshold_above_zero():
    row = RNG.normal(size=8)
    assert color(np.stack([row, 100 * row, row / 100]), 1e-9).tolist() == [0, 0, 0]


def test_a_threshold_below_the_floor_counts_as_the_floor():
    angle = np.sqrt(2 * SAME)  # cosine distance ~ angle^2 / 2
    for factor, fibers in ((0.9, [0, 0]), (1.1, [0, 1])):
        rows = np.array([[1, 0], [np.cos(factor * angle), np.sin(factor * angle)]])
        assert color(rows, 1e-12).tolist() == fibers


def test_opposites_merge_at_two_only():
    row = RNG.normal(size=8)
    rows = np.stack([row, -row])
    assert color(rows, 1.999).tolist() == [0, 1]
    assert color(rows, 2).tolist() == [0, 0]


def test_two_merges_everything_however_the_cosines_were_rounded():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        row = rng.normal(size=rng.integers(2, 9)) * 10.0 ** rng.integers(-3, 3)
        assert color(np.stack([row, -row * rng.uniform(0.1, 10)]), 2).max() == 0
    assert color(np.stack([row, 0 * row, -row]), 2).max() == 0


def test_dead_rows_are_together_and_at_distance_one_from_the_living():
    rows = np.array([[1.0, 0], [0, 0], [1, 0.001], [0, 0]])
    for threshold in (0, 1e-6, 0.3, 0.999):
        labels = color(rows, threshold)
        assert labels[1] == labels[3] and labels[1] != labels[0]
    assert color(rows, 1).max() == 0


def test_a_row_that_cancels_out_is_dead_by_the_size_of_what_it_was():
    rows = np.array([[1.0, 0], [3e-16, -2e-16], [0, 0], [1e-16, 2e-16]])
    unfolded = np.array([1.0, 1.0, 1.0, 3e-16])
    assert color(rows, 0, unfolded).tolist() == [0, 1, 1, 2]


def test_one_row_and_none():
    assert color(np.ones((1, 3)), 0.3).tolist() == [0]
    assert color(np.ones((0, 3)), 0.3).tolist() == []


@pytest.mark.parametrize("n", [2, 3, 5, 40, 200])
@pytest.mark.parametrize("threshold", [0, 1e-6, 0.05, 0.2, 0.5, 0.9, 1.0, 1.3, 1.9])
def test_looking_for_components_first_changes_nothing(n, threshold):
    """The definition: average linkage on all distances, cut."""
    rng = np.random.default_rng(n)
    for columns in (2, 10):
        rows = rng.standard_normal((n, columns))
        rows[n // 2 :] = rows[: n - n // 2] + 0.2 * rng.standard_normal((n - n // 2, columns))
        rows[3 % n] = rows[0]
        rows[4 % n] *= n < 5
        norms = np.linalg.norm(rows, axis=1)
        apart = coloring.distances(coloring.inner_products(rows), norms, norms, by_size=threshold == 0)
        plain = fcluster(linkage(apart, "average"), max(threshold, coloring.SAME), "distance")
        np.testing.assert_array_equal(coloring.color(rows, threshold), number(plain))
