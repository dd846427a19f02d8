"""Policies: built from plain data with no env, sized by the spaces, refusing what does not fit."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from pufferlib_kcore import policies
from pufferlib_kcore.environments import make_creator
from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import registry
from pufferlib_kcore.policies.restore import refill
from pufferlib_kcore.store.checkpoints import Unfit

with quiet():
    import pufferlib.models
    from pufferlib.environments.atari import torch as puffers

SCREEN = spaces.Box(0, 255, (1, 105, 80), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
DISCRETE, MULTI, CONTINUOUS = spaces.Discrete(6), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (4,))


def spec_of(package="memory", policy="Policy", rnn="Recurrent", obs=VECTOR, act=DISCRETE, p=None, r=None):
    return policies.spec_from(package, policy, rnn, p or {}, r or {}, obs, act)


@pytest.mark.parametrize("layers", [None, 1, 2])
@pytest.mark.parametrize("action", [DISCRETE, MULTI, CONTINUOUS], ids=["discrete", "multi", "continuous"])
def test_default_runs_forward_on_example_inputs(action, layers):
    rnn = {} if layers is None else {"num_layers": layers}
    spec = spec_of(act=action, rnn=None if layers is None else "Recurrent", r=rnn)
    spec = json.loads(json.dumps(spec))  # plain enough for any file
    inputs = policies.example_inputs(spec)
    output, value, *state = policies.build(spec)(*inputs)
    assert value.shape == (3, 1)
    if action is DISCRETE:
        assert output.shape == (3, 6)
    elif action is MULTI:
        assert [o.shape for o in output] == [(3, 2), (3, 3)]
    else:
        assert output.mean.shape == output.stddev.shape == (3, 4)
    if layers is None:
        assert state == []
    else:
        assert [s.shape for s in state[0]] == [s.shape for s in inputs[1]] == [(layers, 3, 128)] * 2


@pytest.mark.parametrize("layers", [1, 2])
def test_atari_default_is_pufferlibs_own(layers):
    spec = spec_of("atari", obs=SCREEN, act=spaces.Discrete(9), r={"num_layers": layers})
    torch.manual_seed(1)
    ours = policies.build(spec)
    env = make_creator("beam_rider")()
    torch.manual_seed(1)
    theirs = puffers.Recurrent(env, puffers.Policy(env), num_layers=layers)
    assert isinstance(ours, pufferlib.models.LSTMWrapper)
    assert isinstance(ours.policy, pufferlib.models.Convolutional)
    a, b = ours.state_dict(), theirs.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    logits, value, (h, c) = ours(*policies.example_inputs(spec))
    assert logits.shape == (3, 9) and value.shape == (3, 1) and h.shape == c.shape == (layers, 3, 512)


def test_a_policy_takes_sequences_too():
    spec = spec_of()
    policy = policies.build(spec)
    x = torch.randn(3, 7, 5)
    logits, value, state = policy(x, None)
    assert logits.shape == (21, 6)
    after_steps = None
    for t in range(7):
        _, _, after_steps = policy(x[:, t], after_steps)
    assert torch.allclose(state[0], after_steps[0], atol=1e-6)


@pytest.mark.parametrize(
    ("obs", "args", "flat", "stack"),
    [
        (SCREEN, {}, 64 * 9 * 6, 1),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), {}, 64 * 7 * 7, 4),
        (spaces.Box(0, 255, (125, 80, 2), np.uint8), {"channels_last": True}, 64 * 12 * 6, 2),
        (spaces.Box(0, 255, (1, 210, 161), np.uint8), {"downsample": 2}, 64 * 9 * 6, 1),
    ],
)
def test_convolutional_sizes_follow_from_the_image(obs, args, flat, stack):
    spec = spec_of("atari", "Convolutional", None, obs, p={"hidden_size": 32, **args})
    assert spec["policy_args"]["flat_size"] == flat and spec["policy_args"]["framestack"] == stack
    assert policies.build(spec)(*policies.example_inputs(spec))[0].shape == (3, 6)


def test_procgen_resnet_with_and_without_lstm():
    image = spaces.Box(0, 255, (32, 24, 3), np.uint8)
    for rnn in (None, "Recurrent"):
        spec = spec_of("procgen", rnn=rnn, obs=image, p={"cnn_width": 4, "mlp_width": 16})
        assert policies.build(spec)(*policies.example_inputs(spec))[0].shape == (3, 6)


def test_widths_of_the_lstm_follow_the_policy():
    spec = spec_of(p={"hidden_size": 20})
    assert spec["rnn_args"] == {"num_layers": 1, "input_size": 20, "hidden_size": 20}
    assert policies.build(spec).recurrent.hidden_size == 20


def test_packages_have_pufferlibs_widths():
    assert spec_of("atari", obs=SCREEN)["rnn_args"]["hidden_size"] == 512
    assert spec_of("classic_control")["policy_args"]["hidden_size"] == 64
    assert spec_of(None)["policy_args"]["hidden_size"] == 128


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"policy": "Convolutionel"},
            "unknown policy 'Convolutionel': did you mean Convolutional? (register yours",
        ),
        ({"rnn": "LSTM"}, "LSTMWrapper"),
        ({"p": {"hiden_size": 3}}, "did you mean hidden_size"),
        ({"policy": "Convolutional", "obs": SCREEN, "p": {"hidden": 3}}, "no setting 'hidden'"),
        ({"r": {"layers": 3}}, "num_layers"),
        ({"rnn": None, "r": {"num_layers": 2}}, "rnn_name = Recurrent"),
        ({"r": {"hidden_size": 64}}, "must be the policy's width, 128"),
        ({"policy": "Convolutional"}, "choose the policy Default"),
        ({"policy": "Convolutional", "obs": SCREEN, "act": MULTI}, "choose the policy Default"),
        ({"policy": "ProcgenResnet", "obs": SCREEN, "act": CONTINUOUS}, "choose the policy Default"),
        ({"policy": "Convolutional", "obs": spaces.Box(0, 255, (1, 30, 80), np.uint8)}, "at least 36 x 36"),
        ({"policy": "Convolutional", "obs": SCREEN, "p": {"flat_size": 10}}, "must be 3456"),
        ({"policy": "Convolutional", "obs": SCREEN, "p": {"output_size": 10}}, "must be 512"),
        ({"act": spaces.Box(-1, 1, (2, 2))}, "one axis"),
        ({"obs": spaces.Dict({"a": VECTOR})}, "Dict"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes, says):
    with pytest.raises(UserError) as refused:
        spec_of(**changes)
    assert says in str(refused.value)


def test_36_pixels_are_enough_for_convolutional():
    spec = spec_of("atari", rnn=None, obs=spaces.Box(0, 255, (1, 36, 36), np.uint8))
    assert policies.build(spec)(*policies.example_inputs(spec))[0].shape == (3, 6)


@pytest.fixture
def clean_registry(monkeypatch):
    for entries in (registry.POLICIES, registry.RECURRENT):
        monkeypatch.setattr(entries, "_things", dict(entries))


def test_a_registered_policy_is_built_by_its_name(clean_registry):
    @policies.register("Tiny")
    class Tiny(nn.Module):
        def __init__(self, env, hidden_size=8):
            super().__init__()
            self.body = nn.Linear(env.single_observation_space.shape[0], hidden_size)
            self.actor, self.critic = (
                nn.Linear(hidden_size, env.single_action_space.n),
                nn.Linear(hidden_size, 1),
            )

        def encode_observations(self, x):
            return torch.tanh(self.body(x)), None

        def decode_actions(self, hidden, lookup):
            return self.actor(hidden), self.critic(hidden)

    spec = spec_of(policy="Tiny", p={"hidden_size": 4})
    assert spec["rnn_args"]["hidden_size"] == 4
    assert policies.build(spec)(*policies.example_inputs(spec))[0].shape == (3, 6)
    with pytest.raises(UserError, match="registered already"):
        policies.register("Tiny")(nn.Linear)


def test_arguments_are_not_edited():
    policy_args, rnn_args = {"hidden_size": 16}, {"num_layers": 2}
    policies.spec_from("atari", "Policy", "Recurrent", policy_args, rnn_args, SCREEN, DISCRETE)
    assert policy_args == {"hidden_size": 16} and rnn_args == {"num_layers": 2}


def test_example_inputs_are_drawn_within_the_space_and_from_the_seed():
    spec = spec_of("atari", obs=SCREEN)
    x, (h, c) = policies.example_inputs(spec, batch=2)
    assert x.shape == (2, 1, 105, 80) and x.dtype == torch.uint8
    assert x.unique().numel() > 100
    assert not torch.equal(h, c)
    assert torch.equal(x, policies.example_inputs(spec, batch=2)[0])
    assert not torch.equal(x, policies.example_inputs(spec, batch=2, seed=1)[0])
    low, high = np.float32([-1, 0, -np.inf]), np.float32([1, 3e38, 5])
    box = spaces.Box(low, high)
    x = policies.example_inputs(spec_of(obs=box, rnn=None))[0]
    assert all(box.contains(row) for row in x.numpy())


def test_numbers_that_are_none_are_refused_by_name_but_a_mask_is_a_mask(clean_registry):
    @policies.register("Masked")
    class Masked(nn.Module):
        def __init__(self, env, hidden_size=4):
            super().__init__()
            self.body = nn.Linear(5, hidden_size)
            self.norm = nn.BatchNorm1d(hidden_size)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    spec = spec_of(policy="Masked", rnn=None)
    weights = policies.build(spec).state_dict()
    assert refill(spec, weights, "a file").mask[1] == -torch.inf
    for name in ("body.weight", "body.bias", "norm.running_var", "mask"):
        for number, word in ((torch.nan, "NaN"), (torch.inf, "infinity"), (-torch.inf, "infinity")):
            if name == "mask" and word == "infinity":
                continue
            bad = {key: x.clone() for key, x in weights.items()}
            bad[name].view(-1)[0] = number
            with pytest.raises(Unfit, match=f"^a file: {name} holds {word} in 1 of its"):
                refill(spec, bad, "a file")
