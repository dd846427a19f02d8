"""Layer kinds: each with planted symmetry, collapsed back to its base, or left whole with a reason."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import Net, assert_same, assert_same_policy, inputs, lifted, random_, two_heads
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")


def net_of(forward, training=False, **layers):
    """A policy with random parameters and running statistics, its features 9 wide."""
    net = random_(Net(forward, **layers, actor=nn.Linear(9, 3), critic=nn.Linear(9, 1)))
    generator = torch.Generator().manual_seed(1)
    for name, buffer in net.named_buffers():
        if buffer.ndim:
            noise = torch.randn(buffer.shape, generator=generator).double()
            buffer.copy_(noise.exp() if name.endswith("var") else noise)
    return net.train(training)


def outputs(net, given):
    with torch.no_grad():
        return copy.deepcopy(net)(*given)  # a norm in training changes


def assert_exact(base, given, merged, whole=()):
    """A lift of base collapses to it, and all three compute the same.  merged: spaces that are lifted"""
    large, fibers = lifted(base, given)
    assert set(fibers) == set(merged)
    found = graph.collapse(large, given, 0)
    for space, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    assert_same_policy(found.policy, base)
    assert {type(m): vars(m).get("groups") for m in found.policy.modules()} == {
        type(m): vars(m).get("groups") for m in base.modules()
    }
    assert str(found.policy) == str(base)  # the sizes that modules keep
    assert_same(outputs(large, given), outputs(base, given))
    assert_same(outputs(found.policy, given), outputs(base, given))
    faithful = graph.collapse(large, given, 0, colors="faithful").policy
    assert_same(outputs(faithful, given), outputs(base, given))
    small = graph.collapse(large, given, 2)
    assert all(small.widths[space] == 1 for space in merged)
    assert set(whole) <= {space for space, reason in small.reasons.items() if reason}
    outputs(small.policy, given)


def normed(net, x):
    x = net.norm(net.a(x))
    return two_heads(net, net.fc(x.relu().flatten(1)))


def residual_norms(net, x):
    x = net.n1(net.a(x)).relu()
    x = (x + net.n2(net.b(net.n3(net.c(x)).relu()))).relu()
    return two_heads(net, net.fc(x.mean(dim=(2, 3))))


def flat_norm(net, x):
    return two_heads(net, net.fc(net.norm(net.a(x).flatten(1)).tanh()))


def conv(d, *args, **kwargs):
    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1](*args, **kwargs)


def batch_norm(d, *args, **kwargs):
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d - 1](*args, **kwargs)


NORMS = {
    "affine": {},
    "not affine": dict(affine=False),
    "no statistics": dict(track_running_stats=False),
    "nothing kept": dict(affine=False, track_running_stats=False),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kept", NORMS)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_batch_norm(d, kept, training):
    layers = dict(a=conv(d, 2, 5, 2), norm=batch_norm(d, 5, **NORMS[kept]), fc=nn.Linear(5 * 2**d, 9))
    assert_exact(net_of(normed, training, **layers), inputs(4, 2, *[3] * d), ["a", "fc"])


def test_norms_on_a_residual_stream():
    layers = dict(a=nn.Conv2d(2, 5, 1), b=nn.Conv2d(7, 5, 1), c=nn.Conv2d(5, 7, 3, padding=1, bias=False))
    layers |= dict(n1=nn.BatchNorm2d(5), n2=nn.BatchNorm2d(5), n3=nn.BatchNorm2d(7), fc=nn.Linear(5, 9))
    assert_exact(net_of(residual_norms, **layers), inputs(3, 2, 4, 4), ["a", "c", "fc"])


def test_a_norm_of_flattened_channels_keeps_its_places():
    layers = dict(a=nn.Conv1d(2, 5, 2), norm=nn.BatchNorm1d(20), fc=nn.Linear(20, 9))
    assert_exact(net_of(flat_norm, **layers), inputs(6, 2, 5), ["a", "fc"])


def test_instance_norm():
    norm = nn.InstanceNorm1d(5, affine=True, track_running_stats=True)
    layers = dict(a=nn.Conv1d(2, 5, 2), norm=norm, fc=nn.Linear(20, 9))
    for training in (True, False):
        assert_exact(net_of(normed, training, **layers), inputs(6, 2, 5), ["a", "fc"])


def test_running_statistics_go_on_from_their_means():
    base = net_of(normed, True, a=nn.Conv1d(2, 5, 2), norm=nn.BatchNorm1d(5), fc=nn.Linear(20, 9))
    given = inputs(6, 2, 5)
    large, _ = lifted(base, given)
    found = graph.collapse(large, given, 0).policy
    for net in (base, large, found):
        net(*given)
    assert_same(found.norm.state_dict().values(), base.norm.state_dict().values())
    assert int(large.norm.num_batches_tracked) == 1


def test_a_policy_in_training_keeps_its_statistics_while_it_is_measured():
    net = net_of(normed, True, a=nn.Conv1d(2, 5, 2), norm=nn.BatchNorm1d(5), fc=nn.Linear(20, 9))
    given, before = inputs(6, 2, 5), copy.deepcopy(net.state_dict())
    found = graph.collapse(net, given, 1.0, calibrate=[given])
    assert found.widths["a"] < 5
    statistics = copy.deepcopy(found.policy.norm.state_dict())
    graph.divergence(net, found.policy, [given], found.network, found.merges)
    assert_same(net.state_dict().values(), before.values(), 0)
    assert_same(found.policy.norm.state_dict().values(), statistics.values(), 0)
    assert found.policy.norm.num_batches_tracked == 0


def test_a_norms_size_does_not_outweigh_the_weights():
    """Channels of different weights and like statistics stay apart, in whatever unit the observations are."""
    base = net_of(normed, a=nn.Conv1d(2, 5, 2), norm=nn.BatchNorm1d(5), fc=nn.Linear(20, 9))
    base.norm.running_var.fill_(900.0), base.norm.running_mean.fill_(200.0)
    base.norm.weight.data.fill_(1), base.norm.bias.data.fill_(0)
    bare = net_of(lambda net, x: two_heads(net, net.fc(net.a(x).flatten(1))), a=base.a, fc=base.fc)
    given = inputs(6, 2, 5)
    for threshold in (0.1, 0.5, 0.8):
        np.testing.assert_array_equal(
            graph.collapse(base, given, threshold).fibers["a"],
            graph.collapse(bare, given, threshold).fibers["a"],
        )


def test_the_unit_of_observations_changes_no_colors():
    base = net_of(normed, a=nn.Conv1d(2, 12, 2), norm=nn.BatchNorm1d(12, eps=0), fc=nn.Linear(48, 9))
    large = copy.deepcopy(base)
    large.norm.running_mean *= 1000
    large.norm.running_var *= 1000**2
    counts = []
    for threshold in (0.3, 0.5, 0.7):
        fibers = [graph.collapse(net, inputs(6, 2, 5), threshold).fibers["a"] for net in (base, large)]
        np.testing.assert_array_equal(*fibers)
        counts.append(fibers[0].max() + 1)
    assert 1 < counts[-1] < counts[0] < 12


MIXING = {
    "layer norm": (nn.LayerNorm(6), "`layer_norm` in norm mixes its neurons"),
    "layer norm without parameters": (nn.LayerNorm(6, elementwise_affine=False), "`layer_norm` in norm"),
    "rms norm": (nn.RMSNorm(6), "`rms_norm` in norm mixes its neurons"),
    "group norm": (nn.GroupNorm(2, 6), "`group_norm` in norm mixes its neurons"),
}


@pytest.mark.parametrize("name", MIXING)
def test_norms_over_neurons_keep_them_whole_and_what_is_behind_merges(name):
    norm, reason = MIXING[name]

    def forward(net, x):
        return two_heads(net, net.c(net.norm(net.b(net.a(x).relu())).tanh()).relu())

    layers = dict(a=nn.Linear(5, 8), b=nn.Linear(8, 6), norm=norm, c=nn.Linear(6, 9))
    base, given = net_of(forward, **layers), inputs(3, 5)
    assert_exact(base, given, ["a", "c"], whole=["b"])
    found = graph.collapse(base, given, 2)
    assert found.reasons["b"].startswith(reason)
    for p, q in zip(base.norm.parameters(), found.policy.norm.parameters(), strict=True):
        assert torch.equal(p, q)


def depthwise(net, x):
    x = net.norm(net.dw(net.a(x).relu())).relu()
    return two_heads(net, net.fc(net.pw(x).relu().flatten(1)))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise_convolutions_are_scales_of_channels(d, bias):
    layers = dict(a=conv(d, 2, 5, 1), dw=conv(d, 5, 5, 2, groups=5, bias=bias), norm=batch_norm(d, 5))
    layers |= dict(pw=conv(d, 5, 4, 1), fc=nn.Linear(4 * 2**d, 9))
    base, given = net_of(depthwise, **layers), inputs(3, 2, *[3] * d)
    assert_exact(base, given, ["a", "pw", "fc"])
    found = graph.collapse(lifted(base, given)[0], given, 0).policy
    assert (found.dw.in_channels, found.dw.out_channels, found.dw.groups) == (5, 5, 5)
    assert graph.collapse(base, given, 2).policy.dw.groups == 1


def test_a_channel_and_its_filter_both_doubled_are_four_times_as_large():
    layers = dict(a=nn.Conv1d(2, 5, 1), dw=nn.Conv1d(5, 5, 2, groups=5), fc=nn.Linear(15, 9))
    net = net_of(lambda net, x: two_heads(net, net.fc(net.dw(net.a(x).relu()).relu().flatten(1))), **layers)
    with torch.no_grad():
        for p in (net.a.weight, net.a.bias, net.dw.weight, net.dw.bias):
            p[1] = 2 * p[0]
    found = graph.collapse(net, inputs(3, 2, 4), 0, colors="faithful")
    assert_same(outputs(found.policy, inputs(3, 2, 4)), outputs(net, inputs(3, 2, 4)))


def test_a_number_of_groups_that_a_policy_keeps():
    class Depthwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel, self.groups, self.a = nn.Parameter(torch.ones(6, 1, 3)), 6, nn.Conv1d(2, 6, 1)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            y = nn.functional.conv1d(self.a(x), self.kernel, groups=self.groups)
            return self.head(y.mean(2))

    base = random_(Depthwise())
    large, fibers = lifted(base, inputs(3, 2, 5))
    assert large.groups == 9 and set(fibers) == {"a"}
    found = graph.collapse(large, inputs(3, 2, 5), 0).policy
    assert found.groups == 6
    assert_same_policy(found, base)


GROUPED = {
    "groups": (nn.Conv1d(6, 6, 1, groups=3), 6),
    "several for each channel": (nn.Conv1d(6, 12, 1, groups=6), 12),
    "transposed": (nn.ConvTranspose1d(6, 6, 1, groups=2), 6),
    "transposed without bias": (nn.ConvTranspose1d(6, 12, 1, groups=6, bias=False), 12),
}


@pytest.mark.parametrize("name", GROUPED)
def test_other_groups_are_left_whole(name):
    layer, width = GROUPED[name]
    layers = dict(a=nn.Conv1d(2, 6, 1), b=layer, fc=nn.Linear(3 * width, 9))
    base, given = (
        net_of(lambda net, x: two_heads(net, net.fc(net.b(net.a(x)).flatten(1))), **layers),
        inputs(3, 2, 3),
    )
    assert_exact(base, given, ["fc"], whole=["a"])
    reasons = graph.collapse(base, given, 2).reasons
    assert "in b has groups" in reasons["a"]
    if layer.bias is not None:
        assert "in b has groups" in reasons["b"]


@pytest.mark.parametrize("d", [1, 2, 3])
def test_transposed_convolutions(d):
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1]
    layers = dict(a=nn.Linear(5, 4), up=kind(4, 6, 2), dw=kind(6, 6, 2, groups=6), fc=nn.Linear(6 * 3**d, 9))

    def forward(net, x):
        x = net.a(x).relu().reshape(len(x), -1, *[1] * d)
        return two_heads(net, net.fc(net.dw(net.up(x).relu()).relu().flatten(1)))

    base, given = net_of(forward, **layers), inputs(3, 5)
    assert_exact(base, given, ["a", "up", "fc"])
    assert graph.collapse(lifted(base, given)[0], given, 0).policy.up.in_channels == 4


ELEMENTWISE = {
    "glu": (lambda net, h: nn.functional.glu(h), nn.Identity(), 12),
    "glu of channels": (lambda net, h: nn.functional.glu(h[:, :, None], 1)[:, :, 0], nn.Identity(), 12),
    "prelu": (lambda net, h: net.bend(h), nn.PReLU(), 6),
    "prelu of channels": (lambda net, h: net.bend(h[:, :, None].expand(-1, -1, 2)).mean(2), nn.PReLU(6), 6),
    "a place to put it": (lambda net, h: torch.sigmoid(h, out=None), nn.Identity(), 6),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_gates_and_slopes(name):
    between, bend, units = ELEMENTWISE[name]
    layers = dict(a=nn.Linear(5, units), bend=bend, fc=nn.Linear(6, 9))
    net = net_of(lambda net, x: two_heads(net, net.fc(between(net, net.a(x)))), **layers)
    given, free = inputs(3, 5), {row["space"]: row["units"] for row in graph.spaces(net, inputs(3, 5)).rows}
    assert free["a"] == 6
    assert_exact(net, given, ["a", "fc"])


def test_a_gate_for_each_channel():
    def forward(net, x):
        h = net.a(x).relu()
        gate = net.up(net.down(h.mean((2, 3))).relu()).sigmoid()
        return two_heads(net, net.fc((h * gate[:, :, None, None]).flatten(1)))

    layers = dict(a=nn.Conv2d(2, 6, 3), down=nn.Linear(6, 3), up=nn.Linear(3, 6), fc=nn.Linear(24, 9))
    assert_exact(net_of(forward, **layers), inputs(3, 2, 4, 4), ["a", "down", "fc"])


def test_lengths_and_spreads_over_neurons_keep_them_whole():
    for between in (
        lambda h: nn.functional.normalize(h, dim=-1),
        lambda h: h - h.std(1, keepdim=True),
        lambda h: h.softmax(-1),
    ):
        layers = dict(a=nn.Linear(5, 6), fc=nn.Linear(6, 9))
        net = net_of(lambda net, x, f=between: two_heads(net, net.fc(f(net.a(x)))), **layers)
        assert_exact(net, inputs(3, 5), ["fc"], whole=["a"])


def test_a_norm_over_several_layers_leaves_them_whole():
    def forward(net, x):
        h = net.norm(torch.cat([net.a(x), net.b(x)], 1)).relu()
        return two_heads(net, net.fc(h.flatten(1)))

    layers = dict(a=nn.Conv1d(2, 5, 1), b=nn.Conv1d(2, 3, 1), norm=nn.BatchNorm1d(8), fc=nn.Linear(24, 9))
    assert_exact(net_of(forward, **layers), inputs(4, 2, 3), ["fc"], whole=["a", "b"])


def test_embeddings_write_neurons():
    def forward(net, x):
        ids = (x * 100).long() % 7
        return two_heads(net, net.fc(net.table(ids).relu().mean(1) + net.place(torch.zeros(1).long())))

    layers = dict(table=nn.Embedding(7, 6, padding_idx=2), place=nn.Embedding(2, 6), fc=nn.Linear(6, 9))
    assert_exact(net_of(forward, **layers), inputs(3, 4), ["table", "fc"])


def test_neurons_that_embeddings_are_looked_up_by_stay_whole():
    def forward(net, x):
        return two_heads(net, net.fc(net.table((net.a(x) > 0).long()).sum(1)))

    base = net_of(forward, a=nn.Linear(5, 7), table=nn.Embedding(2, 6), fc=nn.Linear(6, 9))
    assert_exact(base, inputs(3, 5), ["table", "fc"], whole=["a"])
    assert graph.collapse(base, inputs(3, 5), 2).reasons["a"] == "`embedding` in table looks rows up by it"


def test_embeddings_that_do_more_than_look_up():
    def forward(net, x):
        return two_heads(net, net.fc(net.table((x * 100).long() % 7).relu().mean(1)))

    bounded = net_of(forward, table=nn.Embedding(7, 6, max_norm=1.0), fc=nn.Linear(6, 9))
    assert "computes with table.weight" in graph.collapse(bounded, inputs(3, 4), 2).reasons["table"]
    for mode in ("mean", "sum", "max"):
        bag = net_of(
            lambda net, x: two_heads(net, net.fc(net.table((x * 100).long() % 7))),
            table=nn.EmbeddingBag(7, 6, mode=mode),
            fc=nn.Linear(6, 9),
        )
        assert_exact(bag, inputs(3, 4), ["table", "fc"])


def transformer(**kwargs):
    block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True, **kwargs)
    return nn.TransformerEncoder(block, 2)


def attended(net, x):
    masked = x[..., 0] > 1
    masked = masked & (torch.arange(x.shape[1]) > 0)
    return two_heads(net, net.fc(net.blocks(net.a(x), src_key_padding_mask=masked)).mean(1))


def test_a_transformer_as_it_comes():
    """In evaluation torch takes a fused path with nested tensors; not while traced, and after that again."""
    layers = dict(a=nn.Linear(5, 8), blocks=transformer(), fc=nn.Linear(8, 9))
    base, given = net_of(attended, **layers), inputs(3, 4, 5)
    block = "blocks.layers.0."
    free = ["blocks.layers.0.linear1", "blocks.layers.1.linear1", "fc"]
    assert_exact(base, given, free, whole=["a", block + "self_attn.in_proj_weight"])
    reasons = graph.collapse(base, given, 2).reasons
    cut = "`multi_head_attention_forward` in blocks.layers.0.self_attn cuts heads at fixed places"
    assert reasons[block + "self_attn.in_proj_weight"] == cut
    assert reasons["a"] == cut  # with all else that the residual stream adds


def test_attention_with_keys_and_values_of_other_widths():
    def forward(net, x):
        seen, _ = net.mix(net.q(x), net.k(x), net.v(x))
        return two_heads(net, net.fc(seen).tanh().mean(1))

    mix = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    layers = dict(q=nn.Linear(5, 8), k=nn.Linear(5, 6), v=nn.Linear(5, 4), mix=mix, fc=nn.Linear(8, 9))
    whole = ["q", "k", "v", "mix.q_proj_weight", "mix.k_proj_weight", "mix.v_proj_weight", "mix.out_proj"]
    assert_exact(net_of(forward, **layers), inputs(3, 4, 5), ["fc"], whole)


UNFOLLOWED = {
    "both directions": (
        lambda net, h: net.m(h)[0][..., :6],
        nn.LSTM(6, 6, bidirectional=True),
        "both directions",
    ),
    "projected": (lambda net, h: net.m(h)[0], nn.LSTM(6, 8, proj_size=6), "proj_size"),
    "packed": (lambda net, h: packed(net, h), nn.GRU(6, 6), "packed sequences are not followed"),
    "computed weights": (
        lambda net, h: torch.lstm_cell(h[:, 0], (h[:, 1],) * 2, net.m.exp(), net.m, net.b, net.b)[0][:, None],
        nn.Parameter(torch.ones(24, 6)),
        "its weights are computed",
    ),
}


def packed(net, h):
    whole = nn.utils.rnn.pack_padded_sequence(h, torch.tensor([4, 2, 1]), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(net.m(whole)[0], batch_first=True)[0]


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_what_is_not_followed_is_refused_with_the_way_out_and_can_be_ignored(name):
    between, layer, words = UNFOLLOWED[name]

    def forward(net, x):
        return two_heads(net, net.fc(between(net, net.a(x))).relu().mean(1))

    layers = dict(a=nn.Linear(5, 6), m=layer, b=nn.Parameter(torch.ones(24)), fc=nn.Linear(6, 9))
    base, given = net_of(forward, **layers), inputs(3, 4, 5)
    with pytest.raises(
        UserError, match=rf"cannot be traced: .*{words}.*, or leave what .* whole with ignore=\["
    ):
        graph.collapse(base, given)
    ignore = ["a", "m"] if isinstance(layer, nn.Module) else ["a"]
    found = graph.collapse(base, given, 2, ignore=ignore)
    assert found.widths["a"] == 6 and found.widths["fc"] == 1
    same = graph.collapse(base, given, 0, ignore=ignore)
    assert_same(outputs(same.policy, given), outputs(base, given), 0)


def test_what_an_ignored_operation_computes_with_is_held_elsewhere_too():
    """A parameter tied to one inside an ignored module keeps its shape in both places."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, 6))

        def forward(self, x):
            return torch.cdist(x, self.weight)

    def forward(net, x):
        return two_heads(net, net.fc(torch.cat([net.b(net.a(x)).relu(), net.inner(x)], 1)))

    base = net_of(forward, a=nn.Linear(6, 6), b=nn.Linear(6, 6), inner=Inner(), fc=nn.Linear(12, 9))
    base.b.weight = base.inner.weight
    with pytest.raises(UserError, match=r"`cdist` in inner is unknown: .* ignore=\['inner'\]"):
        graph.collapse(base, inputs(3, 6))
    found = graph.collapse(base, inputs(3, 6), 2, ignore=["inner"])
    assert found.policy.b.weight is found.policy.inner.weight and found.policy.b.weight.shape == (6, 6)
    assert found.reasons["a"] == found.reasons["b"] == "`cdist` in inner computes with b.weight"


