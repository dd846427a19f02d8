"""Tracing: every way in which neurons meet, on small networks with planted symmetry; and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import Net, assert_same, assert_same_policy, flat, inputs, lifted, nature, random_, two_heads
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")


HEADS = dict(actor=nn.Linear(9, 3), critic=nn.Linear(9, 1))


def gated(net, x):
    a, b = net.both(x).chunk(2, dim=-1)
    return two_heads(net, torch.tanh(a) * torch.sigmoid(b))


def concatenated(net, x):
    return two_heads(net, net.mix(torch.cat([net.a(x).relu(), x, net.b(x), net.a(-x)], dim=1)))


def residual(net, x):
    x = net.a(x)
    x = x + 0.5 * net.down(F.gelu(net.up(x)))
    return two_heads(net, x + net.b(x).tanh())


def attended(net, x):
    features = net.a(x)
    return two_heads(net, features * torch.sigmoid(net.gate(x)) / (features.square() + 1).sqrt())


def pooled(net, x):
    x = F.avg_pool2d(F.max_pool2d(F.pad(net.conv(x), (1, 1, 0, 1)), 2), 2, 1)
    x = torch.cat([x.mean(dim=(2, 3)), x.amax(3).permute(0, 2, 1).reshape(len(x), -1)], 1)
    return two_heads(net, net.fc(x))


def scaled(net, x):
    return two_heads(net, net.a(x) * net.scale + net.shift)


def volume(net, x):
    return two_heads(net, net.fc(F.relu(net.conv(x)).flatten(1)))


def started(net, x):
    h = net.first(x[0])[None].tanh()
    y, _ = net.lstm(x, (h, torch.zeros_like(h)))
    return two_heads(net, y)


def twice(net, x):
    return two_heads(net, net.b(net.b(net.a(x)).relu()).tanh())


EXACT = {
    "gates of one layer": (gated, dict(both=nn.Linear(5, 18)), (3, 5)),
    "concatenation": (concatenated, dict(a=nn.Linear(5, 4), b=nn.Linear(5, 6), mix=nn.Linear(19, 9)), (3, 5)),
    "residual stream": (
        residual,
        dict(a=nn.Linear(5, 9), up=nn.Linear(9, 14), down=nn.Linear(14, 9), b=nn.Linear(9, 9)),
        (3, 5),
    ),
    "a gate of one neuron": (attended, dict(a=nn.Linear(5, 9), gate=nn.Linear(5, 1)), (3, 5)),
    "pooling and padding": (pooled, dict(conv=nn.Conv2d(2, 6, 3), fc=nn.Linear(24, 9)), (3, 2, 9, 9)),
    "raw parameters": (
        scaled,
        dict(a=nn.Linear(5, 9), scale=nn.Parameter(torch.ones(9)), shift=nn.Parameter(torch.ones(1, 9))),
        (3, 5),
    ),
    "conv1d": (volume, dict(conv=nn.Conv1d(2, 5, 3), fc=nn.Linear(20, 9)), (3, 2, 6)),
    "conv3d": (volume, dict(conv=nn.Conv3d(2, 5, 2), fc=nn.Linear(40, 9)), (3, 2, 3, 3, 3)),
    "a computed initial state": (started, dict(first=nn.Linear(5, 9), lstm=nn.LSTM(5, 9)), (4, 3, 5)),
    "a layer that runs twice": (twice, dict(a=nn.Linear(5, 9), b=nn.Linear(9, 9)), (3, 5)),
    "no biases": (
        lambda net, x: two_heads(net, net.b(net.a(x).tanh())),
        dict(a=nn.Linear(5, 8, bias=False), b=nn.Linear(8, 9)),
        (3, 5),
    ),
}


@pytest.mark.parametrize("shape", [(1, 5), (5,), (2, 3, 5)])
def test_any_batch_will_do(shape):
    net = random_(Net(residual, **EXACT["residual stream"][1], **HEADS))
    assert list(graph.collapse(net, inputs(*shape), 0).fibers) == list(
        graph.collapse(net, inputs(3, 5), 0).fibers
    )
    assert graph.collapse(net, inputs(*shape), 2).report.params_after < 60


@pytest.mark.parametrize("name", EXACT)
def test_a_lift_collapses_to_its_base(name):
    forward, layers, shape = EXACT[name]
    base = random_(Net(forward, **layers, actor=nn.Linear(9, 3), critic=nn.Linear(9, 1)))
    large, fibers = lifted(base, inputs(*shape))
    rows = graph.spaces(base, inputs(*shape)).rows
    assert set(fibers) == {r["space"] for r in rows if r["units"] > 1} - {"actor"}  # all but the heads
    found = graph.collapse(large, inputs(*shape), 0)
    for space, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(large(*inputs(*shape)), base(*inputs(*shape)))
        assert_same(found.policy(*inputs(*shape)), base(*inputs(*shape)))


class Memory(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.encoder, self.cell = nn.Linear(4, 6), cell
        self.actor, self.critic = nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, x, state=None):
        features = self.encoder(x)
        if isinstance(self.cell, nn.RNNCellBase):
            hidden = []
            for step in features:
                state = self.cell(step, state)
                hidden.append(state[0] if isinstance(state, tuple) else state)
            h = torch.stack(hidden)
        else:
            h, state = self.cell(features, state)
        return self.actor(h), self.critic(h), state


CELLS = {
    "gru": lambda: nn.GRU(6, 5, 2),
    "lstm without biases": lambda: nn.LSTM(6, 5, bias=False),
    "batch first": lambda: nn.LSTM(6, 5, 2, batch_first=True),
    "rnn": lambda: nn.RNN(6, 5),
    "relu rnn": lambda: nn.RNN(6, 5, nonlinearity="relu"),
    "lstm cell": lambda: nn.LSTMCell(6, 5),
    "gru cell": lambda: nn.GRUCell(6, 5),
    "rnn cell": lambda: nn.RNNCell(6, 5),
}


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_cells(name):
    base, x = random_(Memory(CELLS[name]())), inputs(4, 3, 4)
    large, fibers = lifted(base, x)
    found = graph.collapse(large, x, 0)
    for space, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(found.policy(*x)[:2], large(*x)[:2])
        assert_same(found.policy(*x)[:2], base(*x)[:2])


def test_recurrent_state_is_resized_with_its_layer_also_when_masked():
    def forward(net, x, done, h, c):
        keep = (1 - done)[None, :, None]
        y, state = net.lstm(net.encoder(x), (h * keep, keep * c))
        return net.actor(y), net.critic(y), state

    net = random_(
        Net(
            forward,
            encoder=nn.Linear(4, 6),
            lstm=nn.LSTM(6, 9),
            actor=nn.Linear(9, 2),
            critic=nn.Linear(9, 1),
        )
    )
    state = torch.zeros(2, 1, 3, 9).double()
    found = graph.collapse(net, (*inputs(2, 3, 4), torch.zeros(3).double(), *state), 1.2)
    assert found.policy.lstm.hidden_size == found.fibers["lstm"].max() + 1 < 9
    assert found.reasons["lstm"] is None


def whole(forward, *shape, **layers):
    net = random_(Net(forward, **layers, actor=nn.Linear(9, 3), critic=nn.Linear(9, 1)))
    with torch.no_grad():
        found = graph.collapse(net, inputs(*shape), {"default": 2, "actor": 0})
        if all(found.reasons.values()):
            assert_same(found.policy(*inputs(*shape)), net(*inputs(*shape)), 0)
    return found.reasons


def test_observations_added_to_neurons_keep_them_whole():
    reasons = whole(
        lambda net, x: two_heads(net, net.b(net.a(x) + x)), 3, 5, a=nn.Linear(5, 5), b=nn.Linear(5, 9)
    )
    assert reasons["a"] == "`add` in Net joins it with what cannot be merged" and reasons["b"] is None


def test_channels_that_a_linear_layer_runs_over_stay_whole():
    def forward(net, x):
        return two_heads(net, net.c(net.b(net.a(x)).flatten(1)))

    reasons = whole(forward, 3, 2, 6, a=nn.Conv1d(2, 4, 1), b=nn.Linear(6, 5), c=nn.Linear(20, 9))
    assert reasons["a"] == "`linear` in b mixes it with others" and reasons["b"] is None


def test_fixed_vectors_and_pairings_keep_neurons_whole():
    fixed = torch.arange(9).double()
    reasons = whole(lambda net, x: two_heads(net, net.a(x) * fixed), 3, 5, a=nn.Linear(5, 9))
    assert reasons["a"] == "`mul` in Net joins it with what cannot be merged"

    def paired(net, x):
        return two_heads(net, net.c((net.a(x)[:, :, None] * net.b(x)[:, None, :]).flatten(1)))

    reasons = whole(paired, 3, 5, a=nn.Linear(5, 3), b=nn.Linear(5, 4), c=nn.Linear(12, 9))
    assert reasons["a"] == reasons["b"] == "`mul` in Net pairs each with each of others"

    def started_at_random(net, x):
        start = torch.rand(1, 3, 9).double()
        return two_heads(net, net.a(x, (start, torch.zeros_like(start)))[0])

    net = random_(Net(started_at_random, a=nn.LSTM(5, 9), **HEADS))
    assert "`lstm` in a joins it" in graph.collapse(net, inputs(4, 3, 5), 2).reasons["a"]


def test_layers_that_mix_units_keep_them_whole():
    reasons = whole(
        lambda net, x: two_heads(net, net.norm(net.a(x))), 3, 5, a=nn.Linear(5, 9), norm=nn.LayerNorm(9)
    )
    assert reasons["a"] == "`layer_norm` in norm mixes its neurons"
    reasons = whole(
        lambda net, x: two_heads(net, net.a(x) / net.a(x).sum(1, keepdim=True)), 3, 5, a=nn.Linear(5, 9)
    )
    assert reasons["a"] == "`sum` in Net goes over its neurons"


def test_layers_cut_at_fixed_places_stay_whole():
    def forward(net, x):
        a, b = net.a(x).split([4, 6], dim=1)
        return two_heads(net, net.b(a) + net.c(b))

    reasons = whole(forward, 3, 5, a=nn.Linear(5, 10), b=nn.Linear(4, 9), c=nn.Linear(6, 9))
    assert reasons == {
        "a[0:4]": "cut out of a.weight at a fixed place",
        "a[4:10]": "cut out of a.weight at a fixed place",
        "b": None,
        "actor": "output",
        "critic": "output",
    }


def test_a_neuron_picked_by_its_place_keeps_its_layer_whole():
    """Were it merged, the third of what is left would be another neuron."""

    def forward(net, x):
        gate = net.a(x).tanh()
        return two_heads(net, net.b(gate) * gate[:, 3:4])

    reasons = whole(forward, 3, 5, a=nn.Linear(5, 7), b=nn.Linear(7, 9))
    assert reasons["a[0:7]"] and reasons["a[3:4]"] and reasons["b"] is None


def test_neurons_out_of_order_stay_whole():
    reasons = whole(
        lambda net, x: two_heads(net, net.b(net.a(x).flip(1))), 3, 5, a=nn.Linear(5, 7), b=nn.Linear(7, 9)
    )
    assert reasons["a"] == "b.weight has it in parts or out of order"


def test_weights_tied_in_one_role_stay_tied():
    tied = Net(
        lambda net, x: two_heads(net, net.c(net.back(net.b(net.a(x)).tanh()))),
        a=nn.Linear(5, 6), b=nn.Linear(6, 6), back=nn.Linear(6, 6), c=nn.Linear(6, 9),
        actor=nn.Linear(9, 3), critic=nn.Linear(9, 1),
    )  # fmt: skip
    tied.back.weight = tied.b.weight  # the same role twice: what b and back read must merge alike
    found = graph.collapse(random_(tied), inputs(3, 5), 1.1)
    assert found.policy.back.weight is found.policy.b.weight
    assert found.reasons["a"] is None
    assert found.report.params_after < found.report.params_before


def test_what_a_computed_matrix_reads_stays_whole():
    def forward(net, x):
        return two_heads(net, net.c(F.linear(net.b(net.a(x)), net.b.weight.square())))

    reasons = whole(forward, 3, 5, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 9))
    assert reasons["b"] == "`linear` in Net sums over its neurons, with no parameter"


def test_weights_tied_in_opposite_roles_keep_their_space_whole():
    def forward(net, x):
        h = net.a(x)
        return two_heads(net, net.b(h * net.w)), F.linear(h, net.w)

    reasons = whole(forward, 3, 5, a=nn.Linear(5, 6), w=nn.Parameter(torch.ones(1, 6)), b=nn.Linear(6, 9))
    assert reasons["a"] == "w is tied to it in two roles"


def test_groups_are_left_whole():
    net = random_(
        Net(lambda net, x: (net.b(net.a(x)), x), a=nn.Conv1d(2, 6, 1), b=nn.Conv1d(6, 6, 1, groups=3))
    )
    found = graph.collapse(net, inputs(3, 2, 3), 2).policy
    assert (found.b.in_channels, found.b.out_channels, found.b.groups) == (6, 6, 3)
    reasons = whole(
        lambda net, x: two_heads(net, net.fc(net.b(net.a(x)).flatten(1))), 3, 2, 3,
        a=nn.Conv1d(2, 6, 1), b=nn.Conv1d(6, 6, 1, groups=3), fc=nn.Linear(18, 9),
    )  # fmt: skip
    assert reasons["a"] == reasons["b"] == "`conv1d` in b has groups"


def test_ignored_spaces_and_modules_are_left_whole():
    policy, example = nature()
    found = graph.collapse(policy, example, 2, ignore=["recurrent", "policy.network"])
    assert {name for name, reason in found.reasons.items() if reason == "ignored"} == {
        "policy.network.0", "policy.network.2", "policy.network.4", "policy.network.7", "recurrent",
    }  # fmt: skip
    assert found.report.params_after == found.report.params_before
    with pytest.raises(UserError, match="ignore names 'encoder', which is neither"):
        graph.collapse(policy, example, 2, ignore=["encoder"])


def unknown(net, x):
    return two_heads(net, net.spectrum(net.a(x)))


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


def test_an_unknown_operation_stops_with_its_name_its_place_and_the_ways_out():
    net = random_(Net(unknown, a=nn.Linear(5, 16), spectrum=Spectrum(), **HEADS))
    with pytest.raises(UserError) as error:
        graph.collapse(net, inputs(3, 5))
    message = str(error.value)
    assert "`fft_rfft` in spectrum is unknown" in message
    assert 'rule("fft_rfft")' in message and "ignore=['a']" in message
    for ignore in (["a"], ["spectrum"]):
        found = graph.collapse(net, inputs(3, 5), 2, ignore=ignore)
        assert found.reasons["a"]
        with torch.no_grad():
            assert_same(found.policy(*inputs(3, 5)), net(*inputs(3, 5)), 0)


def test_a_rule_can_be_registered():
    from pufferlib_kcore.graph.operations import OPERATIONS

    net = Net(lambda net, x: two_heads(net, torch.renorm(net.a(x), 2, 0, 1e9)), a=nn.Linear(5, 9), **HEADS)
    with pytest.raises(UserError, match="renorm"):
        graph.collapse(random_(net), inputs(3, 5))
    try:
        graph.rule("renorm")(lambda trace, out, x, *args: trace.neurons(x))
        assert graph.collapse(net, inputs(3, 5), 2).reasons["a"] is None
    finally:
        OPERATIONS.pop("renorm", None)


def test_operations_on_observations_alone_need_no_rule():
    net = Net(lambda net, x: two_heads(net, net.a(torch.fft.rfft(x).abs())), a=nn.Linear(5, 9), **HEADS)
    assert graph.collapse(random_(net), inputs(3, 8), 2).reasons["a"] is None


REFUSED = {
    "a branch on computed values": (
        lambda net, x: two_heads(net, net.a(x) if net.a(x).sum() > 0 else -net.a(x)),
        dict(a=nn.Linear(5, 9)),
        "`bool` in Net cannot be traced: the policy's course depends on a value",
    ),
    "values as plain numbers": (
        lambda net, x: two_heads(net, torch.as_tensor(np.asarray(net.a(x)))),
        dict(a=nn.Linear(5, 9)),
        "`array` in Net cannot be traced: the policy's course depends on a value at test_trace.py:",
    ),
    "a comparison that Python gets": (
        lambda net, x: two_heads(net, net.a(x) if torch.equal(net.a(x), net.a(x)) else -net.a(x)),
        dict(a=nn.Linear(5, 9)),
        "`equal` in Net cannot be traced",
    ),
    "both directions": (
        lambda net, x: two_heads(net, net.a(x)[0][:, :9]),
        dict(a=nn.LSTM(5, 9, bidirectional=True)),
        "`lstm` in a cannot be traced: it runs in both directions",
    ),
    "a projected state": (
        lambda net, x: two_heads(net, net.a(x)[0]),
        dict(a=nn.LSTM(5, 12, proj_size=9)),
        "proj_size",
    ),
    "an object that may hide tensors": (
        lambda net, x: (net.a(x), object()),
        dict(a=nn.Linear(5, 9)),
        "object",
    ),
    "no tensor": (lambda net, x: (net.a(x) is None, 3), dict(a=nn.Linear(5, 9)), "returned no tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_run_cannot_show_is_refused(name):
    forward, layers, message = REFUSED[name]
    net = random_(Net(forward, **layers, **HEADS))
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        graph.collapse(net, inputs(3, 5))


def test_packed_sequences_are_refused():
    def packed(net, x):
        y, _ = net.a(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, 1]), batch_first=True))
        return two_heads(net, y.data)

    with pytest.raises(UserError, match="packed sequences"):
        graph.collapse(random_(Net(packed, a=nn.LSTM(5, 9), **HEADS)), inputs(2, 3, 5))


def test_a_size_fixed_in_code_is_refused_not_guessed():
    net = Net(
        lambda net, x: two_heads(net, net.b(net.a(x).reshape(3, 12))),
        a=nn.Linear(5, 12),
        b=nn.Linear(12, 9),
        **HEADS,
    )
    with pytest.raises(UserError, match="the collapsed Net does not run .* ignore="):
        graph.collapse(random_(net), inputs(3, 5), 1.0)
    assert graph.collapse(net, inputs(3, 5), {"default": 1.0}, ignore=["a"]).reasons["a"] == "ignored"


def test_a_place_that_means_other_neurons_after_the_collapse_is_refused():
    def forward(net, x):
        h = torch.cat([net.a(x), net.b(x)], dim=1)
        return two_heads(net, net.c(h) * h[:, 4:].amax(dim=1, keepdim=True))

    net = random_(Net(forward, a=nn.Linear(5, 4), b=nn.Linear(5, 6), c=nn.Linear(10, 9), **HEADS))
    assert graph.collapse(net, inputs(3, 5), {"default": 0, "b": 2}).reasons["b"] is None
    with pytest.raises(UserError, match="the collapsed Net uses b.weight otherwise; its code fixes a size"):
        graph.collapse(net, inputs(3, 5), {"default": 0, "a": 2})


class Sized(nn.Module):
    """Keeps its widths in numbers and tuples, some of which mean something else."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.actor, self.critic = (nn.Linear(12, n) for n in (12, 12, 2, 1))
        self.width, self.size, self.steps, self.unused = 12, (3, 12), 12, 12

    def forward(self, x):
        for _ in range(self.steps - 11):
            h = self.a(x).view(-1, self.width)
        y = self.b(h)
        if h.shape[1:] != self.size[1:]:
            raise ValueError("shape")
        return self.actor(h), self.critic(y)


