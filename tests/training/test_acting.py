"""Acting: what is counted and kept of hand-worked episodes; the trainer's rollout is the second route."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical
from worlds import Clock, Countdown, tiny_policy

from pufferlib_kcore.distributions import ActionDistribution
from pufferlib_kcore.environments import seeds
from pufferlib_kcore.training.acting import Diverged, Moment, play
from pufferlib_kcore.training.rollout import Collector
from pufferlib_kcore.training.unroll import initial_state, unroll


class Views(Countdown):
    """Answers with views of its own arrays, which the next send overwrites, and remembers its seeds."""

    def reset(self, seed):
        super().reset(seed)
        self.seed = seed

    def recv(self, g):
        ids, got = slice(self.groups[g][0], self.groups[g][-1] + 1), super().recv(g)
        arrays = self.state, self.rewards, self.terminals, self.truncations
        return type(got)(*(x[ids] for x in arrays), got.infos, got.env_ids)


def uniform(obs):
    return torch.zeros(len(obs), 3)


@pytest.mark.parametrize("groups", [1, 3])
def test_as_many_episodes_count_from_each_environment(groups):
    vec = Countdown([2, 5, 9], groups=groups)
    played = play(tiny_policy(vec), vec, 0, episodes=6)
    assert played.returns.tolist() == played.lengths.tolist() == [2, 2, 5, 5, 9, 9]
    assert play(tiny_policy(vec), vec, 0, episodes=4).lengths.tolist() == [2, 2, 5, 5, 9, 9]
    assert play(tiny_policy(vec), vec, 0, episodes=3).lengths.tolist() == [2, 5, 9]


@pytest.mark.parametrize("groups", [1, 3])
def test_in_so_many_steps_all_episodes_count_that_finish(groups):
    vec = Countdown([2, 5, 9], groups=groups)
    played = play(tiny_policy(vec), vec, 0, steps=9, keep=("obs",))
    assert vec.sent == 9 * groups and played.kept["obs"].shape == (3, 9, 4)
    assert played.lengths.tolist() == [
        2,
        2,
        2,
        5,
    ]  # the 9 steps' own end would come with the 10th observation


def test_it_ends_with_what_comes_first_and_needs_an_end():
    vec = Countdown([2, 5])
    assert play(uniform, vec, 0, episodes=4, steps=7).lengths.tolist() == [2, 2, 5]
    assert play(uniform, vec, 0, episodes=2, steps=100).lengths.tolist() == [2, 5] and vec.sent == 7 + 6
    with pytest.raises(ValueError, match="needs an end"):
        play(uniform, vec, 0)


def test_columns_of_a_hand_worked_episode():
    vec = Views([3, 20], truncates=[True, False])
    kept = play(uniform, vec, 0, steps=8, keep=set(Moment._fields) - {"values"}).kept
    assert kept["obs"][:, :, 2].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert kept["starts"][0].tolist() == [True, False, False, False, True, False, False, False]
    assert kept["truncations"][0].tolist() == [False, False, False, True] * 2 and not kept["terminals"].any()
    assert kept["rewards"][0].tolist() == [0, 1, 1, 1, 0, 1, 1, 1]
    heeded = ~kept["truncations"][:, :-1]  # the next observation shows the action before it
    assert torch.equal(kept["obs"][:, 1:, 3][heeded], kept["actions"][:, :-1][heeded].float())


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_plays_as_the_trainer_does(recurrent, groups):
    """Two routes: acting, and the rollout into fixed buffers."""
    vec = Views([3, 5, 20, 7], truncates=[True, False, True, False], groups=groups)
    policy = tiny_policy(vec, recurrent)
    played = play(policy, vec, (7, 1), steps=24, keep=Moment._fields)
    vec.reset((7, 1))
    collector = Collector(vec, policy, 24, 4, seeds.generator((7, 1)), Clock(), contextlib.nullcontext)
    data, episodes = collector.collect()
    for name in ("obs", "actions", "values", "rewards", "terminals", "truncations", "starts"):
        assert torch.equal(played.kept[name], getattr(data, name)[:, :24]), name
    log_probs = played.kept["distributions"].log_prob(data.actions)
    torch.testing.assert_close(log_probs, data.log_probs)
    whole = [float(x) for x in episodes.returns]  # the rollout sees one observation more
    assert (
        sorted(played.returns) == sorted(whole)[: len(played.returns)]
        and len(whole) - len(played.returns) < 2
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_a_recurrent_policy_remembers_within_an_episode(groups):
    """Two routes: step by step with the state that is carried, and all steps at once."""
    vec = Views([3, 5, 20, 7], groups=groups)
    policy = tiny_policy(vec, layers=2)
    kept = play(policy, vec, 0, steps=24, keep=("obs", "starts", "values", "distributions")).kept
    with torch.no_grad():
        logits, values = unroll(policy, kept["obs"], initial_state(policy, 4), kept["starts"])
    torch.testing.assert_close(kept["values"].flatten(), values, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept["distributions"].logits.flatten(0, 1), logits, atol=1e-5, rtol=0)


def test_greedy_play_takes_the_mode_and_draws_nothing():
    vec = Views([6, 4])
    policy = tiny_policy(vec)
    one, two = (
        play(policy, vec, seed, episodes=4, keep=("actions", "distributions", "obs"), greedy=True).kept
        for seed in (0, 1)
    )
    assert torch.equal(one["actions"], one["distributions"].mode())
    assert torch.equal(one["obs"], two["obs"])
    drawn = [play(policy, vec, seed, steps=20, keep=("actions",)).kept["actions"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_seed_is_given_to_the_environments_whatever_the_policy():
    vec = Views([3])
    for policy in (uniform, tiny_policy(vec)):
        play(policy, vec, (4, 2), steps=1)
        assert vec.seed == (4, 2)


@pytest.mark.parametrize(
    "answer",
    [lambda logits: logits, lambda logits: Categorical(logits=logits)],
    ids=["logits", "a torch distribution"],
)
def test_a_function_of_observations_plays(answer):
    """It goes on with the action that its environment shows it took last, plus one."""

    def count(obs):
        return answer(torch.nn.functional.one_hot((obs[:, 3].long() + 1) % 3, 3).log())

    vec = Views([5, 4])
    kept = play(count, vec, 0, steps=5, keep=("actions", "distributions")).kept
    assert kept["actions"].tolist() == [[1, 2, 0, 1, 2], [1, 2, 0, 1, 2]]
    assert isinstance(kept["distributions"], ActionDistribution)
    assert not kept["distributions"].entropy().any()
    with pytest.raises(ValueError, match="no values"):
        play(count, vec, 0, steps=5, keep=("values",))


def test_a_module_without_parameters_plays():
    class Still(nn.Module):
        def forward(self, obs):
            return torch.zeros(len(obs), 3), torch.zeros(len(obs), 1)

    assert play(Still(), Views([2]), 0, episodes=1).lengths.tolist() == [2]


def test_it_is_watched_before_each_step_and_the_watcher_may_end_it():
    vec, seen = Views([4, 4]), []
    play(uniform, vec, 0, steps=3, watch=seen.append)
    assert seen == [0, 1, 2]
    states = []
    play(uniform, vec, 0, episodes=2, watch=lambda step: states.append(vec.state[0, 2]))
    assert states == [0, 1, 2, 3, 4]  # from an episode's first state to its last

    def end(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(uniform, vec, 0, steps=3, watch=end)


def test_a_value_that_is_not_finite_ends_it():
    vec = Views([20, 20], bad_at=3)
    with pytest.raises(Diverged):
        play(tiny_policy(vec), vec, 0, steps=10)


def test_it_says_mean_spread_and_range():
    vec = Views([2, 4])
    assert str(play(uniform, vec, 0, episodes=2)) == (
        "episode_return=3 +- 1 (standard error) episode_length=3 episodes=2 min=2 max=4"
    )
    assert isinstance(play(uniform, vec, 0, episodes=2).returns, np.ndarray)


def test_gradients_are_not_kept_and_one_autocast_is_entered():
    entered = []

    @contextlib.contextmanager
    def autocast():
        entered.append(True)
        yield

    vec = Views([2, 4])
    kept = play(tiny_policy(vec), vec, 0, steps=3, keep=("values",), autocast=autocast).kept
    assert entered == [True] and not kept["values"].requires_grad
