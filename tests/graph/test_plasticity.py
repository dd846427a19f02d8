"""The published ways to keep a network plastic, on numbers worked by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pufferlib_kcore.graph import trace
from pufferlib_kcore.graph.breaker import SymmetryBreaker
from pufferlib_kcore.graph.plasticity import (
    by_unit,
    contribution,
    least_useful,
    pull_back,
    quiet,
    reinitialize_weights,
    shrink_and_perturb,
)


def net(units=4):
    """x -> relu -> 2: unit i answers i x, and is read with weight 1."""
    policy = nn.Sequential(nn.Linear(1, units), nn.ReLU(), nn.Linear(units, 2)).double()
    with torch.no_grad():
        policy[0].weight.copy_(torch.arange(units).double()[:, None])
        policy[0].bias.zero_()
        policy[2].weight.fill_(1.0)
        policy[2].bias.zero_()
    return policy


X = (torch.tensor([[1.0], [3.0]], dtype=torch.float64),)


def test_contribution_by_hand():
    h, outgoing = torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[1.0, -1.0], [0.5, 0.0]])
    assert contribution(h, outgoing).tolist() == [2 * 2, 1 * 0.5]


def test_what_writes_and_reads_a_unit():
    network = trace(net(), X).network
    tensors = dict(net().named_parameters())
    written, read = (by_unit(network, tensors, role)["0"] for role in ("out", "in"))
    assert written.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]  # weight, bias
    assert read.tolist() == [[1, 1]] * 4


def test_by_unit_of_gates_and_flattened_channels():
    """An LSTM's four gates are one unit's, and all places of a channel."""
    lstm = nn.LSTM(2, 3)
    network = trace(lstm, torch.randn(5, 1, 2)).network
    (space,) = (s.name for s in network.spaces if not s.whole or s.units == 3)
    rows = by_unit(network, {"weight_ih_l0": torch.arange(24.0).view(12, 2)}, "out")[space]
    assert rows[1].tolist() == [2, 3, 8, 9, 14, 15, 20, 21]


def test_redo_takes_the_dormant_and_nobody_else():
    found = quiet({"a": torch.tensor([2.0, 0.02, 0.0]), "b": torch.tensor([0.025, 1.0])}, 0.025)
    assert [(c.space, c.unit, c.kept) for c in found] == [("a", 2, None), ("a", 1, None), ("b", 0, None)]


def test_cbp_takes_the_least_useful_of_those_old_enough_as_many_as_are_owed():
    u, ages = {"a": torch.tensor([3.0, 1.0, 2.0, 0.0])}, {"a": np.array([9, 9, 9, 2])}
    assert [c.unit for c in least_useful(u, ages, 5, {"a": 2.9})] == [1, 2]
    assert not least_useful(u, ages, 5, {"a": 0.9})


def test_pull_and_shrink_by_hand():
    policy, start = net(), {name: torch.zeros_like(p) for name, p in net().named_parameters()}
    pull_back(policy, start, 0.25)
    assert policy[0].weight.flatten().tolist() == [0, 0.75, 1.5, 2.25]
    shrink_and_perturb(policy, {name: torch.full_like(p, 4) for name, p in policy.named_parameters()}, 0.5)
    assert policy[0].weight.flatten().tolist() == [2, 2.375, 2.75, 3.125]


def test_swr_draws_the_weights_of_least_utility_and_forgets_their_moments():
    policy = net()
    optimizer = torch.optim.Adam(policy.parameters())
    for p in policy.parameters():
        optimizer.state[p] = {"exp_avg": torch.ones_like(p), "step": torch.tensor(3.0)}
    gradients = {"0.weight": torch.tensor([[9.0], [1.0], [0.1], [1.0]]).double()}
    fresh = {name: torch.full_like(p, -7) for name, p in policy.named_parameters()}
    assert reinitialize_weights(policy, gradients, fresh, 0.5, optimizer) == 2  # |w g| = 0, 1, .2, 3
    assert policy[0].weight.flatten().tolist() == [-7, 1, -7, 3]
    assert optimizer.state[policy[0].weight]["exp_avg"].flatten().tolist() == [0, 1, 0, 1]
    assert (policy[2].weight == 1).all()


@pytest.mark.parametrize("method, part, units", [("redo", 0.025, [0]), ("redo", 0.7, [0, 1])])
def test_the_breaker_makes_fresh_what_redo_says(method, part, units):
    """Units answer 0, 1, 2, 3 times x: in parts of their mean 0, 2/3, 4/3, 2."""
    policy = net()
    breaker = SymmetryBreaker(policy, X, threshold=part, method=method)
    done = breaker.step(0)
    assert done.recycled["0"].tolist() == units
    assert (policy[2].weight[:, units] == 0).all() and (policy[2].weight[:, 2:] == 1).all()


def test_regrama_goes_by_the_last_gradient():
    policy = net()
    policy[2].weight.data[:, 3] = 0  # nothing that unit 3 does matters
    policy(X[0]).sum().backward()
    done = SymmetryBreaker(policy, X, threshold=0.025, method="regrama").step(0)
    assert done.recycled["0"].tolist() == [0, 3]  # relu passes no gradient at 0


def test_cbp_replaces_at_a_rate_and_its_state_goes_on():
    policy = net(8)
    breaker = SymmetryBreaker(policy, X, threshold=0.25, method="cbp", maturity=1)
    assert breaker.step(0).count == 0  # nobody is older than one step
    other = SymmetryBreaker(copy.deepcopy(policy), X, threshold=0.25, method="cbp", maturity=1)
    other.load_state_dict(breaker.state_dict())
    done, again = breaker.step(1), other.step(1)
    assert done.count == again.count == 2  # a quarter of eight
    assert done.recycled["0"].tolist() == again.recycled["0"].tolist() == [0, 1]
    for a, b in zip(policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_l2_init_goes_back_to_where_the_breaker_was_made():
    policy = net()
    start = [p.detach().clone() for p in policy.parameters()]
    breaker = SymmetryBreaker(policy, X, threshold=1.0, method="l2-init")
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    breaker.step(0)
    for p, old in zip(policy.parameters(), start, strict=True):
        torch.testing.assert_close(p.detach(), old)


@pytest.mark.parametrize(
    "how, said",
    [
        (dict(method="banana"), "method is 'banana'"),
        (dict(method="redo", threshold=1.5), "redo takes a part"),
        (dict(colors="banana"), "colors is 'banana'"),
    ],
)
def test_what_it_cannot_do_is_said(how, said):
    with pytest.raises(Exception, match=said):
        SymmetryBreaker(net(), X, **how)
