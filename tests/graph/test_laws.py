"""Laws of collapse on PufferLib's own policies, unedited, with planted symmetry (float64, 1e-10)."""

import gymnasium
import numpy as np
import pufferlib.models
import pytest
import torch
from planted import (
    PROCGEN,
    assert_same,
    assert_same_policy,
    episodes,
    flat,
    frames,
    lifted,
    nature,
    play,
    random_,
    screens,
    world,
)
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.fibration import quotient

pytestmark = pytest.mark.usefixtures("exact")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_lifted_network_collapses_to_its_base_and_computes_the_same(layers):
    base, inputs = nature(layers=layers)
    large, fibers = lifted(base, inputs)
    found = graph.collapse(large, inputs, 0)
    for name, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[name], labels, name)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        expected = play(base, episodes())
        assert_same(play(large, episodes()), expected)
        assert_same(play(found.policy, episodes()), expected)


def test_copies_of_a_neuron_whose_input_cancels_out_are_dead_together():
    base, inputs = nature()
    with torch.no_grad():
        for layer in (base.policy.network[2], base.policy.network[7]):
            layer.weight[3] = layer.bias[3] = 0
    fibers = {
        "policy.network.2": np.append(np.arange(64), [3, 3]),
        "policy.network.7": np.append(np.arange(24), 3),
    }
    fibers["policy.network.0"] = np.arange(64) % 32
    fibers["policy.network.4"] = np.arange(96) % 64
    large = graph.lift(base, inputs, fibers)
    with torch.no_grad():  # what the dead rows read sums to zero over each fiber, and only then
        noise = torch.randn(3, 32, 4, 4).double()
        large.policy.network[2].weight[[3, 64, 65]] = torch.cat([noise, -noise], 1) + 1e-17
        noise = torch.randn(2, 32, 4).double()
        large.policy.network[7].weight[[3, 24]] = torch.cat([noise, 0 * noise, -noise], 1).flatten(1) + 1e-17
    found = graph.collapse(large, inputs, 0)
    for name, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[name], labels, name)


def test_the_lifts_of_these_tests_split_weights_unevenly_and_differently_row_by_row():
    base, inputs = nature()
    large, fibers = lifted(base, inputs)
    read, written = (
        np.flatnonzero(labels == np.bincount(labels).argmax())[:2]
        for labels in (fibers["policy.network.0"], fibers["policy.network.2"])
    )
    weight = large.policy.network[2].weight.detach()
    one, other = weight[:, read].unbind(1)
    assert (one / other).std() > 0.1
    one, other = weight[written]
    assert (one - other).abs().max() > 1e-3


POLICIES = {
    "discrete": (gymnasium.spaces.Box(-1, 1, (7,)), gymnasium.spaces.Discrete(4)),
    "multi-discrete": (gymnasium.spaces.Box(-1, 1, (7,)), gymnasium.spaces.MultiDiscrete([3, 2])),
    "continuous": (gymnasium.spaces.Box(-1, 1, (7,)), gymnasium.spaces.Box(-1, 1, (3,))),
}


@pytest.mark.parametrize("actions", POLICIES)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_default_policies_of_every_action_kind(actions, layers):
    env = world(*POLICIES[actions])
    policy = pufferlib.models.Default(env, hidden_size=16)
    x = torch.randn(3, 7, dtype=torch.float64)
    inputs = (x,)
    if layers:
        policy, inputs = pufferlib.models.LSTMWrapper(env, policy, 16, 16, layers), (x, None)
    base = random_(policy)
    large, fibers = lifted(base, inputs)
    found = graph.collapse(large, inputs, 0)
    assert {
        name: labels.tolist() for name, labels in found.fibers.items() if found.reasons[name] is None
    } == {name: labels.tolist() for name, labels in fibers.items()}
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(flat(found.policy(*inputs)), flat(large(*inputs)))
        assert_same(flat(found.policy(*inputs)), flat(base(*inputs)))