def test_dicts_in_and_out():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.eye, self.body = nn.Conv2d(1, 4, 3), nn.Linear(5, 6)
            self.fc, self.actor, self.critic = nn.Linear(22, 9), nn.Linear(9, 3), nn.Linear(9, 1)

        def forward(self, seen):
            h = torch.cat([self.eye(seen["image"]).relu().flatten(1), self.body(seen["state"]).tanh()], 1)
            h = self.fc(h).tanh()
            return {"logits": self.actor(h), "more": {"value": self.critic(h)}}

    base, (image,), (state,) = random_(Both()), inputs(3, 1, 4, 4), inputs(3, 5)
    given = ({"image": image, "state": state},)
    large, fibers = lifted(base, given)
    found = graph.collapse(large, given, 0, value="more.value")
    assert set(fibers) == {"eye", "body", "fc"} and found.kinds["critic"] == "critic"
    assert_same_policy(found.policy, base)
    assert_same(outputs(found.policy, given)["more"].values(), outputs(base, given)["more"].values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_in_a_transformer_the_feed_forward_spaces_merge_and_attention_stays_whole(training, first):
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=first)
    net = Net(
        lambda net, x: two_heads(net, net.blocks(net.a(x)).mean(1)),
        a=nn.Linear(5, 8),
        blocks=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        actor=nn.Linear(8, 3),
        critic=nn.Linear(8, 1),
    )
    base = random_(net).train(training)
    rows = {row["space"]: row["reason"] for row in graph.spaces(base, inputs(3, 4, 5)).rows}
    assert rows["blocks.layers.0.linear1"] is rows["blocks.layers.1.linear1"] is None
    assert rows["a"] is not None
    large, fibers = lifted(base, inputs(3, 4, 5))
    assert large.blocks.layers[0].linear1.out_features == 18
    found = graph.collapse(large, inputs(3, 4, 5), 0)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(found.policy(*inputs(3, 4, 5)), base(*inputs(3, 4, 5)))


