"""Matching neurons: planted permutations are found, nothing is farther than before, functions stay."""

import numpy as np
import pytest
import torch
from planted import assert_same, flat, inputs, nature, random_
from torch import nn

from pufferlib_kcore import UserError, graph
from pufferlib_kcore.connectivity.matching import (
    activation_matching,
    correlations,
    distance,
    matched,
    weight_matching,
)
from pufferlib_kcore.graph.activations import all_activations


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """PufferLib's policies say `observations.float()`; let that be float64, so that laws hold to 1e-10."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


class Trunk(nn.Module):
    """A convolution flattened into a trunk that two heads share."""

    def __init__(self):
        super().__init__()
        self.conv, self.trunk = nn.Conv2d(2, 6, 3), nn.Linear(6 * 4, 9)
        self.actor, self.critic = nn.Linear(9, 3), nn.Linear(9, 1)

    def forward(self, x):
        h = torch.tanh(self.trunk(torch.relu(self.conv(x)).flatten(1)))
        return self.actor(h), self.critic(h)


def of(kind, seed=0):
    if kind == "lstm":
        policy, given = nature()
        return random_(policy, seed), given
    if kind == "trunk":
        return random_(Trunk(), seed), (torch.randn(4, 2, 4, 4).double(),)
    return random_(
        nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)), seed
    ), (inputs(6, 5))


def shuffled(traced, seed=0):
    rng = np.random.default_rng(seed)
    return {s.name: rng.permutation(s.units) for s in traced.network.spaces if not s.whole}


@pytest.mark.parametrize("kind", ["mlp", "trunk", "lstm"])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_planted_order_is_found(kind, noise):
    policy, given = of(kind)
    traced = graph.trace(policy, given)
    other = matched(traced, policy, shuffled(traced))
    assert_same(flat(other(*given)), flat(policy(*given)))
    assert distance(policy, other) > 1
    with torch.no_grad():
        for p in other.parameters():
            p.add_(noise * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    back = matched(traced, other, weight_matching(traced, other))
    count = sum(p.numel() for p in policy.parameters())
    assert distance(policy, back) <= 1.2 * noise * count**0.5
    assert_same(flat(back(*given)), flat(other(*given)))


@pytest.mark.parametrize("kind", ["mlp", "trunk", "lstm"])
def test_a_planted_order_is_found_by_what_neurons_answer(kind):
    policy, given = of(kind)
    traced = graph.trace(policy, given)
    order = shuffled(traced)
    other = matched(traced, policy, order)
    first, *rest = given
    generator = torch.Generator().manual_seed(0)
    mixed = [torch.randperm(first.numel(), generator=generator) for _ in range(20)]
    seen = [(first.flatten()[way].view_as(first), *rest) for way in mixed]
    found = activation_matching(traced, other, seen)
    answers = all_activations(policy, traced.network, seen)
    for name, way in found.items():
        live = correlations(answers[name], answers[name]).diagonal() > 0.5  # dead ones are all alike
        assert live.sum() > len(way) / 4
        np.testing.assert_array_equal(order[name][way][live], np.arange(len(way))[live])
    assert_same(flat(matched(traced, other, found)(*given)), flat(policy(*given)))
    assert distance(policy, matched(traced, other, found)) < 0.5 * distance(policy, other)


def test_neurons_that_are_scaled_are_matched_by_what_they_answer():
    """A neuron times 50 whose readers take a fiftieth: the same function, other weights."""
    policy, given = of("mlp")
    traced = graph.trace(policy, given)
    order = shuffled(traced)
    other = matched(traced, policy, order)
    with torch.no_grad():
        other[0].weight[::2] *= 3  # before tanh: another function, alike in what it tells
        other[0].bias[::2] *= 3
    way = activation_matching(traced, other, [given])["0"]
    assert (order["0"][way] == np.arange(len(way))).all()


def test_a_constant_neuron_is_like_none():
    x = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    np.testing.assert_allclose(correlations(x, x), [[0, 0], [0, 1]], atol=1e-12)


@pytest.mark.parametrize("kind", ["mlp", "trunk", "lstm"])
def test_policies_that_have_nothing_in_common_are_never_farther(kind):
    policy, given = of(kind)
    traced = graph.trace(policy, given)
    for seed in range(1, 4):
        other, _ = of(kind, seed)
        back = matched(traced, other, weight_matching(traced, other, seed=seed))
        assert distance(policy, back) < distance(policy, other)
        assert_same(flat(back(*given)), flat(other(*given)))


def test_another_architecture_is_refused_by_what_differs():
    policy, given = of("mlp")
    other = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    with pytest.raises(UserError, match=r"0.weight is \(8, 5\) in one policy and \(9, 5\) in the other"):
        weight_matching(graph.trace(policy, given), other)
