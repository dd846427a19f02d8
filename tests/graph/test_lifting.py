"""What lift, resize and the controls hand out runs and computes what it should; or is refused by name."""

import math

import numpy as np
import pytest
import torch
from planted import Net, assert_same, flat, inputs, nature, random_
from torch import nn

from pufferlib_kcore import UserError, graph

Linear = nn.Linear


def split(net, x):
    """Rows of 8 by a literal."""
    return net.c(torch.tanh(net.a(x)).view(-1, 8))


def first_eight(net, x):
    return net.c(torch.tanh(net.a(x))[:, :8])


def one_gate(net, x):
    """A space of one unit, whose axis is cut off."""
    return net.c(torch.tanh(net.a(x)) * torch.sigmoid(net.gate(x)).squeeze(-1).unsqueeze(-1))


def scaled(net, x):
    """A width as a number, in Python's own arithmetic."""
    return net.c(torch.tanh(net.a(x)) / math.sqrt(net.a.weight.numel()))


def by_its_length(net, x):
    """A width as a number, of the code's own."""
    return net.c(torch.tanh(net.a(x)) if net.a.weight.size(0) == 8 else net.a(x))


@pytest.mark.parametrize("forward", [split, first_eight, scaled, by_its_length])
def test_lifts_of_what_fixes_a_size_are_refused(forward):
    policy = random_(Net(forward, a=Linear(5, 8), c=Linear(8, 3)))
    with pytest.raises(UserError, match="lift(ed| other).* a|not a space that can grow"):
        graph.lift(policy, inputs(6, 5), {"a": np.arange(16) % 8})


def test_a_lift_of_one_unit_is_right_or_refused():
    policy = random_(Net(one_gate, a=Linear(5, 8), gate=Linear(5, 1), c=Linear(8, 3)))
    with pytest.raises(
        UserError, match="the lifted Net .*lift other spaces than gate|not a space that can grow"
    ):
        graph.lift(policy, inputs(6, 5), {"gate": np.zeros(3, int)})
    one = random_(nn.Sequential(Linear(5, 1), nn.Tanh(), Linear(1, 3)))
    large = graph.lift(one, inputs(6, 5), {"0": np.zeros(4, int)})
    assert_same([large(*inputs(6, 5))], [one(*inputs(6, 5))])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_lift_of_one_recurrent_unit_is_right_or_refused(kind):
    """Its gates cannot be told from places of one gate."""
    policy = random_(Net(lambda net, x: net.c(net.core(x)[0]), core=kind(5, 1), c=Linear(1, 3)))
    try:
        large = graph.lift(policy, inputs(6, 2, 5), {"core": np.zeros(3, int)})
    except UserError as error:
        assert "core" in str(error)
    else:
        assert_same([large(*inputs(6, 2, 5))], [policy(*inputs(6, 2, 5))])


def sampled(net, x):
    """What chance decides is not compared, nor what is not finite."""
    h = torch.tanh(net.a(x))
    logits = net.c(nn.functional.dropout(h, 0.5))
    masked = net.c(h).masked_fill(torch.tensor([True, False, False]), -torch.inf)
    return torch.distributions.Categorical(logits=logits).sample(), logits, masked


def test_policies_that_sample_and_mask_are_lifted():
    policy = random_(Net(sampled, a=Linear(5, 8), c=Linear(8, 3)))
    before, state = torch.random.get_rng_state(), {n: p.clone() for n, p in policy.state_dict().items()}
    large = graph.lift(policy, inputs(6, 5), {"a": np.arange(16) % 8})
    assert torch.equal(before, torch.random.get_rng_state())
    assert_same([large(*inputs(6, 5))[2]], [policy(*inputs(6, 5))[2]])
    assert all(torch.equal(p, state[n]) for n, p in policy.state_dict().items())


def test_a_lift_takes_and_returns_wider_state():
    def forward(net, x, h, c):
        y, (h, c) = net.core(x, (h, c))
        return net.c(y), h, c

    policy = random_(Net(forward, core=nn.LSTM(5, 4), c=Linear(4, 3)))
    x, h, c = *inputs(6, 2, 5), *inputs(1, 2, 4), inputs(2, 2, 4)[0][1:]
    labels = np.array([0, 1, 2, 3, 1, 1])
    large = graph.lift(policy, (x, h, c), {"core": labels})
    ours, theirs = policy(x, h, c), large(x, h[..., labels], c[..., labels])
    assert_same(theirs, [ours[0], ours[1][..., labels], ours[2][..., labels]])


def test_resizing_what_fixes_a_size_is_refused():
    policy = random_(Net(split, a=Linear(5, 8), c=Linear(8, 3)))
    shapes = {"a.weight": (4, 5), "a.bias": (4,), "c.weight": (3, 4), "c.bias": (3,)}
    with pytest.raises(UserError, match="Net with these shapes .* its code fixes a size"):
        graph.resize(policy, shapes, inputs(6, 5))


def test_layers_of_one_module_are_not_ablated_to_several_widths():
    policy = random_(Net(lambda net, x: net.c(net.core(x)[0]), core=nn.LSTM(5, 8, 2), c=Linear(8, 3)))
    for widths in ({"core.l0": 4, "core.l1": 6}, {"core.l0": 4}):
        for control in (graph.ablate, graph.reinitialize):
            with pytest.raises(
                UserError, match="core.l0, core.l1 are layers of one module, .* one width, not"
            ):
                control(policy, inputs(6, 2, 5), widths)


# Numbers of other kinds ------------------------------------------------------------------------------


