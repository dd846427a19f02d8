"""Thresholds found by coloring alone: a collapse at each keeps what was said, and none is said in vain."""

import torch
from planted import nature

from pufferlib_kcore import graph
from pufferlib_kcore.graph.thresholds import HIGHEST, thresholds_for


def planted():
    """Units in pairs that grow more unlike: sizes fall step by step as the threshold rises."""
    policy, inputs = nature(input_size=48, hidden=24)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in policy.parameters():
            if x.ndim > 1:
                apart = torch.linspace(0, 2, len(x) // 2).reshape(-1, *[1] * (x.ndim - 1))
                x[len(x) // 2 :][: len(x) // 2] = (
                    x[: len(x) // 2]
                    + apart * torch.randn(x[: len(x) // 2].shape, generator=generator).double() * x.std()
                )
    return policy, inputs


def test_a_collapse_at_each_threshold_keeps_what_was_said(exact):
    policy, inputs = planted()
    found = thresholds_for(policy, inputs)
    assert found and list(found) == sorted(found) and 0 < min(found) and max(found) <= HIGHEST
    for threshold, kept in found.items():
        report = graph.collapse(policy, inputs, threshold).report
        assert report.params_after / report.params_before == kept < 0.95
    assert min(abs(kept - 0.5) for kept in found.values()) < 0.1


def test_few_colorings_are_looked_at(monkeypatch, exact):
    looks, color = [], graph.Traced.color
    monkeypatch.setattr(graph.Traced, "color", lambda *a, **k: looks.append(a[1]) or color(*a, **k))
    policy, inputs = planted()
    thresholds_for(policy, inputs)
    assert len(looks) == len(set(looks)) <= 12
