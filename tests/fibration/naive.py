"""The published recipe, written out plainly: cosine distance, average linkage, five rounds for an LSTM."""

import numpy as np


def clusters(rows, threshold):
    """Average-linkage clusters of rows, merging the two nearest while they are at most `threshold` apart."""
    rows = np.asarray(rows, float)
    groups = [[i] for i in range(len(rows))]
    distance = np.array([[1 - a @ b / np.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows])
    np.fill_diagonal(distance, np.inf)
    while len(groups) > 1:
        a, b = sorted(np.unravel_index(distance.argmin(), distance.shape))
        if distance[a, b] > threshold:
            break
        mean = (len(groups[a]) * distance[a] + len(groups[b]) * distance[b]) / (
            len(groups[a]) + len(groups[b])
        )
        distance[a], distance[:, a], distance[a, a] = mean, mean, np.inf
        distance = np.delete(np.delete(distance, b, 0), b, 1)
        groups[a] += groups.pop(b)
    labels = np.empty(len(rows), int)
    for label, members in enumerate(sorted(groups, key=min)):
        labels[members] = label
    return labels


def folded(weight, fibers):
    """Columns summed over each fiber of the inputs.  (rows, n, ...) -> (rows, k * ...)"""
    return np.stack([weight[:, fibers == f].sum(axis=1) for f in range(max(fibers) + 1)], 1).reshape(
        len(weight), -1
    )


def layer(weight, bias, fibers, threshold):
    """Fibers of a linear or convolutional layer."""
    return clusters(np.column_stack([folded(weight, fibers), bias]), threshold)


def lstm(w_ih, w_hh, fibers, threshold, rounds=5):
    """Fibers of an LSTM's hidden units; gates in PyTorch's order i, f, g, o."""
    units = w_hh.shape[1]
    cell = hidden = np.zeros(units, int)
    for _ in range(rounds):
        rows = np.column_stack([folded(w_ih, fibers), folded(w_hh, hidden)])
        i, f, g, o = clusters(rows, threshold).reshape(4, units)
        cell = renumbered(zip(i, f, g, cell, strict=True))
        hidden = renumbered(zip(o, cell, strict=True))
    return hidden


def renumbered(keys):
    seen = {}
    return np.array([seen.setdefault(tuple(key), len(seen)) for key in keys])