def test_numbers_kept_by_modules_are_found_by_what_they_do():
    found = graph.collapse(random_(Sized()), inputs(3, 12), 1.0).policy
    assert found.width == found.a.out_features < 12
    assert (found.size, found.steps, found.unused) == ((3, found.width), 12, 12)
    assert all(type(n) is int for n in (found.width, found.steps, found.unused, *found.size))


def test_the_argument_and_the_generator_are_untouched():
    policy, example = nature(layers=2)
    policy.train()
    example = (example[0], tuple(torch.zeros(2, 2, 2, 20).double()))
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    attributes, seen = {k: v for k, v in vars(policy).items() if isinstance(v, int)}, example[0].clone()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    graph.collapse(policy, example, 2)
    assert torch.rand(1) == expected
    assert all(torch.equal(before[name], x) for name, x in policy.state_dict().items())
    assert {k: v for k, v in vars(policy).items() if isinstance(v, int)} == attributes
    assert all(type(v) in (int, bool) for v in attributes.values())
    assert torch.equal(example[0], seen) and example[1][0].shape == (2, 2, 20)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in policy.modules())
    collapsed = graph.collapse(policy, example, 0, ignore=["policy", "recurrent"]).policy
    assert not {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in collapsed.parameters()}


def test_a_policy_that_overwrites_its_inputs_does_so_on_copies():
    net, (x,) = (
        random_(Net(lambda net, x: two_heads(net, net.a(x.mul_(2))), a=nn.Linear(5, 9), **HEADS)),
        inputs(3, 5),
    )
    graph.collapse(net, (x,), 2)
    assert torch.equal(x, inputs(3, 5)[0])


