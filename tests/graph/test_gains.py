"""Gains: scaled copies merge exactly where only their size differs downstream, and nowhere else."""

import numpy as np
import pytest
import torch
from planted import assert_same, nature, random_
from test_trace import Net, inputs, two_heads
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.graph.rebuild import rebuild

pytestmark = pytest.mark.usefixtures("exact")


def scaled_lift(base, example, grow, seed=0):
    """A larger policy that computes the same: copies of units, each at a size of its own."""
    rng = np.random.default_rng(seed)
    network = graph.trace(base, example).network
    merges = {}
    for name, extra in grow.items():
        units = network[name].units
        labels = np.concatenate([np.arange(units), rng.integers(0, units, extra)])
        merges[name] = Merge.mean(labels, rng.uniform(0.2, 5, len(labels)))
    tensors = dict(base.named_parameters())
    lifted = quotient.lift(tensors, network.table, merges, torch.Generator().manual_seed(seed))
    widths = {name: len(merge.labels) for name, merge in merges.items()}
    return rebuild(base, network, lifted, widths)


def mlp(bend):
    return random_(
        Net(
            lambda net, x: two_heads(net, net.b(bend(net.a(x))).relu()),
            a=nn.Linear(5, 8), b=nn.Linear(8, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1),
        )
    )  # fmt: skip


def test_scaled_copies_of_relus_merge_exactly():
    base, x = mlp(torch.relu), inputs(6, 5)
    large = scaled_lift(base, x, {"a": 7, "b": 6})
    with torch.no_grad():
        assert_same(large(*x), base(*x))
        assert graph.collapse(large, x, 0).widths["a"] == 15  # a row and its double are two neurons
        found = graph.collapse(large, x, 0, colors="faithful")
        assert (found.widths["a"], found.widths["b"]) == (8, 9)
        assert_same(found.policy(*x), base(*x))


def test_convolutions_pools_and_flattening_scale_too():
    base, x = nature()
    with torch.no_grad():
        large = scaled_lift(
            base,
            x,
            {"policy.network.0": 9, "policy.network.2": 5, "policy.network.4": 7, "policy.network.7": 6},
        )
        found = graph.collapse(large, x, 0, colors="faithful")
        assert found.widths == graph.collapse(base, x, 0).widths
        assert_same(found.policy(*x)[:2], base(*x)[:2])


@pytest.mark.parametrize(
    "bend",
    [torch.tanh, torch.sigmoid, lambda h: (h + 1).relu(), lambda h: h * h, lambda h: h.relu().clamp(max=2)],
)
def test_where_size_matters_a_row_and_its_double_stay_apart(bend):
    base, x = mlp(bend), inputs(6, 5)
    with torch.no_grad():
        base.a.weight[1], base.a.bias[1] = 2 * base.a.weight[0], 2 * base.a.bias[0]
        found = graph.collapse(base, x, 1e-3, colors="faithful")
        assert found.widths["a"] == 8
        assert graph.collapse(base, x, 1e-3).widths["a"] == 7  # cosine alone takes them for one


@pytest.mark.parametrize("pool", [nn.functional.max_pool1d, nn.functional.avg_pool1d])
@pytest.mark.parametrize("value, width", [(0.0, 7), (1.0, 8)])
def test_a_constant_beside_neurons_does_not_grow_with_them(pool, value, width):
    """max(2 h, 0) is 2 max(h, 0), but max(2 h, 1) is not 2 max(h, 1)."""

    def beside(h):
        constant = torch.full(h.shape, value)[..., None].to(h)
        return pool(torch.cat([h.relu()[..., None], constant], -1), 2)[..., 0]

    base, x = mlp(beside), inputs(6, 5)
    with torch.no_grad():
        base.a.weight[1], base.a.bias[1] = 2 * base.a.weight[0], 2 * base.a.bias[0]
        found = graph.collapse(base, x, 0, colors="faithful")
        assert found.widths["a"] == width
        assert_same(found.policy(*x), base(*x))


