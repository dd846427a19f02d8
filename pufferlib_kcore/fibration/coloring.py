"""Coloring: which neurons of a space receive the same input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pufferlib_kcore.fibration.identity import rounding, same
from pufferlib_kcore.fibration.partition import number, one_block

SAME = 1e-6  # least cosine distance at which clustering stops, and relative norm below which a row is dead
CROWDED = 32  # near rows for each row, on average, above which it does not pay to look for components
STRIP = 256  # rows whose inner products are computed at once


def color(rows: np.ndarray, threshold: float, unfolded: np.ndarray | None = None) -> np.ndarray:
    """Cluster rows by cosine distance, average linkage, cut at the threshold.  (n, d) -> (n,)

    threshold  cosine distance in [0, 2]. 0 merges rows that are identical, to the rounding of their dtype in
               each column; what is above counts as 1e-6 at least, and merges scaled copies, too; 2 merges all
    unfolded   (n,) norms of the rows before their columns were summed over fibers: a row that cancels
               out to (nearly) nothing is dead. Two dead rows are at distance 0, dead and live at 1.
    Returns int64 labels 0..k-1, numbered by first member.
    """
    dtype = np.finfo(np.asarray(rows).dtype)
    rows = np.asarray(rows, np.float64)
    if threshold == 0:
        terms = np.abs(rows) if unfolded is None else np.broadcast_to(unfolded[:, None], rows.shape)
        return same(rows, rounding(terms, float(dtype.eps), float(dtype.tiny)), np.zeros(len(rows), np.int64))
    norms = np.linalg.norm(rows, axis=1)
    return cut(inner_products(rows), norms, norms if unfolded is None else unfolded, threshold)


def cut(
    products: np.ndarray,
    norms: np.ndarray,
    unfolded: np.ndarray,
    threshold: float,
    by_size: bool | None = None,
) -> np.ndarray:
    """Clusters at max(threshold, 1e-6), from the inner products of all pairs.  (pairs,), (n,) x 2 -> (n,)

    products  are overwritten
    by_size   whether scaled copies are apart (see `distances`); None: at threshold 0 only
    """
    n, height = len(norms), max(threshold, SAME)
    if n < 2 or threshold >= 2:
        return one_block(n)
    apart = distances(products, norms, unfolded, threshold == 0 if by_size is None else by_size)
    component = near(apart, n, height)
    sizes = np.bincount(component)[component]
    labels = component.astype(np.int64)  # right for components of one and of two
    if (crowd := np.flatnonzero(sizes > 2)).size:
        tree = linkage(apart if len(crowd) == n else among(apart, n, crowd), "average")
        labels[crowd] = n + fcluster(tree, height, "distance")
    return number(labels)


def near(apart: np.ndarray, n: int, height: float) -> np.ndarray:
    """Components of the graph that joins rows at most `height` apart.  (pairs,) -> (n,)

    Clusters in different components are farther apart than that on average, whatever is in them, so no cut
    at this height holds members of two.
    """
    joined = apart <= height
    if np.count_nonzero(joined) > CROWDED * n:
        return one_block(n)  # nearly that, or soon to be found out
    pair = np.flatnonzero(joined)
    starts = np.cumsum(np.arange(n, 0, -1)) - n  # of each row's stretch
    first = np.searchsorted(starts, pair, side="right") - 1
    second = pair - starts[first] + first + 1
    graph = coo_array((np.ones(len(pair), bool), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def among(apart: np.ndarray, n: int, members: np.ndarray) -> np.ndarray:
    """Distances of some rows, laid out as those of all are.  (pairs,), (m,) sorted -> (m (m - 1) / 2,)"""
    starts = np.cumsum(np.arange(n, 0, -1)) - n
    few = np.empty(len(members) * (len(members) - 1) // 2)
    for i, with_later in pairs(few, len(members)):
        with_later[:] = apart[starts[members[i]] + members[i + 1 :] - members[i] - 1]
    return few


def inner_products(rows: np.ndarray, add_to: np.ndarray | None = None) -> np.ndarray:
    """<a, b> of all pairs of rows, as scipy lays them out: 01, 02, .., 12, ..  (n, d) -> (n (n - 1) / 2,)

    add_to  products of the same pairs over other columns, to which these are added, in place
    """
    products = np.zeros(len(rows) * (len(rows) - 1) // 2) if add_to is None else add_to
    for i, with_later in pairs(products, len(rows)):
        if i % STRIP == 0:
            strip = rows[i : i + STRIP] @ rows[i:].T
        with_later += strip[i % STRIP, i % STRIP + 1 :]
    return products


def distances(
    products: np.ndarray, norms: np.ndarray, unfolded: np.ndarray, by_size: bool = False
) -> np.ndarray:
    """Cosine distances 1 - <a, b> / |a||b|, in place of the inner products.  (pairs,), (n,) x 2 -> (pairs,)

    by_size  |a - b|^2 / 2|a||b| instead: the same for rows of equal norm, more for scaled copies
    """
    dead = norms <= SAME * unfolded
    inverse = np.where(dead, 0, 1 / np.where(dead, 1, norms))  # a dead row's distances come out as 1
    for i, with_later in pairs(products, len(norms)):
        scale = inverse[i] * inverse[i + 1 :]
        with_later *= -scale
        if by_size:
            with_later += (norms[i] - norms[i + 1 :]) ** 2 * scale / 2
        if dead[i]:
            with_later[dead[i + 1 :]] = -1
    products += 1
    return np.maximum(products, 0, out=products)


def part(rows: np.ndarray, threshold: float, within: np.ndarray, by_size: bool = False) -> np.ndarray:
    """Split in two each group with a row that is, on average, too far from its rows.  (n, d), (n,) -> (n,)

    The farthest row leaves, and those with it that are too far as well, and nearer to it than to the group.
    rows    dead ones are 0;  within  labels of the groups;  by_size  as in `distances`
    """
    sizes = np.linalg.norm(rows, axis=1, keepdims=True)
    dead = sizes == 0
    inverse = np.where(dead, 0, 1 / np.where(dead, 1, sizes))
    units, one = np.hstack([rows * inverse, dead]), np.ones_like(sizes)
    left, right = np.hstack([one, units]), np.hstack([one, -units])  # <left of a, right of b> is a distance
    if by_size:
        left = np.hstack([left, sizes / 2, inverse / 2, ~dead])
        right = np.hstack([right, inverse, sizes, -1.0 * ~dead])
    members = coo_array((np.ones(len(rows)), (within, np.arange(len(rows)))))
    mean = (members @ right) / np.bincount(within)[:, None]
    off = np.einsum("nd,nd->n", left, mean[within])
    order = np.lexsort((-off, within))
    farthest = order[np.searchsorted(within[order], np.arange(len(mean)))]
    nearer = np.einsum("nd,nd->n", left, right[farthest[within]]) < off
    return number(within * 2 + (nearer & (off > max(threshold, SAME))))


def pairs(values: np.ndarray, n: int) -> Iterator[tuple[int, np.ndarray]]:
    """Each row, and the stretch of `values` that pairs it with the rows after it."""
    start = 0
    for i in range(n):
        yield i, values[start : (start := start + n - i - 1)]