def test_requires_grad_and_training_mode_are_kept():
    policy, example = nature()
    policy.eval()
    policy.policy.network[0].weight.requires_grad_(False)
    found = graph.collapse(policy, example, 1.0).policy
    assert not found.training and not found.policy.network[0].weight.requires_grad
    assert found.policy.network[2].weight.requires_grad


def test_sampling_agents_leave_the_generator_alone_and_their_heads_whole():
    def forward(net, x):
        hidden = net.a(x).tanh()
        actions = torch.distributions.Categorical(logits=net.actor(hidden))
        sample = actions.sample()
        return sample, actions.log_prob(sample), actions.entropy(), net.critic(hidden)

    net = random_(Net(forward, a=nn.Linear(5, 9), tower=nn.Linear(5, 3), **HEADS))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    found = graph.collapse(net, inputs(3, 5), 2, value=3)
    assert torch.rand(1) == expected
    assert found.reasons["a"] is None and found.reasons["actor"] and found.kinds["critic"] == "critic"


def test_other_methods_and_value_paths():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.tower = nn.Linear(5, 8), nn.Linear(5, 7)
            self.actor, self.critic = nn.Linear(8, 3), nn.Linear(7, 1)
            self.extra = nn.Linear(2, 2)

        def act(self, x):
            return {"logits": self.actor(self.trunk(x)), "critic": {"value": self.critic(self.tower(x))}}

    agent = random_(Agent())
    found = graph.collapse(agent, inputs(3, 5), method="act", value="critic.value")
    assert found.kinds["tower"] == "critic" and found.kinds["trunk"] == "linear"
    shared = random_(Net(lambda net, x: two_heads(net, net.a(x).relu()), a=nn.Linear(5, 9), **HEADS))
    assert graph.collapse(shared, inputs(3, 5)).kinds == {
        "a": "linear",
        "actor": "linear",
        "critic": "critic",
    }
    assert graph.collapse(agent, inputs(3, 5), method="act").kinds["tower"] == "linear"
    assert found.report.untouched == ("extra.weight", "extra.bias")
    assert "extra.weight" in str(found.report)
    with pytest.raises(UserError, match="value='critic.q' leads nowhere"):
        graph.collapse(agent, inputs(3, 5), method="act", value="critic.q")


