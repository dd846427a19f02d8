"""Layers: each kind exact on planted symmetry (float64, 1e-10), or left whole with its reason."""

import numpy as np
import pytest
import torch
from planted import assert_same, assert_same_policy, lifted, random_
from test_trace import Net, inputs, two_heads
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")


def heads(width=9):
    return dict(actor=nn.Linear(width, 3), critic=nn.Linear(width, 1))


def convolved(net, x):
    x = net.norm(net.a(x)).relu()
    return two_heads(net, net.b(x).flatten(2).mean(-1).tanh())


def depthwise(net, x):
    x = net.a(x).relu()
    return two_heads(net, net.b(net.deep(x)).flatten(2).mean(-1).tanh())


def upsampled(net, x):
    return two_heads(net, net.up(net.a(x).relu()).relu().flatten(2).mean(-1))


def looked_up(net, x):
    rows = (x * 3).long().clamp(0, 6)
    return two_heads(net, net.fc(net.table(rows).mean(1)).relu())


def raw(net, x):
    h = torch.tanh(x @ net.first)
    h = torch.tanh(torch.einsum("...i,oi->...o", h, net.second) + net.shift)
    return two_heads(net, torch.matmul(net.third, h.unsqueeze(-1)).squeeze(-1).relu())


def bilinear(net, x):
    """An actor in the manner of Metta: hidden units and action embeddings meet in one tensor."""
    hidden, actions = net.hidden(x).relu(), net.actions(torch.arange(4))
    met = torch.tanh(torch.einsum("bh,khe,ae->bak", hidden, net.met, actions) + net.shift)
    return net.one(net.mlp(met).relu()).squeeze(-1), net.critic(hidden)


def multiplied(net, x):
    return two_heads(net, net.meet(net.a(x).tanh(), net.b(x).relu()).tanh())


def parameter(*shape):
    return nn.Parameter(torch.zeros(*shape))


def trained_norm(norm):
    """Running statistics of its own, and no two channels alike."""
    generator = torch.Generator().manual_seed(1)
    for x in (norm.running_mean, norm.running_var):
        if x is not None:
            x.copy_(torch.rand(x.shape, generator=generator) + 0.5)
    return norm.double()