@pytest.mark.parametrize("recurrent", [False, True])
def test_residual_streams_are_refined_with_the_blocks_that_read_them(recurrent):
    base, inputs = (
        pufferlib.models.ProcgenResnet(PROCGEN, cnn_width=6, mlp_width=10),
        (screens(2, shape=(16, 16, 3)).double(),),
    )
    if recurrent:
        base, inputs = pufferlib.models.LSTMWrapper(PROCGEN, base, 10, 10, 2), (*inputs, None)
    large, fibers = lifted(random_(base), inputs)
    found = graph.collapse(large, inputs, 0)
    for name, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[name], labels, name)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(flat(found.policy(*inputs)), flat(base(*inputs)))
        assert_same(flat(large(*inputs)), flat(base(*inputs)))
    stream = found.policy.get_submodule("policy.network.0" if recurrent else "network.0")
    assert stream._out_channels == 6


class TwoTowers(nn.Module):
    """Separate actor and critic networks."""

    def __init__(self):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
        self.critic = nn.Sequential(nn.Linear(5, 10), nn.Tanh(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 1))

    def forward(self, x):
        return self.actor(x), self.critic(x).squeeze(-1)


def test_what_only_the_value_reads_is_of_the_critic_kind():
    base, inputs = random_(TwoTowers()), (torch.randn(3, 5, dtype=torch.float64),)
    large, fibers = lifted(base, inputs)
    found = graph.collapse(large, inputs, {"default": 0, "critic": 2})
    assert found.kinds == {
        "actor.0": "linear", "actor.2": "linear", "actor.4": "linear",
        "critic.0": "critic", "critic.2": "critic", "critic.4": "critic",
    }  # fmt: skip
    np.testing.assert_array_equal(found.fibers["actor.2"], fibers["actor.2"])
    assert found.fibers["critic.0"].max() == found.fibers["critic.2"].max() == 0
    with torch.no_grad():
        assert_same(found.policy(*inputs)[:1], base(*inputs)[:1])


def test_single_precision_finds_the_same_fibers():
    base, inputs = random_(TwoTowers()), (torch.randn(3, 5, dtype=torch.float64),)
    large, fibers = lifted(base, inputs, grow=4)
    large, inputs = large.to(torch.float32), (inputs[0].to(torch.float32),)
    found = graph.collapse(large, inputs, 0)
    for name, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[name], labels, name)
    with torch.no_grad():
        assert_same(found.policy(*inputs), large(*inputs), 1e-5)


def gradients(policy, loss):
    policy.zero_grad()
    loss(policy).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}


def loss_over(chunks):
    def loss(policy):
        outputs = play(policy, chunks)
        return sum((x.sin() * torch.arange(1, x.shape[-1] + 1)).sum() for x in outputs)

    return loss


@pytest.mark.parametrize("layers", [1, 2])
def test_the_dual_map_of_a_lifted_networks_gradient_is_the_bases_gradient(layers):
    base, inputs = nature(layers=layers)
    large, fibers = lifted(base, inputs)
    found = graph.collapse(large, inputs, 0)
    loss = loss_over(episodes())
    expected = gradients(base, loss)
    dual = quotient.dual(gradients(large, loss), found.network.table, found.fibers)
    assert dual.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max()
        torch.testing.assert_close(dual[name] / scale, expected[name] / scale, rtol=0, atol=1e-10)


