"""MinGRU: highway, state and the three blocks of each layer are one space, in sequences and in steps."""

import numpy as np
import pytest
import torch
from planted import Net, assert_exact, assert_same, inputs, lifted, random_
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.integrations.puffer5 import Puffer5Policy, Sizes

X = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()


def policy(hidden=8, layers=2, continuous=False, seed=0):
    return random_(Puffer5Policy(Sizes(5, 3, hidden, layers, continuous)), seed)


def started(layers=2, hidden=8):
    return torch.rand(layers, 3, hidden, generator=torch.Generator().manual_seed(1)).double() + 0.1


def called(method, layers=2, hidden=8):
    return (X if method == "forward" else X[:, 0], started(layers, hidden))


@pytest.mark.parametrize("method", ["forward", "forward_eval"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("continuous", [False, True])
def test_planted_copies_merge_exactly(method, layers, continuous):
    assert_exact(policy(8, layers, continuous), called(method, layers), ["encoder"], method=method)


def test_a_sequence_is_its_steps():
    net, state = policy(), started()
    logits, value, last = net(X, state)
    for t in range(X.shape[1]):
        one, v, state = net.forward_eval(X[:, t], state)
        assert_same([one, v], [logits[:, t], value[:, t]])
    assert_same([state], [last])


@pytest.mark.parametrize("block", range(3))
@pytest.mark.parametrize("layer", range(2))
def test_units_that_differ_in_one_block_of_one_layer_stay_apart(layer, block):
    large, fibers = lifted(policy(), called("forward"))
    labels = fibers["encoder"]
    n = len(labels)
    wide = called("forward", hidden=n)
    twin = np.flatnonzero(np.bincount(labels)[labels] > 1)[0]
    assert graph.collapse(large, wide, 0).widths["encoder"] == 8
    with torch.no_grad():
        large.layers[layer].weight[block * n + twin] *= 1.5
    assert graph.collapse(large, wide, 0).widths["encoder"] > 8


def test_units_whose_encoder_rows_differ_stay_apart():
    large, fibers = lifted(policy(), called("forward"))
    labels = fibers["encoder"]
    twin = np.flatnonzero(np.bincount(labels)[labels] > 1)[0]
    with torch.no_grad():
        large.encoder.weight[twin] *= 1.5
    assert graph.collapse(large, called("forward", hidden=len(labels)), 0).widths["encoder"] > 8


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_widths_are_multiples_of_eight_and_equal(threshold):
    found = graph.collapse(policy(40), called("forward", hidden=40), threshold, round_to=8)
    k = found.widths["encoder"]
    assert k % 8 == 0
    assert [tuple(layer.weight.shape) for layer in found.policy.layers] == [(3 * k, k)] * 2
    assert_same(found.lifted()(X)[:2], found.policy(X)[:2])


def test_a_collapse_is_of_both_methods():
    a, b = (graph.collapse(policy(), called(m), 0.9, method=m) for m in ("forward", "forward_eval"))
    np.testing.assert_array_equal(a.fibers["encoder"], b.fibers["encoder"])
    assert_same(a.policy.parameters(), b.policy.parameters())


def test_an_input_that_does_not_return_is_no_state():
    """Numbers given to each neuron, such as noise, keep the width that they come in."""
    net = random_(
        Net(lambda net, x, e: (net.act(net.hidden(x) + e), e), hidden=nn.Linear(5, 8), act=nn.Linear(8, 3))
    )
    found = graph.collapse(net, (*inputs(3, 5), *inputs(3, 8)), 2)
    assert "cannot be merged" in found.reasons["hidden"]


def test_padding_along_time_is_not_along_neurons():
    def forward(net, x):
        return net.act(nn.functional.pad(net.hidden(x), (0, 0, 1, 0)))

    assert_exact(Net(forward, hidden=nn.Linear(5, 8), act=nn.Linear(8, 3)), inputs(3, 4, 5), ["hidden"])


def test_padding_along_neurons_is():
    def forward(net, x):
        return net.act(nn.functional.pad(net.hidden(x), (1, 0)))

    net = random_(Net(forward, hidden=nn.Linear(5, 8), act=nn.Linear(9, 3)))
    assert graph.collapse(net, inputs(3, 4, 5), 2).reasons["hidden"]
