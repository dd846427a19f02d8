"""Policies of others, unedited: each collapses back to the base that it was lifted from."""

import gymnasium
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


FAST = ["cnn1", "cnn2", "fc1", "encoded", "core.l0", "core.l1", "critic_1", "actor_1", "W", "mlp.1"]


def test_a_network_like_mettas_fast():
    base, given = random_(Fast(hidden=20, critic=40, actor=30)), (inputs(2, 3, 11, 11)[0], None)
    large, fibers = lifted(base, given, grow=1.2)
    assert set(fibers) == {*FAST, "table"}
    found = graph.collapse(large, given, 0)
    for space, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    assert_same_policy(found.policy, base)
    kinds = {name: found.kinds[name] for name in ("cnn1", "fc1", "core.l0", "critic_1", "actor_1")}
    assert list(kinds.values()) == ["cnn", "linear", "lstm", "critic", "linear"]
    with torch.no_grad():
        assert_same(found.policy(*given)[:2], base(*given)[:2])
        assert_same(large(*given)[:2], base(*given)[:2])


def test_metta_fast_at_its_own_size():
    policy, given = Fast().double(), (inputs(2, 3, 11, 11)[0], None)
    found = graph.collapse(policy, given, {"default": 0.3, "critic": 2})
    assert set(FAST) <= found.widths.keys() and found.widths["critic_1"] == 1
    assert found.policy(*given)[0].shape == (2, 9)


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


ACT = dict(method="get_action_and_value", value=3)


def test_cleanrls_recurrent_atari_agent():
    base, generator = random_(PpoAtariLstm()), torch.Generator().manual_seed(0)
    frames = torch.rand(6, 1, 36, 36, generator=generator).double() * 255
    state = tuple(torch.rand(1, 2, 24, generator=generator).double() for _ in range(2))
    done = torch.tensor([0.0, 0, 0, 1, 1, 0]).double()
    large, fibers = lifted(base, (frames, state, done), method="get_action_and_value")
    assert set(fibers) == {"network.0", "network.2", "network.4", "network.7", "lstm"}
    wide = tuple(h[..., fibers["lstm"]] for h in state)
    found = graph.collapse(large, (frames, wide, done), 0, **ACT)
    assert_same_policy(found.policy, base)
    assert found.kinds["critic"] == "critic" and found.policy.lstm.hidden_size == 24
    action = torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.no_grad():
        expected = base.get_action_and_value(frames, state, done, action)
        assert_same(found.policy.get_action_and_value(frames, state, done, action)[1:4], expected[1:4])
        assert_same(large.get_action_and_value(frames, wide, done, action)[1:4], expected[1:4])
        assert_same([found.policy.get_value(frames, state, done)], [base.get_value(frames, state, done)])
    value = graph.collapse(base, (frames, state, done), 2, method="get_value")
    assert value.widths["lstm"] == 1 and "actor.weight" in value.report.untouched


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
    base, given = random_(PpoContinuous()), inputs(3, 17)
    large, fibers = lifted(base, given, method="get_action_and_value")
    assert set(fibers) == {"actor_mean.0", "actor_mean.2", "critic.0", "critic.2"}
    found = graph.collapse(large, given, 0, **ACT)
    assert_same_policy(found.policy, base)
    assert [found.kinds[name] for name in ("actor_mean.0", "critic.0", "critic.2")] == [
        "linear",
        "critic",
        "critic",
    ]
    assert found.reasons["actor_mean.4"]
    action = torch.zeros(3, 6).double()
    with torch.no_grad():
        expected = base.get_action_and_value(*given, action)
        assert_same(found.policy.get_action_and_value(*given, action), expected)
        assert_same(large.get_action_and_value(*given, action), expected)


SB3 = {
    "MlpPolicy": ("ActorCriticPolicy", (5,), dict(net_arch=[12, 10])),
    "MlpPolicy, shared": ("ActorCriticPolicy", (5,), dict(net_arch=dict(pi=[8], vf=[9, 7]))),
    "CnnPolicy": (
        "ActorCriticCnnPolicy",
        (1, 36, 36),
        dict(net_arch=[12], features_extractor_kwargs=dict(features_dim=20)),
    ),
}


@pytest.fixture
def double_by_default():
    """A policy that runs a part of itself in its constructor does so in float64, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", SB3)
@pytest.mark.parametrize("continuous", [False, True])
def test_stable_baselines3_policies(name, continuous, double_by_default):
    """`forward` samples; it is traced all the same, and so is what training calls, with the actions."""
    policies = pytest.importorskip("stable_baselines3.common.policies")
    kind, shape, kwargs = SB3[name]
    pixels = len(shape) > 1
    box = gymnasium.spaces.Box(0, 255, shape, np.uint8) if pixels else gymnasium.spaces.Box(-1, 1, shape)
    actions = gymnasium.spaces.Box(-1, 1, (2,)) if continuous else gymnasium.spaces.Discrete(3)
    base = random_(getattr(policies, kind)(box, actions, lambda _: 1e-3, **kwargs))
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)).double() * (255 if pixels else 1)
    large, fibers = lifted(base, (x,))
    assert len(fibers) == (6 if pixels else 4 if name == "MlpPolicy" else 3)
    taken = torch.rand(4, 2).double() if continuous else torch.tensor([0, 1, 2, 0])
    for given, how in (((x,), dict(value=1)), ((x, taken), dict(method="evaluate_actions", value=0))):
        found = graph.collapse(large, given, 0, **how)
        for space, labels in fibers.items():
            np.testing.assert_array_equal(found.fibers[space], labels, space)
        assert_same_policy(found.policy, base)
        assert found.kinds["value_net"] == "critic"
        with torch.no_grad():
            expected = base.evaluate_actions(x, taken)
            assert_same(found.policy.evaluate_actions(x, taken), expected)
            assert_same(large.evaluate_actions(x, taken), expected)
            assert_same([found.policy.predict_values(x)], [base.predict_values(x)])
            assert_same([found.policy(x, deterministic=True)[0]], [base(x, deterministic=True)[0]])


def test_a_stable_baselines3_model_that_has_just_been_trained(monkeypatch):
    """Its policy keeps the distribution of its last minibatch, which torch does not copy as it is."""
    monkeypatch.undo()  # float32, as it was trained
    ppo = pytest.importorskip("stable_baselines3").PPO
    model = ppo("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(8)
    assert not model.policy.action_dist.distribution.logits.is_leaf
    found = graph.collapse(model.policy, (torch.rand(3, 4),), 0.9, value=1)
    assert found.widths["mlp_extractor.policy_net.0"] < 64
    state = graph.collapse_optimizer(model.policy.optimizer, found, model.policy)
    found.policy.optimizer.load_state_dict(state)
    model.policy, before = found.policy, found.policy.action_net.weight.clone()
    assert model.predict(np.zeros(4, np.float32))[0] in (0, 1)
    model.learn(8)
    assert not torch.equal(model.policy.action_net.weight, before)
