"""Policies of others, unedited: each collapses back to the base that it was lifted from."""

import numpy as np
import pytest
import torch
from planted import assert_same, assert_same_policy, inputs, lifted, random_
from torch import nn

from pufferlib_kcore import graph

pytestmark = pytest.mark.usefixtures("exact")


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
        self.W, self.bias = nn.Parameter(torch.ones(32, actor, embedding)), nn.Parameter(torch.ones(32))
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
