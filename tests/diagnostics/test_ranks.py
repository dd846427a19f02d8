"""Ranks, by hand and by second routes."""

import numpy as np
import pytest
import torch

from pufferlib_kcore.diagnostics import ranks


def features(sigma, rows=30, seed=0):
    """A matrix with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(rows, len(sigma), generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(len(sigma), len(sigma), generator=generator, dtype=torch.float64))
    return u * torch.tensor(sigma, dtype=torch.float64) @ v


def test_by_hand():
    sigma = ranks.singular_values(features([4.0, 2.0, 2.0, 0.0]))
    np.testing.assert_allclose(sigma, [4, 2, 2, 0], atol=1e-12)
    # p = 1/2, 1/4, 1/4: H = 1.5 ln 2
    assert ranks.effective_rank(sigma) == pytest.approx(2**1.5)
    assert ranks.stable_rank(sigma) == pytest.approx(24 / 16)
    assert [ranks.srank(sigma, delta) for delta in (0.5, 0.49, 0.25, 0.01)] == [1, 2, 2, 3]
    assert ranks.feature_rank(sigma, states=100, epsilon=0.3) == 1
    assert ranks.feature_rank(sigma, states=100, epsilon=0.1) == 3


@pytest.mark.parametrize("seed", range(5))
def test_by_second_routes(seed):
    x = torch.rand(50, 12, generator=torch.Generator().manual_seed(seed)).double()
    sigma = ranks.singular_values(x)
    eigen = np.sqrt(np.linalg.eigvalsh((x.T @ x).numpy())[::-1])
    np.testing.assert_allclose(sigma, eigen, rtol=1e-9)
    p = eigen / eigen.sum()
    assert ranks.effective_rank(sigma) == pytest.approx(np.prod(p**-p))
    frobenius, spectral = float(torch.linalg.norm(x)), float(torch.linalg.matrix_norm(x, 2))
    assert ranks.stable_rank(sigma) == pytest.approx(frobenius**2 / spectral**2)
    held = [k for k in range(1, 13) if eigen[:k].sum() >= 0.99 * eigen.sum()]
    assert ranks.srank(sigma) == held[0]


def test_planted_ranks_and_nothing():
    one = ranks.singular_values(features([3.0] + [0.0] * 5))
    flat = ranks.singular_values(features([2.0] * 6))
    for rank in (ranks.effective_rank, ranks.srank, ranks.stable_rank):
        assert rank(one) == pytest.approx(1)
        assert rank(flat) == pytest.approx(6)
        assert rank(ranks.singular_values(torch.zeros(9, 6))) == 0