EXACT = {
    "batch norm 2d": (
        convolved,
        dict(a=nn.Conv2d(2, 6, 3), norm=trained_norm(nn.BatchNorm2d(6)), b=nn.Conv2d(6, 9, 1)),
        (5, 2, 6, 6),
    ),
    "batch norm 2d, evaluated": (
        convolved,
        dict(a=nn.Conv2d(2, 6, 3), norm=trained_norm(nn.BatchNorm2d(6)).eval(), b=nn.Conv2d(6, 9, 1)),
        (5, 2, 6, 6),
    ),
    "batch norm without scale": (
        convolved,
        dict(
            a=nn.Conv2d(2, 6, 3),
            norm=trained_norm(nn.BatchNorm2d(6, affine=False)).eval(),
            b=nn.Conv2d(6, 9, 1),
        ),
        (5, 2, 6, 6),
    ),
    "batch norm of the batch": (
        convolved,
        dict(a=nn.Conv2d(2, 6, 3), norm=nn.BatchNorm2d(6, track_running_stats=False), b=nn.Conv2d(6, 9, 1)),
        (5, 2, 6, 6),
    ),
    "batch norm 1d": (
        lambda net, x: two_heads(net, net.norm(net.a(x)).tanh()),
        dict(a=nn.Linear(5, 9), norm=trained_norm(nn.BatchNorm1d(9)).eval()),
        (6, 5),
    ),
    "batch norm 3d": (
        convolved,
        dict(a=nn.Conv3d(1, 4, 2), norm=trained_norm(nn.BatchNorm3d(4)).eval(), b=nn.Conv3d(4, 9, 1)),
        (3, 1, 3, 4, 3),
    ),
    "depthwise": (
        depthwise,
        dict(a=nn.Conv2d(2, 6, 3), deep=nn.Conv2d(6, 6, 3, padding=1, groups=6), b=nn.Conv2d(6, 9, 1)),
        (3, 2, 6, 6),
    ),
    "transposed 1d": (
        upsampled,
        dict(a=nn.Conv1d(2, 5, 3), up=nn.ConvTranspose1d(5, 9, 3, stride=2)),
        (3, 2, 8),
    ),
    "transposed 2d": (
        upsampled,
        dict(a=nn.Conv2d(2, 5, 3), up=nn.ConvTranspose2d(5, 9, 3, bias=False)),
        (3, 2, 6, 6),
    ),
    "transposed 3d": (upsampled, dict(a=nn.Conv3d(1, 5, 2), up=nn.ConvTranspose3d(5, 9, 2)), (3, 1, 3, 3, 3)),
    "embedding": (looked_up, dict(table=nn.Embedding(7, 6), fc=nn.Linear(6, 9)), (4, 3)),
    "raw parameters": (
        raw,
        dict(first=parameter(5, 7), second=parameter(8, 7), shift=parameter(8), third=parameter(9, 8)),
        (3, 5),
    ),
    "nn.Bilinear": (
        multiplied,
        dict(a=nn.Linear(5, 4), b=nn.Linear(5, 6), meet=nn.Bilinear(4, 6, 9)),
        (3, 5),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_lift_collapses_to_its_base(name):
    forward, layers, shape = EXACT[name]
    base = with_statistics(random_(Net(forward, **layers, **heads())))
    large, fibers = lifted(base, inputs(*shape))
    assert fibers, graph.spaces(base, inputs(*shape))
    found = graph.collapse(large, inputs(*shape), 0)
    for space, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        expected = base(*inputs(*shape))
        assert_same(large(*inputs(*shape)), expected)
        assert_same(found.policy(*inputs(*shape)), expected)


def with_statistics(policy):
    """No channel's variance may be negative, as random numbers are."""
    for name, x in policy.named_buffers():
        if name.endswith("running_var"):
            x.abs_()
    return policy


def test_a_metta_like_bilinear_actor_collapses_exactly():
    base = random_(
        Net(
            bilinear,
            hidden=nn.Linear(5, 7),
            actions=nn.Embedding(4, 6),
            met=parameter(8, 7, 6),
            shift=parameter(8),
            mlp=nn.Linear(8, 5),
            one=nn.Linear(5, 1),
            critic=nn.Linear(7, 1),
        )
    )
    large, fibers = lifted(base, inputs(3, 5))
    assert {"hidden", "actions", "met", "mlp"} <= fibers.keys()
    found = graph.collapse(large, inputs(3, 5), 0)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(found.policy(*inputs(3, 5)), base(*inputs(3, 5)))
        assert_same(large(*inputs(3, 5)), base(*inputs(3, 5)))


NORMS = {
    "layer norm": nn.LayerNorm(8),
    "group norm": nn.GroupNorm(2, 8),
    "rms norm": nn.RMSNorm(8),
    "layer norm without scale": nn.LayerNorm(8, elementwise_affine=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_over_units_keeps_them_whole_and_lets_those_behind_it_merge(name):
    net = Net(
        lambda net, x: two_heads(net, net.b(net.norm(net.a(x))).relu()),
        a=nn.Linear(5, 8),
        norm=NORMS[name],
        b=nn.Linear(8, 9),
        **heads(),
    )
    base = random_(net)
    rows = {row["space"]: row["reason"] for row in graph.spaces(base, inputs(3, 5)).rows}
    assert "mixes its neurons" in rows["a"] and rows["b"] is None
    large, fibers = lifted(base, inputs(3, 5))
    found = graph.collapse(large, inputs(3, 5), 0)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(found.policy(*inputs(3, 5)), base(*inputs(3, 5)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_in_a_transformer_the_feed_forward_spaces_merge_and_attention_stays_whole(training, first):
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=first)
    net = Net(
        lambda net, x: two_heads(net, net.blocks(net.a(x)).mean(1)),
        a=nn.Linear(5, 8),
        blocks=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        **heads(8),
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
    base = random_(Net(attend, **layers, out=nn.Linear(6, 9), **heads()))
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


@pytest.mark.parametrize(
    "layer, words",
    [(nn.LSTM(9, 9, bidirectional=True), "both directions"), (nn.LSTM(9, 12, proj_size=9), "proj_size")],
)
def test_what_is_not_colored_is_refused_by_name(layer, words):
    net = random_(
        Net(lambda net, x: two_heads(net, net.m(net.a(x))[0][..., :9]), a=nn.Linear(5, 9), m=layer, **heads())
    )
    with pytest.raises(UserError, match=words):
        graph.collapse(net, inputs(4, 3, 5), 0)


# Others' policies, unedited ---------------------------------------------------------------------------


class Fast(nn.Module):
    """In the manner of Metta's `fast`: 2 convolutions, 2 linear layers, a 2-layer LSTM, a wide tanh critic,
    and an actor of 512 units that meets action embeddings bilinearly."""

    def __init__(self, hidden=128, critic=1024, actor=512, embedding=16, actions=9):
        super().__init__()
        self.cnn1, self.cnn2 = nn.Conv2d(3, 64, 5, stride=3), nn.Conv2d(64, 64, 3)
        self.fc1, self.encoded = nn.Linear(64, 128), nn.Linear(128, 128)
        self.core = nn.LSTM(128, hidden, 2)
        self.critic_1, self.value = nn.Linear(hidden, critic), nn.Linear(critic, 1)
        self.actor_1, self.table = nn.Linear(hidden, actor), nn.Embedding(actions, embedding)
        self.W, self.bias = parameter(32, actor, embedding), parameter(32)
        self.mlp = nn.Sequential(nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x, state):
        x = self.cnn2(self.cnn1(x).relu()).relu().flatten(1)
        x = self.encoded(self.fc1(x).relu()).relu()
        h, state = self.core(x.unsqueeze(0), state)
        h = h.squeeze(0)
        hidden = self.actor_1(h).relu().unsqueeze(1).expand(-1, self.table.num_embeddings, -1)
        actions = self.table.weight.unsqueeze(0).expand(len(x), -1, -1)
        score = torch.einsum("n a h, k h e, n a e -> n a k", hidden, self.W, actions)
        return (
            self.mlp(torch.tanh(score + self.bias)).squeeze(-1),
            self.value(torch.tanh(self.critic_1(h))),
            state,
        )


def test_a_network_like_mettas_fast():
    policy = random_(Fast(hidden=20, critic=40, actor=30))
    example = (inputs(2, 3, 11, 11)[0], None)
    rows = {row["space"]: row for row in graph.spaces(policy, example).rows}
    free = {name for name, row in rows.items() if row["reason"] is None}
    assert {
        "cnn1",
        "cnn2",
        "fc1",
        "encoded",
        "core.l0",
        "core.l1",
        "critic_1",
        "actor_1",
        "W",
        "mlp.1",
    } <= free
    assert [rows[n]["kind"] for n in ("cnn1", "fc1", "core.l0", "critic_1")] == [
        "cnn",
        "linear",
        "lstm",
        "critic",
    ]
    large, _ = lifted(policy, example, grow=1.2)
    found = graph.collapse(large, example, 0)
    assert_same_policy(found.policy, policy)
    with torch.no_grad():
        assert_same(found.policy(*example)[:2], policy(*example)[:2])


def layer_init(layer, std=2**0.5):
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class PpoAtariLstm(nn.Module):
    """CleanRL's ppo_atari_lstm agent, rebuilt from its description: no forward, a loop over time steps whose
    done flags reset the state."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            layer_init(nn.Conv2d(1, 32, 8, stride=4)),
            nn.ReLU(),
            layer_init(nn.Conv2d(32, 64, 4, stride=2)),
            nn.ReLU(),
            layer_init(nn.Conv2d(64, 64, 3, stride=1)),
            nn.ReLU(),
            nn.Flatten(),
            layer_init(nn.Linear(64, 40)),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(40, 24)
        self.actor, self.critic = layer_init(nn.Linear(24, 4), 0.01), layer_init(nn.Linear(24, 1), 1)

    def get_states(self, x, lstm_state, done):
        hidden = self.network(x / 255.0)
        batch_size = lstm_state[0].shape[1]
        hidden, done = hidden.reshape((-1, batch_size, self.lstm.input_size)), done.reshape((-1, batch_size))
        new_hidden = []
        for h, d in zip(hidden, done, strict=True):
            mask = (1.0 - d).view(1, -1, 1)
            h, lstm_state = self.lstm(h.unsqueeze(0), (mask * lstm_state[0], mask * lstm_state[1]))
            new_hidden += [h]
        return torch.flatten(torch.cat(new_hidden), 0, 1), lstm_state

    def get_value(self, x, lstm_state, done):
        return self.critic(self.get_states(x, lstm_state, done)[0])

    def get_action_and_value(self, x, lstm_state, done, action=None):
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        probs = torch.distributions.Categorical(logits=self.actor(hidden))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden), lstm_state


def test_cleanrls_recurrent_atari_agent():
    base = random_(PpoAtariLstm())
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(6, 1, 36, 36, generator=generator).double() * 255
    state = tuple(torch.rand(1, 2, 24, generator=generator).double() for _ in range(2))
    done = torch.tensor([0.0, 0, 0, 1, 1, 0]).double()
    how = dict(method="get_action_and_value", value=3)
    found = graph.collapse(base, (frames, state, done), 0, **how)
    spaces = {name for name, reason in found.reasons.items() if reason is None}
    assert {"network.0", "network.2", "network.4", "network.7", "lstm"} <= spaces
    labels = {"network.7": np.arange(60) % 40, "lstm": np.arange(30) % 24}
    large = graph.lift(
        base, (frames, state, done), labels, method="get_action_and_value", generator=generator
    )
    wide = tuple(h[..., labels["lstm"]] for h in state)
    found = graph.collapse(large, (frames, wide, done), 0, **how)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same([found.policy.get_value(frames, state, done)], [large.get_value(frames, wide, done)])


class PpoContinuous(nn.Module):
    """CleanRL's ppo_continuous_action agent, rebuilt from its description."""

    def __init__(self):
        super().__init__()
        self.critic, self.actor_mean = (
            nn.Sequential(
                layer_init(nn.Linear(17, 64)),
                nn.Tanh(),
                layer_init(nn.Linear(64, 64)),
                nn.Tanh(),
                layer_init(nn.Linear(64, n), std),
            )
            for n, std in ((1, 1.0), (6, 0.01))
        )
        self.actor_logstd = nn.Parameter(torch.zeros(1, 6))

    def get_action_and_value(self, x, action=None):
        mean = self.actor_mean(x)
        probs = torch.distributions.Normal(mean, torch.exp(self.actor_logstd.expand_as(mean)))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(x)


def test_cleanrls_continuous_agent():
    base, example = random_(PpoContinuous()), inputs(3, 17)
    rows = {
        row["space"]: row for row in graph.spaces(base, example, method="get_action_and_value", value=3).rows
    }
    assert rows["critic.0"]["kind"] == rows["critic.2"]["kind"] == "critic"
    assert rows["actor_mean.0"]["kind"] == "linear"
    large, fibers = lifted_by(base, example, "get_action_and_value")
    found = graph.collapse(large, example, 0, method="get_action_and_value", value=3)
    assert_same_policy(found.policy, base)


def lifted_by(policy, example, method, grow=1.5):
    rng, fibers = np.random.default_rng(0), {}
    for row in graph.spaces(policy, example, method=method).rows:
        if row["reason"] is None:
            extra = rng.integers(0, row["units"], int(grow * row["units"]) - row["units"])
            fibers[row["space"]] = np.concatenate([np.arange(row["units"]), extra])
    generator = torch.Generator().manual_seed(0)
    return graph.lift(policy, example, fibers, method=method, generator=generator), fibers


@pytest.mark.parametrize("kind", ["MlpPolicy", "CnnPolicy"])
def test_stable_baselines3_policies(kind):
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium
    from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy

    assert sb3
    image = gymnasium.spaces.Box(0, 255, (1, 36, 36), np.uint8)
    box = gymnasium.spaces.Box(-1, 1, (5,), np.float32)
    make, space = (ActorCriticCnnPolicy, image) if kind == "CnnPolicy" else (ActorCriticPolicy, box)
    extra = dict(features_extractor_kwargs=dict(features_dim=20)) if kind == "CnnPolicy" else {}
    torch.set_default_dtype(torch.float64)
    try:
        policy = make(space, gymnasium.spaces.Discrete(3), lambda _: 1e-3, net_arch=[12, 10], **extra)
    finally:
        torch.set_default_dtype(torch.float32)
    base = random_(policy)
    x = torch.rand(4, *space.shape, generator=torch.Generator().manual_seed(0)).double() * (
        255 if kind == "CnnPolicy" else 1
    )
    example: tuple = (x, torch.tensor([0, 1, 2, 0]))
    how = dict(method="evaluate_actions", value=0)
    large, fibers = lifted_by(base, example, "evaluate_actions")
    assert len(fibers) >= (4 if kind == "MlpPolicy" else 8)
    found = graph.collapse(large, example, 0, **how)
    assert_same_policy(found.policy, base)
    with torch.no_grad():
        assert_same(found.policy.evaluate_actions(*example), base.evaluate_actions(*example))
        assert_same([found.policy.predict_values(x)], [large.predict_values(x)])