def test_thresholds_by_kind_and_space_may_be_partial():
    policy, example = nature()

    def thresholds(given):
        return graph.collapse(policy, example, given).thresholds

    kinds = thresholds({"cnn": 0.1, "policy.network.7": 0.2})
    assert (kinds["policy.network.2"], kinds["policy.network.7"], kinds["recurrent"]) == (0.1, 0.2, 0.3)
    kinds = thresholds({"default": 0.5, "lstm": 0.7})
    assert (kinds["policy.network.2"], kinds["recurrent"]) == (0.5, 0.7)
    for wrong, message in (
        (2.1, "expected a cosine distance from 0 to 2"),
        ({"lstm": -1}, "'lstm' is -1"),
        ({"lsmt": 0.3}, "did you mean lstm"),
        (float("nan"), "from 0 to 2"),
    ):
        with pytest.raises(UserError, match=message):
            thresholds(wrong)


def test_the_report_counts_every_parameter():
    policy, example = nature(layers=2)
    found = graph.collapse(policy, example, 1.1)
    report = found.report
    assert report.params_before == sum(p.numel() for p in policy.parameters())
    assert report.params_after == sum(p.numel() for p in found.policy.parameters())
    assert report.params_before == sum(row["params_before"] for row in report.rows)
    assert report.params_after == sum(row["params_after"] for row in report.rows)
    assert [row["space"] for row in report.rows] == list(found.fibers)
    text = str(report)
    assert "policy.network.7" in text and "output" in text and f"{report.params_after:,}" in text