def test_scores_of_attention_written_by_hand_keep_queries_and_keys_whole_and_let_values_merge():
    def attend(net, x):
        q, k, v = net.q(x), net.k(x), net.v(x)
        return two_heads(net, net.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v).mean(1))

    layers = {name: nn.Linear(5, 6) for name in ("q", "k", "v")}
    base = random_(Net(attend, **layers, out=nn.Linear(6, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1)))
    rows = {row["space"]: row["reason"] for row in graph.spaces(base, inputs(3, 4, 5)).rows}
    assert rows["q"] is not None and rows["k"] is not None and rows["v"] is None
    large, _ = lifted(base, inputs(3, 4, 5))
    found = graph.collapse(large, inputs(3, 4, 5), 0)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(found.policy(*inputs(3, 4, 5)), base(*inputs(3, 4, 5)))


class Tied(nn.Module):
    """In the manner of PufferLib 3: an LSTM for training and a cell for acting share their weights."""

    def __init__(self, hidden=6):
        super().__init__()
        self.encoder, self.decoder, self.value = nn.Linear(5, 7), nn.Linear(hidden, 3), nn.Linear(hidden, 1)
        self.lstm, self.cell = nn.LSTM(7, hidden), nn.LSTMCell(7, hidden)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(self.cell, name, getattr(self.lstm, f"{name}_l0"))

    def forward(self, x):
        h, _ = self.lstm(self.encoder(x).relu())
        return self.decoder(h), self.value(h)

    def act(self, x, state):
        h, c = self.cell(self.encoder(x).relu(), state)
        return self.decoder(h), self.value(h), (h, c)