def test_a_residual_networks_gradient_too():
    base = random_(pufferlib.models.ProcgenResnet(PROCGEN, cnn_width=4, mlp_width=10))
    inputs = (screens(2, shape=(16, 16, 3)).double(),)
    large, fibers = lifted(base, inputs)

    def loss(policy):
        return sum(x.sin().sum() for x in policy(*inputs))

    expected = gradients(base, loss)
    dual = quotient.dual(gradients(large, loss), graph.trace(large, inputs).network.table, fibers)
    for name in expected:
        torch.testing.assert_close(dual[name], expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_collapsed_policy_is_rebuilt_from_its_shapes(layers):
    full, inputs = nature(layers=layers)
    collapsed = graph.collapse(full, inputs, {"default": 0.9, "lstm": 1.2}).policy
    shapes = {name: list(tensor.shape) for name, tensor in collapsed.state_dict().items()}
    assert shapes != {name: list(tensor.shape) for name, tensor in full.state_dict().items()}
    fresh, _ = nature(layers=layers)
    rebuilt = graph.resize(fresh, shapes, inputs)
    rebuilt.load_state_dict(collapsed.state_dict())
    with torch.no_grad():
        assert_same(play(rebuilt, episodes()), play(collapsed, episodes()), 0)
    assert (rebuilt.input_size, rebuilt.hidden_size) == (collapsed.input_size, collapsed.hidden_size)
    assert rebuilt.policy.network[7].out_features == collapsed.input_size < full.input_size
    assert rebuilt.recurrent.hidden_size == collapsed.hidden_size < full.hidden_size


def test_a_collapsed_resnet_is_rebuilt_from_its_shapes():
    def make():
        return random_(pufferlib.models.ProcgenResnet(PROCGEN, cnn_width=8, mlp_width=12))

    inputs = (screens(2, shape=(16, 16, 3)).double(),)
    collapsed = graph.collapse(make(), inputs, 1.0).policy
    shapes = {name: list(tensor.shape) for name, tensor in collapsed.state_dict().items()}
    rebuilt = graph.resize(make(), shapes, inputs)
    rebuilt.load_state_dict(collapsed.state_dict())
    with torch.no_grad():
        assert_same(flat(rebuilt(*inputs)), flat(collapsed(*inputs)), 0)
    assert rebuilt.network[0]._out_channels == collapsed.network[0]._out_channels < 8


def test_collapse_takes_the_policys_state_and_every_threshold_between_nothing_and_all():
    base, (x, _) = nature(layers=2)
    inputs = (x, (torch.zeros(2, 2, 20).double(), torch.zeros(2, 2, 20).double()))
    sizes = []
    for threshold in (0, 0.5, 0.9, 1.0, 2):
        found = graph.collapse(base, inputs, threshold)
        sizes.append(found.report.params_after)
        width = found.policy.hidden_size
        state = (torch.zeros(2, 2, width).double(),) * 2
        assert [tuple(t.shape) for t in flat(found.policy(x, state))] == [(2, 6), (2, 1)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == sum(p.numel() for p in base.parameters())
    assert all(row["fibers"] == 1 for row in found.report.rows if row["reason"] is None)


def test_layers_of_one_lstm_end_at_one_width_and_padding_computes_the_same():
    base, inputs = nature(layers=2)
    grown = {"recurrent.l0": np.arange(30) % 20, "recurrent.l1": np.arange(30) % 20}
    large = graph.lift(base, inputs, grown, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # make the second layer's units 10 .. 19 copies of 0 .. 9, too
        for name, p in large.recurrent.named_parameters():
            if name.endswith("l1"):
                gates = p.unflatten(0, (4, 30))
                gates[:, 10:20] = gates[:, :10]
                gates[:, 20:30] = gates[:, :10]
    found = graph.collapse(large, inputs, 0)
    assert found.reasons["recurrent.l0"] is None
    assert "10 fibers more" in found.reasons["recurrent.l1"]
    assert found.policy.hidden_size == 20
    with torch.no_grad():
        assert_same(play(found.policy, episodes()), play(large, episodes()))


def test_published_mode_runs_on_the_same_policies():
    base, inputs = nature(layers=2)
    large, fibers = lifted(base, inputs)
    found = graph.collapse(large, inputs, 1e-9, published=True)
    np.testing.assert_array_equal(found.fibers["policy.network.7"], fibers["policy.network.7"])


def test_frames_in_color_with_channels_last():
    env = world(frames((44, 44, 3)), gymnasium.spaces.Discrete(6))
    policy = pufferlib.models.Convolutional(
        env, framestack=3, flat_size=256, hidden_size=12, output_size=12, channels_last=True
    )
    inputs = (screens(2, shape=(44, 44, 3)),)
    base = random_(policy)
    large, fibers = lifted(base, inputs)
    assert_same_policy(graph.collapse(large, inputs, 0).policy, base)
