"""Fixtures: exact arithmetic for policies that turn observations into floats themselves."""

import pytest
import torch


@pytest.fixture
def exact(monkeypatch):
    """PufferLib's policies say `observations.float()`; let that be float64, so that laws hold to 1e-10."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
