"""Identity: which rows are one to rounding, in each of their columns."""

from __future__ import annotations

import numpy as np

from pufferlib_kcore.fibration.partition import number

ULPS = 2  # by how many roundings of its terms an entry may be off
MORE = 32  # the same, of a usual entry of its row and column, in float64: in which lifts are computed
DIRECTIONS = 4  # along which rows are told apart before they are compared
FEW = 16  # columns that are compared first, as they tell most rows apart
AT_ONCE = 2**22  # entries that are compared at once


def rounding(terms: np.ndarray, eps: np.ndarray | float, least: np.ndarray | float) -> np.ndarray:
    """By how much entries may be off that are sums of terms.  (n, d), (d,) or () x 2 -> (n, d)

    terms  sums of their absolute values
    eps    distance from 1 to the next number in the dtype of a column;  least  its smallest normal number
    """
    size = terms.mean(axis=1, keepdims=True)
    usual = size * (terms / np.where(size > 0, size, 1)).mean(axis=0)
    return eps * np.maximum(ULPS * terms, least) + MORE * np.finfo(float).eps * usual


def same(rows: np.ndarray, slack: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Rows that agree with the first of their group, in each column.  (n, d) x 2, (n,) -> (n,)

    slack   by how much an entry may be off: a and b agree where |a - b| <= slack of a + slack of b
    within  labels: only rows of one label are compared
    A row that is zero to its slack is dead, and one with dead rows only. Every group has a first row that all
    others agree with, so rows do not drift apart along a chain. Returns labels, numbered by first member.
    """
    if not rows.size:
        return number(within)
    dead = (np.abs(rows) <= slack).all(axis=1)
    labels = number(within * 2 + dead)
    scale = np.maximum(np.maximum(np.abs(rows).max(axis=0), slack.max(axis=0)), 1e-300)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DIRECTIONS, len(scale))) / scale
    reach = slack @ (1 / scale) + np.finfo(float).eps * len(scale) ** 2  # and the rounding of these sums
    for values in (rows @ signs.T).T:
        labels = strands(values, reach, labels)
    leader, left = np.arange(len(rows)), np.arange(len(rows))
    while left.size:
        _, first, group = np.unique(labels[left], return_index=True, return_inverse=True)
        heads = left[first][group]
        one = agree(rows, slack, left, heads)
        leader[left[one]] = heads[one]
        left = left[~one]
    return number(leader)


def strands(values: np.ndarray, reach: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows of one label whose intervals, values -/+ reach, overlap, if only through others.  (n,) x 3 -> (n,)

    A sweep: a strand is over where all intervals that began have ended.
    """
    n = len(values)
    ends = np.concatenate([values - reach, values + reach])
    order = np.lexsort((np.arange(2 * n) >= n, ends, np.tile(labels, 2)))
    over = np.cumsum(np.where(order < n, 1, -1)) == 0
    strand = np.empty(2 * n, np.int64)
    strand[order] = np.cumsum(over) - over
    return strand[:n]


def agree(rows: np.ndarray, slack: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether rows a and b agree in every column.  (n, d) x 2, (m,) x 2 -> (m,) of bool"""
    one, left = np.ones(len(a), bool), np.flatnonzero(a != b)
    start, count = 0, FEW
    while left.size and start < rows.shape[1]:
        some, i, j = slice(start, start + count), a[left], b[left]
        off = (np.abs(rows[i, some] - rows[j, some]) > slack[i, some] + slack[j, some]).any(axis=1)
        one[left[off]] = False
        left = left[~off]
        start, count = start + count, min(4 * count, max(FEW, AT_ONCE // max(len(left), 1)))
    return one