@pytest.mark.parametrize("method", ["forward", "act"])
def test_a_cell_tied_to_an_lstm_stays_tied(method):
    base = random_(Tied())
    example = (
        inputs(4, 3, 5) if method == "forward" else (inputs(3, 5)[0], (inputs(3, 6)[0], inputs(3, 6)[0]))
    )
    fibers = {"encoder": np.arange(9) % 7, ("lstm" if method == "forward" else "cell"): np.arange(10) % 6}
    names = {row["space"] for row in graph.spaces(base, example, method=method).rows}
    fibers = {name if name in names else "lstm": labels for name, labels in fibers.items()}
    large = graph.lift(base, example, fibers, method=method, generator=torch.Generator().manual_seed(0))
    state = None if method == "forward" else tuple(h[:, np.arange(10) % 6] for h in example[1])
    found = graph.collapse(large, example if state is None else (example[0], state), 0, method=method).policy
    assert found.cell.weight_ih is found.lstm.weight_ih_l0
    assert found.cell.hidden_size == found.lstm.hidden_size == 6
    assert_same_policy(found, base)
    with torch.no_grad():
        steps, (h, c) = [], (torch.zeros(3, 6).double(), torch.zeros(3, 6).double())
        for step in inputs(4, 3, 5)[0]:
            logits, _, (h, c) = found.act(step, (h, c))
            steps.append(logits)
        assert_same([torch.stack(steps)], [base(*inputs(4, 3, 5))[0]])


