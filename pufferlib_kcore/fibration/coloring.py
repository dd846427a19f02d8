"""Coloring: which neurons of a space receive the same input."""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from pufferlib_kcore.fibration.partition import number

SAME = 1e-6  # cosine distance below which two rows are one, and relative norm below which a row is dead


def color(rows: np.ndarray, threshold: float, unfolded: np.ndarray | None = None) -> np.ndarray:
    """Cluster rows by cosine distance, average linkage, cut at max(threshold, 1e-6).  (n, d) -> (n,)

    threshold  cosine distance in [0, 2]; 0 merges identical rows only, not scaled copies; 2 merges all
    unfolded   (n,) norms of the rows before their columns were summed over fibers: a row that cancels
               out to (nearly) nothing is dead. Two dead rows are at distance 0, dead and live at 1.
    Returns int64 labels 0..k-1, numbered by first member.
    """
    rows = np.asarray(rows, np.float64)
    return cut(rows @ rows.T, threshold, np.linalg.norm(rows, axis=1) if unfolded is None else unfolded)


def cut(products: np.ndarray, threshold: float, unfolded: np.ndarray) -> np.ndarray:
    """`color`, from the rows' inner products.  products: (n, n), unfolded: (n,) -> (n,); edits `products`"""
    if len(products) < 2:
        return np.zeros(len(products), np.int64)
    tree = linkage(squareform(distances(products, unfolded, threshold == 0), checks=False), "average")
    return number(fcluster(tree, max(threshold, SAME), "distance"))


def distances(products: np.ndarray, unfolded: np.ndarray, by_size: bool = False) -> np.ndarray:
    """Cosine distances 1 - <a,b> / |a||b|, in place of the inner products.  (n, n) -> (n, n)

    by_size  |a-b|^2 / 2|a||b| instead: the same for rows of equal norm, more for scaled copies
    """
    norms = np.sqrt(products.diagonal())
    dead = norms <= SAME * unfolded
    inverse = 1 / np.where(dead, 1, norms)
    products *= -inverse[:, None]
    products *= inverse
    products += 1
    if by_size:
        products += (norms[:, None] - norms) ** 2 * (inverse[:, None] * inverse / 2)
    np.clip(products, 0, None if by_size else 2, out=products)
    products[dead] = products[:, dead] = 1
    products[np.ix_(dead, dead)] = 0
    np.fill_diagonal(products, 0)
    return products
