"""Traced: colored and merged apart, and again; a collapse is lifted to the size that it came from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import Net, assert_same, inputs, nature, random_, screens
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import repeat
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.rebuild import parameters_at
from pufferlib_kcore.graph.states import cut, cut_states

pytestmark = pytest.mark.usefixtures("exact")


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def mlp():
    """Scaled copies, to be merged by gains, before a nonlinearity that bends nothing."""
    net = random_(
        Net(
            lambda net, x: (net.actor(net.b(net.a(x).relu()).relu().tanh()), net.critic(net.a(x).relu())),
            a=nn.Linear(5, 12), b=nn.Linear(12, 9), actor=nn.Linear(9, 3), critic=nn.Linear(12, 1),
        )
    )  # fmt: skip
    with torch.no_grad():
        for p in net.a.parameters():
            p[6:] = p[:6] * torch.linspace(0.5, 3, 6).reshape(-1, *[1] * (p.ndim - 1))
    return net, inputs(7, 5)


def recurrent(kind):
    def forward(net, x, state):
        x, state = net.core(net.a(x).tanh(), state)
        return net.actor(x), net.critic(x), state

    layers = dict(a=nn.Linear(5, 8), core=kind(8, 10, 2), actor=nn.Linear(10, 3), critic=nn.Linear(10, 1))
    h = noise(2, 4, 10)
    return random_(Net(forward, **layers)), (noise(3, 4, 5), (h, h / 2) if kind is nn.LSTM else h)


def pixels():
    policy, _ = nature()
    return policy, (screens(4), (noise(1, 4, 20), noise(1, 4, 20, seed=2)))


def normed():
    """A variance that must stay above 0, whatever the gains."""
    layers = dict(
        a=nn.Linear(5, 12), norm=nn.BatchNorm1d(12), actor=nn.Linear(12, 3), critic=nn.Linear(12, 1)
    )
    net = random_(Net(lambda net, x: (net.actor(h := net.norm(net.a(x)).tanh()), net.critic(h)), **layers))
    with torch.no_grad():
        net.norm.running_mean[:], net.norm.running_var[:] = noise(12), noise(12).exp()
        for p in net.a.parameters():
            p[6:] = -p[:6]
    return net.eval(), inputs(40, 5)


POLICIES = {
    "linear": mlp,
    "batch norm": normed,
    "convolutions and LSTM": pixels,
    "LSTM": lambda: recurrent(nn.LSTM),
    "GRU": lambda: recurrent(nn.GRU),
}


def answers(policy, given):
    with torch.no_grad():
        return list(tensors_in(policy(*copy_of(given))))


@pytest.mark.parametrize("colors, threshold", [("weights", 0.9), ("faithful", 0.5), ("activations", 0.3)])
@pytest.mark.parametrize("name", POLICIES)
def test_a_lifted_collapse_has_the_originals_shapes_and_computes_what_the_collapse_does(
    name, colors, threshold
):
    policy, given = POLICIES[name]()
    found = graph.collapse(policy, given, threshold, colors=colors, calibrate=[given])
    assert any(width < len(found.fibers[space]) for space, width in found.widths.items())
    if colors == "faithful" and name == "linear":
        assert len(set(found.merges["a"].gain)) > 6
    if colors == "activations":
        assert any((merge.pick == 0).any() for merge in found.merges.values())
    large = found.lifted()
    shapes = {name: x.shape for name, x in policy.state_dict().items()}
    assert {name: x.shape for name, x in large.state_dict().items()} == shapes
    states, network = found.network.state_inputs, found.network
    small = cut_states(given, states, found.merges)
    wide = cut_states(small, states_of(found), found.merges, repeat)
    ours, theirs = answers(found.policy, small), answers(large, wide)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        b = cut(b, network.state_outputs[i], found.merges) if i in network.state_outputs else b
        assert_same([a], [b])
    assert any(not torch.equal(x, y) for x, y in zip(answers(policy, given), theirs, strict=True))


def states_of(found):
    """Where state lies in what the collapsed policy takes."""
    return graph.trace(
        found.policy, cut_states(found.network.example.inputs, found.network.state_inputs, found.merges)
    ).network.state_inputs


def test_what_is_taught_or_trained_after_a_collapse_is_lifted_as_it_is_then():
    policy, given = mlp()
    found = graph.ablate(policy, given, {"a": 5, "b": 4}, generator=torch.Generator().manual_seed(0))
    trained = copy_of(found.policy)
    with torch.no_grad():
        for p in trained.parameters():
            p += noise(*p.shape)
    large = replace(found, policy=trained).lifted()
    assert_same(answers(large, given), answers(trained, given))


def test_colored_then_merged_is_collapsed():
    policy, given = pixels()
    traced = graph.trace(policy, given)
    for how in (dict(), dict(colors="faithful", round_to=4), dict(colors="activations", calibrate=[given])):
        coloring = traced.color(0.6, **how)
        found = traced.merge(coloring, calibrate=how.get("calibrate", ()))
        expected = graph.collapse(policy, given, 0.6, **how)
        assert coloring.widths == found.widths == expected.widths
        assert coloring.reasons == expected.reasons and coloring.thresholds == expected.thresholds
        assert_same(found.policy.parameters(), expected.policy.parameters(), 0)
        params = sum(p.numel() for p in found.policy.parameters())
        assert (
            parameters_at(policy, traced.network, coloring.widths) == params == expected.report.params_after
        )


def test_coloring_runs_and_rebuilds_nothing(monkeypatch):
    policy, given = pixels()
    traced = graph.trace(policy, given)
    monkeypatch.setattr(type(policy), "forward", lambda *a: pytest.fail("it ran"))
    monkeypatch.setattr(graph.traced, "rebuild", lambda *a: pytest.fail("it was rebuilt"))
    assert traced.color(1.0).widths["recurrent"] <= 20


@pytest.mark.parametrize("name", POLICIES)
def test_a_traced_policy_is_colored_as_its_weights_are_by_then(name):
    policy, given = POLICIES[name]()
    traced, other = graph.trace(policy, given), random_(copy_of(policy), seed=5)
    before = traced.color(0.8)
    for change in (policy.load_state_dict, lambda weights: replaced(policy, weights)):
        change(other.state_dict())
        again, anew = traced.color(0.8), graph.trace(policy, given).color(0.8)
        for space, merge in anew.merges.items():
            for a, b in zip(vars(merge).values(), vars(again.merges[space]).values(), strict=True):
                np.testing.assert_array_equal(a, b)
        assert_same(traced.merge(again).policy.parameters(), traced.merge(anew).policy.parameters(), 0)
        assert any(
            (before.merges[s].labels != anew.merges[s].labels).any()
            for s in anew.merges
            if before.widths[s] > 1
        )
        other = random_(other, seed=6)


def replaced(policy, weights):
    """Other parameters, not other numbers in them."""
    for module_name, module in policy.named_modules():
        for name in dict(module.named_parameters(recurse=False)):
            key = f"{module_name}.{name}".removeprefix(".")
            setattr(module, name, nn.Parameter(weights[key].clone()))


def test_what_has_changed_beyond_its_weights_is_refused_by_name():
    policy, given = mlp()
    traced = graph.trace(policy, given)
    policy.b = nn.Linear(12, 8).double()
    with pytest.raises(UserError, match=r"^b.weight has shape \(8, 12\), and had \(9, 12\) .* anew"):
        traced.color()
    del policy.b
    with pytest.raises(UserError, match="^b.weight is gone, and had .* anew"):
        traced.color()


def test_every_function_takes_a_traced_policy_or_makes_one():
    policy, given = mlp()
    traced, data, others = graph.trace(policy, given, ignore=["b"]), [given], [inputs(9, 5)]
    how = dict(ignore=["b"])

    def seed():
        return dict(generator=torch.Generator().manual_seed(3))

    pairs = [
        (graph.collapse(traced, threshold=0.9), graph.collapse(policy, given, 0.9, **how)),
        (
            graph.ablate(traced, widths={"a": 4}, **seed()),
            graph.ablate(policy, given, {"a": 4}, **seed(), **how),
        ),
        (
            graph.reinitialize(traced, widths={"a": 4}, **seed()),
            graph.reinitialize(policy, given, {"a": 4}, **seed(), **how),
        ),
        (
            graph.search(traced, calibrate=data, held_out=others, target_params=0.5).collapse,
            graph.search(policy, given, data, others, target_params=0.5, **how).collapse,
        ),
    ]
    for one, other in pairs:
        assert one.widths == other.widths and one.widths["b"] == 9
        assert_same(one.policy.parameters(), other.policy.parameters(), 0)
    found, _ = pairs[0]
    assert graph.spaces(traced) == graph.spaces(policy, given, **how)
    labels = {"a": np.arange(20) % 12}
    assert_same(
        graph.lift(traced, fibers=labels).parameters(), graph.lift(policy, given, labels).parameters(), 0
    )
    apart = graph.divergence(policy, found.policy, others, found.network, found.merges)
    assert graph.divergence(traced, found.policy, others, fibers=found.merges) == apart
    taught = [graph.distill(one, found, data, others, steps=3) for one in (traced, policy)]
    assert_same(taught[0].policy.parameters(), taught[1].policy.parameters(), 0)


def test_a_traced_policy_and_what_it_was_traced_with_are_not_given_both():
    policy, given = mlp()
    traced, found = graph.trace(policy, given), graph.collapse(policy, given)
    for refused in (
        lambda: graph.spaces(traced, given),
        lambda: graph.collapse(traced, given, 0.3),
        lambda: graph.collapse(traced, threshold=0.3, ignore=["a"]),
        lambda: graph.ablate(traced, given, {"a": 3}),
        lambda: graph.divergence(traced, found.policy, [given], found.network),
        lambda: graph.distill(traced, found, [given], [given], value=1),
    ):
        with pytest.raises(UserError, match="^Net is traced: leave out"):
            refused()
    for refused in (
        lambda: graph.spaces(policy),
        lambda: graph.divergence(policy, found.policy, [given]),
    ):
        with pytest.raises(UserError, match="^Net is not traced: give"):
            refused()


def test_another_networks_coloring_is_refused():
    policy, given = mlp()
    other, x = recurrent(nn.GRU)
    with pytest.raises(UserError, match="^this coloring is not of Net, whose spaces are"):
        graph.trace(policy, given).merge(graph.trace(other, x).color())


def test_how_it_was_called_is_known_after_its_collapse():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 9), nn.Linear(9, 4)

        def act(self, x):
            out = self.b(self.a(x).tanh())
            return {"logits": out[..., :3], "value": out[..., 3]}

    policy, given = random_(Agent()), inputs(7, 5)
    how = dict(method="act", value="value")
    found = graph.collapse(policy, given, 0.9, **how)
    apart = graph.divergence(policy, found.policy, [given], found.network, found.merges, actions="logits")
    assert apart == graph.divergence(
        policy, found.policy, [given], found.network, found.merges, actions="logits", **how
    )
    assert apart.kl > 0 and apart.value_error > 0
