"""Lines: what one network after the other returns, a step at a time, is what all at once return."""

import copy

import numpy as np
import pytest
import torch

from pufferlib_kcore.connectivity.actors import Actor
from pufferlib_kcore.connectivity.lines import walk
from pufferlib_kcore.connectivity.stacked import between, drawn
from pufferlib_kcore.distributions import Continuous, Discrete, Joint, Squashed
from pufferlib_kcore.environments import make_creator, seeds
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import build, spec_from
from pufferlib_kcore.training.unroll import initial_state, step


def policies(env, package, rnn=None, sharp=30.0):
    """Two untrained ones, whose actions are far apart; and the creator of their environment."""
    creator = make_creator(env, rewards=(), **({"max_episode_steps": 40} if package != "memory" else {}))
    one = creator()
    spec = spec_from(package, "Policy", rnn, {}, {}, one.single_observation_space, one.single_action_space)
    one.close()
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(build(spec))
        with torch.no_grad():
            for name, p in made[-1].named_parameters():
                if "decoder" in name:
                    p.mul_(sharp)
    return *made, creator


def actors(env="Pendulum-v1"):
    creator = make_creator(env, rewards=(), max_episode_steps=40)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(Actor([3, 32, 32], torch.tensor([-2.0]), torch.tensor([2.0]), True))
        with torch.no_grad():
            made[-1].mu.weight.mul_(20)
    return *made, creator


def one_by_one(one, other, creator, alphas, episodes, seed, dtype):
    """The published way: a network at a time, an episode at a time, a step at a time."""
    returns = np.zeros((len(alphas), episodes))
    for a, alpha in enumerate(alphas):
        policy = copy.deepcopy(one)
        ends = [dict(m.state_dict()) for m in (one, other)]
        mixed = {k: (1 - alpha) * x.double() + alpha * ends[1][k].double() for k, x in ends[0].items()}
        policy.to(dtype).load_state_dict(mixed)
        for e in range(episodes):
            env = creator.gymnasium()
            obs, _ = env.reset(seed=seeds.env_seed(seed, e))
            state = initial_state(policy, 1)
            state = state and tuple(x.to(dtype) for x in state)
            over = False
            while not over:
                with torch.no_grad():
                    seen = torch.as_tensor(obs, dtype=dtype)[None]
                    output, _, state = step(policy, seen, state)
                from pufferlib_kcore import distributions

                action = distributions.of(output, dtype).mode()[0]
                action = action.float().numpy() if action.is_floating_point() else int(action)
                obs, _, ended, cut, info = env.step(action)
                over = ended or cut
            returns[a, e] = info["episode_return"]
    return returns


WORLDS = {
    "mlp": lambda: (*policies("cartpole", "classic_control"), torch.float32),
    "lstm": lambda: (*policies("cartpole", "classic_control", "Recurrent"), torch.float32),
    "normal": lambda: (*policies("pendulum", "classic_control_continuous"), torch.float32),
    "squashed": lambda: (*actors(), torch.float64),
}


@pytest.mark.parametrize("world", WORLDS)
def test_returns_are_those_of_one_network_after_the_other(world):
    one, other, creator, dtype = WORLDS[world]()
    alphas = np.array([0.0, 0.3, 1.0])
    found = walk(one, other, creator, alphas=alphas, episodes=3, seed=(4, 2), jobs=1)
    expected = one_by_one(one, other, creator, alphas, 3, (4, 2), dtype)
    if dtype == torch.float64:
        np.testing.assert_array_equal(found.returns, expected)
    else:  # their code computes in float32, where kernels round otherwise
        np.testing.assert_allclose(found.returns, expected, rtol=1e-3)
    assert len(np.unique(expected)) > 3


@pytest.mark.parametrize("greedy", [True, False])
def test_numbers_depend_on_neither_places_nor_processes(greedy):
    one, other, creator = policies("cartpole", "classic_control", "Recurrent")
    args = dict(episodes=4, seed=3, greedy=greedy)
    whole = walk(one, other, creator, alphas=5, jobs=1, **args)
    some = walk(one, other, creator, alphas=np.array([0.25, 1.0]), jobs=1, **args)
    np.testing.assert_array_equal(whole.returns[[1, 4]], some.returns)
    np.testing.assert_array_equal(whole.lengths[[1, 4]], some.lengths)
    several = walk(one, other, creator, alphas=5, jobs=2, **args)
    np.testing.assert_array_equal(whole.returns, several.returns)


def test_fewer_environments_and_weights_at_once_change_nothing(monkeypatch):
    from pufferlib_kcore.connectivity import lines

    one, other, creator = policies("cartpole", "classic_control")
    whole = walk(one, other, creator, alphas=5, episodes=5, jobs=1)
    monkeypatch.setattr(lines, "ENVS", 6)
    monkeypatch.setattr(lines, "STACK", 2 * between(one, other, np.zeros(1)).bytes)
    told = []
    parted = walk(one, other, creator, alphas=5, episodes=5, jobs=1, tell=told.append)
    np.testing.assert_array_equal(whole.returns, parted.returns)
    assert told[-1] == 1 and np.all(np.diff(told) > 0) and len(told) == 25


