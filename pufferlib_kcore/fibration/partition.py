"""Partitions: integer labels 0..k-1, one for each neuron, numbered by first member."""

from __future__ import annotations

import numpy as np


def number(labels: np.ndarray) -> np.ndarray:
    """Rename labels so that they count up in order of first appearance.  (n,) -> (n,)

    >>> number(np.array([7, 3, 7, 5]))
    array([0, 1, 0, 2])
    """
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group].astype(np.int64)


def meet(*partitions: np.ndarray) -> np.ndarray:
    """The coarsest partition finer than all of these: neurons together in every one.  (n,) each -> (n,)

    >>> meet(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    array([0, 1, 2, 2])
    """
    _, group = np.unique(np.stack(partitions, axis=1), axis=0, return_inverse=True)
    return number(group.ravel())


def one_block(units: int) -> np.ndarray:
    """Every neuron in one fiber."""
    return np.zeros(units, np.int64)


def singletons(units: int) -> np.ndarray:
    """Every neuron its own fiber."""
    return np.arange(units, dtype=np.int64)


def split_to(labels: np.ndarray, fibers: int) -> np.ndarray:
    """Take neurons out of the largest fibers, last members first, until there are `fibers` of them.

    A collapse stays as exact as it was: split neurons still compute the same value.
    """
    labels = labels.copy()
    while (count := labels.max() + 1) < fibers:
        largest = np.bincount(labels).argmax()
        labels[np.flatnonzero(labels == largest)[-1]] = count
    return number(labels)
