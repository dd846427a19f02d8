"""Units that take no part, by hand and by second routes."""

from itertools import combinations

import numpy as np
import pytest
import torch

from pufferlib_kcore.diagnostics import units


def test_dormant_and_dead_by_hand():
    h = torch.tensor([[4.0, 0.0, -0.05, 0.0], [2.0, 0.0, 0.05, 0.1]])
    # mean sizes 3, 0, .05, .05: their mean is 3.1 / 4
    np.testing.assert_allclose(units.activity(h), np.array([3, 0, 0.05, 0.05]) * 4 / 3.1, rtol=1e-6)
    assert units.dormant(h).tolist() == [False, True, False, False]
    assert units.dormant(h, tau=0.07).tolist() == [False, True, True, True]
    assert units.dormant(h, tau=0.0).tolist() == [False, True, False, False]
    assert units.dead(h).tolist() == [False, True, False, False]
    assert units.dormant(torch.zeros(3, 2)).all()


def test_a_scale_of_all_changes_no_verdict():
    h = torch.rand(20, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(units.activity(h), units.activity(1000 * h))
    assert float(units.activity(h).mean()) == pytest.approx(1)


def test_gradient_activity_by_autograd():
    """The last unit is read by nobody: it has no gradient."""
    layer = torch.nn.Linear(3, 4)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    (layer(x)[:, :3] * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    found = units.gradient_activity(layer.weight.grad)
    np.testing.assert_allclose(found, np.array([1, 2, 4, 0]) * 4 / 7, rtol=1e-6)


def test_oui_is_the_mean_over_pairs_of_states():
    h = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    on = (h > 0).numpy()
    pairs = [np.mean(on[a] != on[b]) for a, b in combinations(range(9), 2)]
    assert units.overfitting_underfitting(h) == pytest.approx(min(1, 2 * np.mean(pairs)))
    assert units.overfitting_underfitting(h.abs() + 1) == 0
    half = torch.tensor([[1.0], [-1.0]] * 500)
    assert units.overfitting_underfitting(half) == 1
