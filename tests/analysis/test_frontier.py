"""The frontier's figure: what it says on its axis can be read, wide or narrow as it is."""

import itertools

import numpy as np
import pytest

from pufferlib_kcore.analysis import frontier


@pytest.mark.parametrize("least", [0.0003, 0.03, 0.2, 0.7, 0.97])
def test_sizes_on_the_axis_stand_apart_and_within_it(least):
    points = [{"size": s, "kl": 1e-3, "value_error": 1e-2, "widths": {}} for s in np.geomspace(1, least, 9)]
    figure = frontier.figure(points, "a title")
    figure.draw_without_rendering()
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    ticks = [(t.get_loc(), t.label1) for which in (False, True) for t in ticks_of(axis, which)]
    shown = [label for place, label in ticks if low <= place <= high and label.get_text()]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
    assert len(boxes) >= 2
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes)), [label.get_text() for label in shown]


def ticks_of(axis, minor):
    return axis.xaxis.get_minor_ticks() if minor else axis.xaxis.get_major_ticks()
