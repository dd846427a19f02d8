"""Partitions: numbering, meets, splits."""

import numpy as np

from pufferlib_kcore.fibration.partition import meet, number, split_to


def test_labels_are_numbered_by_first_member():
    assert number(np.array([9, 4, 9, -1, 4])).tolist() == [0, 1, 0, 2, 1]


def test_a_meet_keeps_together_what_every_partition_keeps_together():
    rng = np.random.default_rng(0)
    parts = rng.integers(0, 3, (3, 40))
    labels = meet(*parts)
    together = (parts[:, :, None] == parts[:, None, :]).all(axis=0)
    np.testing.assert_array_equal(labels[:, None] == labels, together)
    np.testing.assert_array_equal(labels, number(labels))


def test_a_split_refines_to_the_number_asked_for_and_breaks_the_largest_fibers_first():
    labels = np.array([0, 1, 0, 0, 2, 0, 2])
    split = split_to(labels, 5)
    assert split.max() == 4
    np.testing.assert_array_equal(meet(labels, split), split)
    assert split.tolist() == [0, 1, 0, 2, 3, 4, 3]
    assert split_to(labels, 2).tolist() == labels.tolist()
