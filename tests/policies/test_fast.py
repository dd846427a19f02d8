"""Fast: shapes for images of any size, planted symmetry found in all of its layers, settings of its own."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from planted import assert_same, assert_same_policy, lifted, play, random_

from pufferlib_kcore import distributions, graph, policies, settings
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.restore import refill

GRID = spaces.Box(0, 255, (3, 11, 11), np.uint8)
SCREEN = spaces.Box(0, 255, (1, 105, 80), np.uint8)
DISCRETE, MULTI = spaces.Discrete(6), spaces.MultiDiscrete([2, 3])
SMALL = {"hidden_size": 12, "channels": 6, "critic_size": 20, "actor_size": 16, "embedding_size": 5}
KINDS = {
    "policy.cnn_1": "cnn",
    "policy.cnn_2": "cnn",
    "policy.fc_1": "linear",
    "policy.fc_2": "linear",
    "recurrent.l0": "lstm",
    "recurrent.l1": "lstm",
    "policy.critic": "critic",
    "policy.actor": "linear",
    "policy.bilinear": "linear",
}


def spec_of(obs=GRID, act=DISCRETE, rnn="Recurrent", layers=2, **args):
    return policies.spec_from("atari", "Fast", rnn, args, {"num_layers": layers} if rnn else {}, obs, act)


@pytest.mark.parametrize("rnn", [None, "Recurrent"])
@pytest.mark.parametrize("action", [DISCRETE, MULTI], ids=["discrete", "multi"])
def test_outputs_can_be_sampled_and_scored(action, rnn):
    spec = spec_of(act=action, rnn=rnn)
    output, value, *_ = policies.build(spec)(*policies.example_inputs(spec))
    shapes = [x.shape for x in output] if action is MULTI else output.shape
    assert shapes == ([(3, 2), (3, 3)] if action is MULTI else (3, 6)) and value.shape == (3, 1)
    found = distributions.of(output)
    chosen = found.sample()
    assert all(action.contains(a) for a in chosen.numpy()) and found.log_prob(chosen).shape == (3,)


@pytest.mark.parametrize(
    ("shape", "args", "flat"),
    [
        ((3, 11, 11), {}, 64),
        ((11, 11, 22), {"channels_last": True}, 64),
        ((3, 22, 22), {"downsample": 2}, 64),
        ((1, 50, 50), {}, 64 * 14 * 14),
        ((1, 105, 80), {}, 64 * 11 * 8),
        ((105, 80, 1), {"channels_last": True}, 64 * 11 * 8),
        ((1, 210, 160), {"downsample": 2}, 64 * 11 * 8),
        ((7, 7, 3), {"channels_last": True}, 64),
        ((2, 1, 9), {}, 64),
    ],
)
def test_images_of_any_size(shape, args, flat):
    spec = spec_of(spaces.Box(0, 255, shape, np.uint8), **args)
    policy = policies.build(spec)
    assert policy.policy.fc_1.weight.shape == (128, flat)
    assert policy(*policies.example_inputs(spec))[0].shape == (3, 6)


def test_whole_numbers_are_divided_by_255_and_others_are_not():
    policy = policies.build(spec_of(rnn=None))
    floats = policies.build(spec_of(spaces.Box(0, 1, (3, 11, 11), np.float32), rnn=None))
    floats.load_state_dict(policy.state_dict())
    (x,) = policies.example_inputs(spec_of(rnn=None))
    assert_same(floats(x / 255), policy(x), 1e-6)


def test_the_logit_of_an_action_is_bilinear_in_the_actors_hidden_layer_and_its_embedding():
    policy = policies.build(spec_of(rnn=None))
    hidden = torch.randn(5, 128)
    h, W = policy.actor(hidden).relu(), policy.bilinear.weight
    expected = torch.einsum("bh,eh,ae->ba", h, W, policy.actions.weight) + policy.actions.bias
    assert_same([policy.decode_actions(hidden)[0]], [expected], 1e-5)


def test_its_sizes_are_mettas():
    spec = spec_of()
    found = graph.spaces(policies.build(spec), policies.example_inputs(spec))
    assert {row["space"]: row["units"] for row in found.rows if not row["reason"]} == {
        **dict.fromkeys(("policy.cnn_1", "policy.cnn_2"), 64),
        **dict.fromkeys(("policy.fc_1", "policy.fc_2", "recurrent.l0", "recurrent.l1"), 128),
        **{"policy.critic": 1024, "policy.actor": 512, "policy.bilinear": 16},
    }


@pytest.mark.parametrize("obs", [GRID, SCREEN], ids=["grid", "screen"])
@pytest.mark.parametrize("action", [DISCRETE, MULTI], ids=["discrete", "multi"])
def test_nothing_but_the_outputs_is_left_whole(obs, action):
    spec = spec_of(obs, action)
    rows = graph.spaces(policies.build(spec), policies.example_inputs(spec)).rows
    assert {row["space"]: row["kind"] for row in rows if not row["reason"]} == KINDS
    assert {row["reason"] for row in rows if row["space"] not in KINDS} == {"output"}


@pytest.mark.parametrize("action", [DISCRETE, MULTI], ids=["discrete", "multi"])
def test_planted_copies_are_found_in_every_layer(action, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # so that laws hold to 1e-10
    spec = spec_of(act=action, **SMALL)
    base = random_(policies.build(spec))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, *GRID.shape), generator=generator).byte()
    large, fibers = lifted(base, (x, None))
    assert set(fibers) == set(KINDS)
    found = graph.collapse(large, (x, None), 0)
    for space, labels in fibers.items():
        np.testing.assert_array_equal(found.fibers[space], labels, space)
    assert_same_policy(found.policy, base)
    chunks = [(x, True), (x[:, 0], False)]
    with torch.no_grad():
        assert_same(play(large, chunks), play(base, chunks))
        assert_same(play(found.policy, chunks), play(base, chunks))


def test_a_collapsed_one_is_built_again_from_its_shapes():
    spec = spec_of(SCREEN)
    policy, given = policies.build(spec), policies.example_inputs(spec)
    found = graph.collapse(policy, given, 1.0)
    assert found.report.params_after < found.report.params_before / 2
    weights = found.policy.state_dict()
    again = refill(spec, weights, "a file")
    x = given[0]
    with torch.no_grad():
        assert_same(again(x, None)[:2], found.policy(x, None)[:2], 1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"obs": spaces.Box(-1, 1, (5,))}, "a Box with 3 axes"),
        ({"obs": spaces.Box(-1, 1, (2, 3, 11, 11))}, "choose the policy Default"),
        ({"act": spaces.Box(-1, 1, (2,))}, "discrete or multi-discrete"),
        ({"channels": 0}, "channels is 0: expected a whole number of at least 1"),
        ({"downsample": -1}, "downsample is -1"),
        ({"chanels": 3}, "did you mean channels"),
        ({"input_size": 3}, "no setting 'input_size'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes, says):
    with pytest.raises(UserError) as refused:
        spec_of(**changes)
    assert says in str(refused.value)


def test_its_settings_file_lists_its_arguments_with_their_defaults():
    found = settings.resolve("pong", {"base.policy_name": "Fast"}).policy
    args = spec_of()["policy_args"]
    assert found == args
    assert settings.resolve("pong").policy == {"hidden_size": 512}  # without it, as ever
