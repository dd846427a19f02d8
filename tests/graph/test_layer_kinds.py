"""Layer kinds: each with planted symmetry, collapsed back to its base, or left whole with a reason."""

import copy

import numpy as np
import pytest
import torch
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


def test_embeddings_write_neurons():
    def forward(net, x):
        ids = (x * 100).long() % 7
        return two_heads(net, net.fc(net.table(ids).relu().mean(1) + net.place(torch.zeros(1).long())))

    layers = dict(table=nn.Embedding(7, 6, padding_idx=2), place=nn.Embedding(2, 6), fc=nn.Linear(6, 9))
    assert_exact(net_of(forward, **layers), inputs(3, 4), ["table", "fc"])


def test_embeddings_that_do_more_than_look_up():
    def forward(net, x):
        return two_heads(net, net.fc(net.table((x * 100).long() % 7).relu().mean(1)))

    bounded = net_of(forward, table=nn.Embedding(7, 6, max_norm=1.0), fc=nn.Linear(6, 9))
    assert "computes with table.weight" in graph.collapse(bounded, inputs(3, 4), 2).reasons["table"]
    bag = net_of(
        lambda net, x: two_heads(net, net.fc(net.table((x * 100).long() % 7))),
        table=nn.EmbeddingBag(7, 6),
        fc=nn.Linear(6, 9),
    )
    with pytest.raises(UserError, match=r"`embedding_bag` in table is unknown: .*ignore=\['table'\]"):
        graph.collapse(bag, inputs(3, 4))
    assert graph.collapse(bag, inputs(3, 4), 2, ignore=["table"]).widths["fc"] == 1