class Waves(nn.Module):
    """Two complex layers, whose sizes a real one reads."""

    def __init__(self, dtype=torch.complex128):
        super().__init__()
        self.a, self.b = Linear(5, 6, dtype=dtype), Linear(6, 4, dtype=dtype)
        self.c = Linear(4, 3, dtype=torch.float64)

    def forward(self, x):
        return self.c(self.b(self.a(x).tanh()).abs())


def waves():
    torch.manual_seed(0)
    return Waves(), (torch.randn(6, 5, dtype=torch.complex128),)


def test_complex_layers_are_lifted_and_collapsed_exactly():
    base, x = waves()
    fibers = {"a": np.array([0, 1, 2, 3, 4, 5, 1, 1, 4]), "b": np.array([0, 1, 2, 3, 3, 0])}
    large = graph.lift(base, x, fibers, generator=torch.Generator().manual_seed(0))
    assert_same([large(*x)], [base(*x)])
    found = graph.collapse(large, x, 0)
    for name, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[name], labels, name)
    assert_same(found.policy.parameters(), base.parameters())
    optimizer, small = (
        torch.optim.Adam(large.parameters(), lr=0.0),
        torch.optim.Adam(base.parameters(), lr=0.0),
    )
    for policy in (large, base):
        policy(*x).square().sum().backward()
    optimizer.step(), small.step()
    after, expected = graph.collapse_optimizer(optimizer, found, large)["state"], small.state_dict()["state"]
    for i, buffers in expected.items():
        assert_same([after[i]["exp_avg"]], [buffers["exp_avg"]])
        assert after[i]["exp_avg_sq"].dtype == buffers["exp_avg_sq"].dtype


def test_units_that_differ_in_their_imaginary_part_alone_are_two():
    policy, x = waves()
    with torch.no_grad():
        policy.a.weight[1], policy.a.bias[1] = policy.a.weight[0].conj(), policy.a.bias[0].conj()
    assert graph.collapse(policy, x, 0).widths["a"] == 6
    with torch.no_grad():
        policy.a.weight[1], policy.a.bias[1] = policy.a.weight[0], policy.a.bias[0]
    found = graph.collapse(policy, x, 0)
    assert found.widths["a"] == 5
    assert_same([found.policy(*x)], [policy(*x)])


def test_complex_layers_are_ablated_by_their_size_and_left_as_they_are_by_the_refit():
    policy, x = waves()
    kept = np.sort((policy.a.weight.abs().sum(1) + policy.a.bias.abs()).detach().numpy().argsort()[-3:])
    assert_same([graph.ablate(policy, x, {"a": 3}, by="l1").policy.a.weight], [policy.a.weight[kept]])
    merged, refitted = graph.collapse(policy, x, 1.0), graph.collapse(policy, x, 1.0, calibrate=[x])
    assert torch.equal(merged.policy.b.weight, refitted.policy.b.weight)


def quantized(net, x):
    return net.c(torch.tanh(nn.functional.linear(x, net.weight.double())))


def test_whole_numbers_merge_where_they_stay_whole_and_are_refused_by_name_where_not():
    net, rows = random_(Net(quantized, c=Linear(4, 3))), [[1, 2, 3], [1, 2, 3], [3, 2, 1], [0, 0, 1]]
    net.weight = nn.Parameter(torch.tensor(rows, dtype=torch.int8), requires_grad=False)
    found = graph.collapse(net, inputs(6, 3), 0)
    assert found.widths["weight"] == 3 and found.policy.weight.dtype == torch.int8
    assert_same([found.policy(*inputs(6, 3))], [net(*inputs(6, 3))])
    with pytest.raises(UserError, match=r"weight holds torch.int8, which cannot hold .* ignore=\['weight'\]"):
        graph.collapse(net, inputs(6, 3), 0.9)
    assert graph.collapse(net, inputs(6, 3), 0.9, ignore=["weight"]).widths["weight"] == 4


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", ["mlp", "lstm", "scaled"])
def test_the_nearest_lift_computes_the_same_and_lies_nearest(kind):
    """How the sums are shared is what least squares finds, row by row."""
    if kind == "lstm":
        policy, given = nature()
    else:
        policy = random_(
            nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3))
        )
        given = inputs(6, 5)
    colors = "faithful" if kind == "scaled" else "weights"
    if kind == "scaled":
        with torch.no_grad():
            policy[0].weight[1], policy[0].bias[1] = 3 * policy[0].weight[0], 3 * policy[0].bias[0]
    traced = graph.trace(policy, given)
    found = traced.merge(traced.color(0.8 if kind != "scaled" else 0.05, colors=colors))
    assert sum(found.widths.values()) < sum(s.units for s in traced.network.spaces)
    even, near = found.lifted(), found.lifted(near=policy)
    with torch.no_grad():
        assert_same(flat(near(*given)), flat(even(*given)))
    if kind == "mlp":  # where nothing carries a state, the smaller one's answer too
        assert_same(flat(near(*given)), flat(found.policy(*given)))

    def apart(one):
        return sum(
            float((a - b).square().sum()) for a, b in zip(one.parameters(), policy.parameters(), strict=True)
        )

    assert apart(near) < apart(even)
    if kind == "lstm":
        return
    labels, gain = found.merges["0"].labels, np.where(found.merges["0"].gain == 0, 1, found.merges["0"].gain)
    if not traced.network["0"].scales:
        gain = np.ones(len(gain))
    folds = np.zeros((labels.max() + 1, len(labels)))
    folds[labels, np.arange(len(labels))] = gain
    wanted, there = policy[2].weight.detach().numpy(), even[2].weight.detach().numpy()
    for row, base, x in zip(wanted, there, near[2].weight.detach().numpy(), strict=True):
        moved = np.linalg.lstsq(folds, folds @ (base - row), rcond=None)[0]  # of least norm
        np.testing.assert_allclose(x, row + moved, atol=1e-10)