def test_spaces_are_shown_before_anything_is_done():
    policy, example = nature()
    rows = {row["space"]: row for row in graph.spaces(policy, example).rows}
    assert rows["policy.network.7"]["read_by"] == ["recurrent.weight_ih_l0"]
    assert rows["recurrent"]["read_by"] == [
        "recurrent.weight_hh_l0",
        "policy.actor.weight",
        "policy.value_fn.weight",
    ]
    assert rows["policy.actor"]["reason"] == "output"
    assert "recurrent.weight_hh_l0" in str(graph.spaces(policy, example))


def test_shapes_of_another_architecture_are_refused():
    policy, example = nature()
    shapes = {name: tuple(x.shape) for name, x in nature(layers=2)[0].state_dict().items()}
    with pytest.raises(UserError, match="recurrent.bias_hh_l1 should have shape .* come from another policy"):
        graph.resize(policy, shapes, example)
    shapes = {name: tuple(x.shape) for name, x in policy.state_dict().items()}
    with pytest.raises(UserError, match="policy.network.7.weight should have shape"):
        graph.resize(policy, shapes | {"policy.network.7.weight": (24, 255)}, example)


def test_a_lift_of_one_space_shares_no_memory_with_its_base():
    policy, example = nature()
    large = graph.lift(policy, example, {"policy.network.7": np.arange(30) % 24})
    assert large.policy.network[7].out_features == large.input_size == 30 and policy.input_size == 24
    assert not {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in large.parameters()}


def test_lifts_must_cover_their_space():
    policy, example = nature()
    with pytest.raises(UserError, match="fibers of recurrent must name each of its 20 units"):
        graph.lift(policy, example, {"recurrent": np.zeros(30, int)})
    with pytest.raises(UserError, match="not a space that can grow"):
        graph.lift(policy, example, {"policy.actor": np.arange(7) % 6})


def test_mixed_outputs_are_protected():
    policy, example = nature()
    network = graph.trace(policy, example).network
    assert [s.name for s in network.spaces if s.whole] == ["policy.actor", "policy.value_fn"]
    assert network.same_width == (("recurrent",),)
    assert len(flat(policy.float()(*example))) == 2
