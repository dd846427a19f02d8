"""Record: every state once, stretches of episodes whole, with the state that the policy had there."""

import gymnasium
import numpy as np
import pytest
import torch
from worlds import Countdown

from pufferlib_kcore.policies import build, noise_inputs, spec_from
from pufferlib_kcore.policies.build import SMOOTHNESS
from pufferlib_kcore.training.record import record


def policy_of(vec, rnn):
    torch.manual_seed(0)
    spaces = vec.single_observation_space, vec.single_action_space
    return build(spec_from(None, "Policy", rnn, {"hidden_size": 8}, {}, *spaces))


def test_a_feed_forward_policy_gets_all_observations():
    vec = Countdown([3, 5])
    seen = record(policy_of(vec, None), vec, 0, 20)
    assert sum(len(obs) for (obs,) in seen) == 20
    assert {int(n) for (obs,) in seen for n in obs[:, 0]} == {0, 1}


def test_a_recurrent_policy_gets_stretches_that_lie_within_episodes_and_continue_its_own_state():
    vec = Countdown([3, 5])
    policy = policy_of(vec, "Recurrent")
    seen = record(policy, vec, 0, 24)
    assert sum(obs.shape[0] * obs.shape[1] for obs, _ in seen) == 24
    for obs, (h, c) in seen:
        assert (obs[:, :, 1] == obs[:, :1, 1]).all()  # one episode
        assert (obs[:, 1:, 2] == obs[:, :-1, 2] + 1).all()  # step by step
        assert h.shape == c.shape == (1, len(obs), 8) and not h.any()  # from the episode's start


@pytest.mark.parametrize("rnn", [None, "Recurrent"])
def test_environments_in_groups_see_the_same_states_and_a_seed_again_gives_the_same_numbers(rnn):
    """Countdown's states but for the last action, its fourth number, depend on no action."""
    whole, parted = Countdown([3, 5, 4, 6]), Countdown([3, 5, 4, 6], groups=2)
    policy = policy_of(whole, rnn)
    once, again, apart = (record(policy, vec, 7, 24) for vec in (whole, whole, parted))
    for a, b, c in zip(once, again, apart, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[0][..., :3], c[0][..., :3])


def test_recording_tells_how_far_it_is():
    parts = []
    vec = Countdown([3, 5], groups=2)
    record(policy_of(vec, None), vec, 0, 20, watch=parts.append)
    assert parts[0] == 0 and parts == sorted(parts) and 0.8 < parts[-1] < 1


def test_made_up_observations_lie_within_their_space_and_depend_on_the_seed_alone():
    for low, high, shape, dtype in ((-1, 1, (7,), np.float32), (0, 255, (4, 44, 44), np.uint8)):
        space = gymnasium.spaces.Box(low, high, shape, dtype)
        spec = spec_from(
            None if dtype == np.float32 else "atari",
            "Policy",
            "Recurrent",
            {},
            {},
            space,
            gymnasium.spaces.Discrete(3),
        )
        seen = noise_inputs(spec, 512, seed=3)
        for obs, state in seen:
            assert state is None and obs.shape[2:] == shape and space.contains(obs[0, 0].numpy())
        assert sum(obs.shape[0] * obs.shape[1] for obs, _ in seen) >= 512
        assert all(
            torch.equal(a[0], b[0]) for a, b in zip(seen, noise_inputs(spec, 512, seed=3), strict=True)
        )


def test_some_made_up_observations_change_slowly():
    space = gymnasium.spaces.Box(-np.inf, np.inf, (64,), np.float32)
    spec = spec_from(None, "Policy", "Recurrent", {}, {}, space, gymnasium.spaces.Discrete(3))
    stretches = torch.cat([obs for obs, _ in noise_inputs(spec, 8192)])
    for i, expected in enumerate(SMOOTHNESS):
        x = stretches[i :: len(SMOOTHNESS)]
        x = x / x.square().mean((1, 2), keepdim=True).sqrt()
        found = (x[:, 1:] * x[:, :-1]).mean() / x.square().mean()
        assert abs(float(found) - expected) < 0.03