@pytest.mark.parametrize("greedy", [True, False])
def test_a_line_from_a_policy_to_itself_is_flat_as_episodes_and_draws_are_common(greedy):
    one, _, creator = policies("cartpole", "classic_control", sharp=3.0)
    found = walk(one, copy.deepcopy(one), creator, alphas=3, episodes=6, seed=1, greedy=greedy, jobs=1)
    np.testing.assert_array_equal(found.returns, found.returns[:1].repeat(3, 0))
    assert len(np.unique(found.returns[0])) > 1


def test_uniform_numbers_draw_what_each_distribution_says():
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    discrete = Discrete(torch.tensor([[0.3, -1.0, 1.2]]).double().expand(20000, 3))
    shares = torch.bincount(drawn(discrete, u[:, None]), minlength=3) / 20000
    torch.testing.assert_close(shares.double(), discrete.log_p[0].exp(), atol=1e-3, rtol=0)
    normal = Continuous(torch.full((20000, 1), 2.0).double(), torch.full((20000, 1), 3.0).double())
    x = drawn(normal, u[:, None])
    assert abs(float(x.mean()) - 2) < 1e-3 and abs(float(x.std()) - 3) < 1e-2
    low, high = torch.tensor([-1.0]).double(), torch.tensor([5.0]).double()
    squashed = Squashed(normal.loc, normal.scale, low, high)
    torch.testing.assert_close(drawn(squashed, u[:, None]), squashed.squashed(x))
    both = drawn(Joint((discrete, normal)), torch.stack([u, u], -1))
    torch.testing.assert_close(both, torch.stack([drawn(discrete, u[:, None]).double(), x[:, 0]], -1))


def test_what_is_given_stays_untouched():
    one, other, creator = policies("cartpole", "classic_control")
    before = [copy.deepcopy(m.state_dict()) for m in (one, other)]
    walk(one, other, creator, alphas=3, episodes=1, jobs=1)
    for m, state in zip((one, other), before, strict=True):
        assert all(torch.equal(x, state[name]) for name, x in m.state_dict().items())
        assert all(p.dtype == torch.float32 and p.requires_grad for p in m.parameters())


def test_ends_are_the_policies_and_the_middle_is_their_mean():
    one, other, _ = actors()
    found = between(one, other, np.array([0.0, 0.5, 1.0])).stacked
    for name, x in one.named_parameters():
        y = dict(other.named_parameters())[name]
        torch.testing.assert_close(found[name][0], x.double(), rtol=0, atol=0)
        torch.testing.assert_close(found[name][2], y.double(), rtol=0, atol=0)
        torch.testing.assert_close(found[name][1], (x.double() + y.double()) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alphas, episodes, said", [(1, 3, "two ends"), (3, 0, "1 or more")])
def test_what_is_no_line_is_refused(alphas, episodes, said):
    one, other, creator = actors()
    with pytest.raises(UserError, match=said):
        walk(one, other, creator, alphas=alphas, episodes=episodes, jobs=1)


def test_another_architecture_is_refused_by_what_differs():
    one, _, creator = actors()
    other = Actor([3, 16, 32], torch.tensor([-2.0]), torch.tensor([2.0]), True)
    with pytest.raises(UserError, match=r"trunk.0.weight is \(32, 3\) in the first policy and \(16, 3\)"):
        walk(one, other, creator, alphas=3, episodes=1, jobs=1)
    shallow = Actor([3, 32], torch.tensor([-2.0]), torch.tensor([2.0]), True)
    with pytest.raises(UserError, match="trunk.2.weight is .* none in the second"):
        walk(one, shallow, creator, alphas=3, episodes=1, jobs=1)


def test_how_many_batches_a_norm_has_seen_may_differ_and_no_other_whole_number():
    one, other = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)) for _ in range(2))
    other(torch.randn(8, 3))  # counts a batch, and moves its running statistics
    weights = between(one, other, np.array([0.0, 0.5, 1.0]))
    assert weights.shared["1.num_batches_tracked"] == 0
    assert torch.equal(weights.stacked["1.running_mean"][2], other[1].running_mean.double())
    for policy, order in ((one, [0, 1, 2]), (other, [2, 1, 0])):
        policy.register_buffer("order", torch.tensor(order))
    with pytest.raises(UserError, match="order, of whole numbers, differs"):
        between(one, other, np.array([0.0, 1.0]))


def test_weights_that_are_not_finite_are_refused_by_name():
    one, other, creator = actors()
    with torch.no_grad():
        other.mu.bias[0] = float("nan")
    with pytest.raises(UserError, match="the second policy has numbers in mu.bias"):
        walk(one, other, creator, alphas=3, episodes=1, jobs=1)


def test_pictures_are_walked_too():
    """A convolutional policy of a game's screens, in float32."""
    creator = make_creator("breakout", rewards=(), framestack=2)
    one = creator()
    spaces = one.single_observation_space, one.single_action_space
    one.close()
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(build(spec_from("atari", "Policy", None, {"framestack": 2}, {}, *spaces)))
    found = walk(*made, creator, alphas=2, episodes=1, greedy=False, jobs=1)
    assert found.lengths.min() > 50 and found.returns.shape == (2, 1)
    same = walk(made[0], copy.deepcopy(made[0]), creator, alphas=2, episodes=1, greedy=False, jobs=1)
    assert same.returns[0] == same.returns[1] == found.returns[0] and same.lengths[0] == found.lengths[0]