EDGES = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
MESSAGES = {
    "index_add": lambda h, m, to: torch.zeros_like(h).index_add_(0, to, m),
    "scatter_add": lambda h, m, to: h.new_zeros(h.shape).scatter_add(0, to[:, None].expand_as(m), m),
    "scatter_reduce": lambda h, m, to: torch.zeros_like(h).scatter_reduce(
        0, to[:, None].expand_as(m), m, "amax"
    ),
    "gather": lambda h, m, to: h.gather(0, to[:4, None].expand_as(h)) + m[:4],
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_between_the_nodes_of_a_graph(name):
    def forward(net, x):
        h = net.a(x).relu()
        sent = MESSAGES[name](h, net.send(h)[EDGES[0]], EDGES[1])
        return two_heads(net, net.fc(torch.cat([h, sent], -1)))

    layers = dict(a=nn.Linear(5, 6), send=nn.Linear(6, 6), fc=nn.Linear(12, 9))
    net = random_(net_of(forward, **layers))
    planted = ["a", "fc"] if name == "gather" else ["a", "send", "fc"]
    assert_exact(net, inputs(4, 5), planted)
    with torch.no_grad():  # two layers, of which one alone can lose units, stay as wide as each other
        net.send.weight[3:], net.send.bias[3:] = net.send.weight[:3].clone(), net.send.bias[:3].clone()
    found = graph.collapse(net, inputs(4, 5), 0)
    assert_same(found.policy(*inputs(4, 5)), net(*inputs(4, 5)))


ONE_VALUE = {
    "assigned": lambda h: assigned_in_halves(h, 1.0, 2.0),
    "filled": lambda h: torch.zeros_like(h).index_fill(1, torch.tensor([0]), 1.0),
    "scattered": lambda h: torch.zeros_like(h).scatter(1, torch.zeros(len(h), 1).long(), 1.0),
    "summed along": lambda h: torch.ones_like(h).cumsum(-1),
    "padded": lambda h: F.pad(torch.ones_like(h[:, :1]), (0, h.shape[1] - 1)),
}


def assigned_in_halves(h, left, right):
    made = torch.zeros_like(h)
    made[:, : h.shape[1] // 2], made[:, h.shape[1] // 2 :] = left, right
    return made


@pytest.mark.parametrize("name", ONE_VALUE)
def test_what_was_made_of_one_value_and_no_longer_is_keeps_its_units_apart(name):
    layers = dict(a=nn.Linear(5, 8), fc=nn.Linear(8, 9))
    net = net_of(lambda net, x: two_heads(net, net.fc(net.a(x) * ONE_VALUE[name](net.a(x)))), **layers)
    net = random_(net)
    with torch.no_grad():
        for p in net.a.parameters():
            p[4:] = p[:4]
    found = graph.collapse(net, inputs(1, 5), 0)
    assert sum(width for space, width in found.widths.items() if space.partition("[")[0] == "a") == 8
    assert_same(found.policy(*inputs(6, 5)), net(*inputs(6, 5)))


def test_channels_folded_shuffled_and_moved_to_space():
    def forward(net, x):
        h = F.pixel_unshuffle(net.a(x), 2)
        patches = F.unfold(net.b(h).relu(), 2, stride=2)
        return two_heads(net, net.fc(F.fold(patches * patches.sigmoid(), (2, 2), 2, stride=2).flatten(1)))

    layers = dict(a=nn.Conv2d(2, 3, 1), b=nn.Conv2d(12, 5, 1), fc=nn.Linear(20, 9))
    assert_exact(net_of(forward, **layers), inputs(2, 2, 4, 4), ["a", "b", "fc"])
    shuffled = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ChannelShuffle(2), nn.Conv2d(6, 3, 1))
    assert graph.collapse(shuffled.double(), inputs(2, 2, 4, 4), 2).reasons["0"]