def test_recurrent_units_do_not_scale_and_residual_sums_keep_one_gain():
    base, x = nature()
    assert (
        not graph.trace(base, x).network["recurrent"].scales
        and graph.trace(base, x).network["policy.network.7"].scales
    )

    def residual(net, x):
        x = net.a(x).relu()
        return two_heads(net, net.c((x + net.b(x)).relu()))

    net = random_(
        Net(
            residual,
            a=nn.Linear(5, 6),
            b=nn.Linear(6, 6),
            c=nn.Linear(6, 9),
            actor=nn.Linear(9, 3),
            critic=nn.Linear(9, 1),
        )
    )
    with torch.no_grad():
        found = graph.collapse(net, inputs(3, 5), 0, colors="faithful")
        assert_same(found.policy(*inputs(3, 5)), net(*inputs(3, 5)))


def test_the_optimizers_state_follows_the_gains():
    """The dual map of a lifted network's gradient is its base's gradient, gains and all."""
    base, x = mlp(torch.relu), inputs(6, 5)
    large = scaled_lift(base, x, {"a": 7})
    found = graph.collapse(large, x, 0, colors="faithful")

    def gradients(policy):
        policy.zero_grad()
        actions, values = policy(*x)
        (actions.square().sum() + values.sum()).backward()
        return {name: p.grad for name, p in policy.named_parameters()}

    merges = {name: merge for name, merge in found.merges.items() if name == "a"}
    dual = quotient.dual(gradients(large), found.network.table, merges)
    for name, expected in gradients(found.policy).items():
        torch.testing.assert_close(dual[name], expected, rtol=1e-9, atol=1e-9)


def with_dead(net, dead):
    """The network, these units' weights and biases turned below 0."""
    with torch.no_grad():
        for layer, units in dead.items():
            for p in (getattr(net, layer).weight, getattr(net, layer).bias):
                p[units] = -p[units].abs()
    return net


@pytest.mark.parametrize("dead", [[0], [0, 3, 5], [7], list(range(8))])
def test_units_that_no_input_can_wake_go_for_free(dead):
    net = with_dead(mlp(torch.relu), {"b": dead})  # it reads what a rectifier let through
    x = inputs(64, 5)
    with torch.no_grad():
        found = graph.collapse(net, x, 0, colors="faithful")
        assert (found.widths["a"], found.widths["b"]) == (8, 9 - min(len(dead), 8))
        assert_same(found.policy(*x), net(*x))
        padded = graph.collapse(net, x, 0, colors="faithful", round_to=4)
        assert_same(padded.policy(*x), net(*x))


def test_no_unit_that_reads_signed_inputs_is_called_dead():
    net, x = with_dead(mlp(torch.relu), {"a": [0, 1]}), inputs(64, 5)
    assert graph.collapse(net, x, 0, colors="faithful").widths["a"] == 8


@pytest.mark.parametrize("bend", [torch.tanh, torch.nn.functional.leaky_relu, lambda x: x.relu() + 0.1 * x])
def test_no_unit_that_something_else_than_a_rectifier_reads_is_called_dead(bend):
    net = random_(
        Net(
            lambda net, x: two_heads(net, bend(net.b(net.a(x).relu()))),
            a=nn.Linear(5, 8), b=nn.Linear(8, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1),
        )
    )  # fmt: skip
    assert graph.collapse(with_dead(net, {"b": [0, 1]}), inputs(6, 5), 0, colors="faithful").widths["b"] == 9


def test_bytes_are_never_below_0():
    net, x = nature()
    first = net.policy.network[0]
    with torch.no_grad():
        for p in (first.weight, first.bias):
            p[:2] = -p[:2].abs()
        found = graph.collapse(net, x, 0, colors="faithful")
        assert found.widths["policy.network.0"] == len(first.weight) - 2
        assert_same(found.policy(*x), net(*x))


def test_recurrent_units_are_never_called_dead():
    net = random_(
        Net(
            lambda net, x: two_heads(net, net.cell(net.a(x).relu())[0].relu()),
            a=nn.Linear(5, 8), cell=nn.RNN(8, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1),
        )
    )  # fmt: skip
    with torch.no_grad():
        for p in net.cell.parameters():
            p[:2] = -p[:2].abs()
    assert graph.collapse(net, inputs(6, 5), 0, colors="faithful").widths["cell"] == 9
