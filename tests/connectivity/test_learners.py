"""Learners and what forks of them begin with: Stable-Baselines3's own numbers, bit for bit."""

import numpy as np
import pytest
import small_forks
import torch

from pufferlib_kcore.connectivity import learners, replay
from pufferlib_kcore.connectivity.actors import actor
from pufferlib_kcore.connectivity.plan import Plan
from pufferlib_kcore.errors import UserError

NETS = ("actor", "critic", "critic_target")


def same(one, other):
    return all(torch.equal(one[net][name], other[net][name]) for net in NETS for name in one[net])


def trained(p, seed=5):
    model = learners.learner(p, seed, p.capacity())
    list(learners.turns(model, p.total_steps))
    return model


@pytest.mark.parametrize("env", ["InvertedDoublePendulum-v5", "Pendulum-v1"])
@pytest.mark.parametrize(
    "more", [{"algo": "SAC"}, {"algo": "DDPG"}, {"algo": "SAC", "ent_coef": "auto"}], ids=str
)
def test_turns_learn_what_their_own_program_learns(more, env):
    """Weights bit for bit, and so returns."""
    p = small_forks.plan(**more, env=env)
    for seed in (5, 6, 7):
        theirs = learners.learner(p, seed, p.capacity())
        theirs.learn(p.total_steps)
        assert same(learners.weights(trained(p, seed), p), learners.weights(theirs, p))


def test_fewer_steps_of_warm_up_than_a_batch_learn_the_same_too():
    p = small_forks.plan(algo="DDPG", learning_starts=4, batch_size=64)
    theirs = learners.learner(p, 5, p.capacity())
    theirs.learn(p.total_steps)
    assert same(learners.weights(trained(p), p), learners.weights(theirs, p))


@pytest.mark.parametrize("algo", ["SAC", "DDPG"])
def test_what_is_taken_down_is_put_up_whole(algo):
    p = small_forks.plan(algo=algo, ent_coef="auto" if algo == "SAC" else 0.2)
    model = trained(p)
    state = learners.taken_down(model, p)
    other = learners.learner(p, 77, p.capacity())
    learners.put_up(other, state, replay.held(model.replay_buffer))
    assert same(learners.weights(other, p), state) and other.num_timesteps == p.total_steps
    for name, optimizer in learners.optimizers(model).items():
        mine, theirs = optimizer.state_dict()["state"], learners.optimizers(other)[name].state_dict()["state"]
        assert mine and mine.keys() == theirs.keys()
        assert all(torch.equal(mine[i][k], theirs[i][k]) for i in mine for k in mine[i])
    for name in replay.FIELDS:
        np.testing.assert_array_equal(
            getattr(model.replay_buffer, name)[:240], getattr(other.replay_buffer, name)[:240]
        )
    random = torch.get_rng_state()
    other.set_logger(model.logger)
    for one in (model, other):
        one.set_random_seed(1)
        one.train(2, 16)
    assert same(learners.weights(other, p), learners.weights(model, p))
    torch.set_rng_state(random)


def test_truncations_are_bootstrapped_and_actions_scaled_to_their_bounds():
    p = small_forks.plan(env="Pendulum-v1", algo="DDPG")
    model = trained(p)  # whose episodes are cut off after 40 steps, and whose actions go to 2
    held = replay.held(model.replay_buffer)
    cut = held["timeouts"][:, 0].astype(bool)
    assert cut.sum() == 240 // 40 and (held["dones"][cut] == 1).all()
    assert model.replay_buffer.sample(4096).dones.sum() == 0  # none is an end to what learns
    assert np.abs(held["actions"]).max() <= 1 and held["observations"].dtype == np.float32
    policy = actor(learners.weights(model, p))
    with torch.no_grad():
        found = policy(torch.from_numpy(held["observations"][:, 0]))[0]
    assert found.mode().abs().max() <= 2
    np.testing.assert_allclose(
        found.mode().numpy(), model.predict(held["observations"][:, 0], deterministic=True)[0], atol=1e-6
    )


def test_an_actor_of_sac_is_theirs():
    p = small_forks.plan(algo="SAC")
    model = trained(p)
    obs = replay.held(model.replay_buffer)["observations"][:, 0]
    policy = actor(learners.weights(model, p))
    with torch.no_grad():
        found = policy(torch.from_numpy(obs))[0]
        mean, log_std, _ = model.actor.get_action_dist_params(torch.from_numpy(obs))
    np.testing.assert_allclose(found.mode().numpy(), model.predict(obs, deterministic=True)[0], atol=1e-6)
    torch.testing.assert_close(found.loc, mean)
    torch.testing.assert_close(found.scale, log_std.exp())


def test_reading_a_policy_draws_no_random_numbers():
    p = small_forks.plan()
    weights = learners.weights(learners.learner(p, 0, 10), p)
    before = torch.get_rng_state()
    actor(weights)
    assert torch.equal(torch.get_rng_state(), before)


def transitions(n):
    return {name: np.arange(n, dtype=np.float32)[:, None] for name in replay.FIELDS}


def test_halves_are_disjoint_and_all_there_and_in_order():
    one, other = (replay.given(transitions(101), "split", child, [1, 2]) for child in (0, 1))
    rows = [x["rewards"][:, 0] for x in (one, other)]
    assert sorted(np.concatenate(rows)) == list(range(101)) and len(rows[0]) == 50
    assert all((np.diff(r) > 0).all() for r in rows) and rows[0].max() > 60
    again = replay.given(transitions(101), "split", 0, [1, 3])["rewards"][:, 0]
    assert not np.array_equal(again, rows[0])


def test_copies_are_all_of_it_and_fresh_is_none():
    assert len(replay.given(transitions(9), "copy", 0, [0])["rewards"]) == 9
    assert len(replay.given(transitions(9), "shared", 1, [0])["rewards"]) == 9
    assert len(replay.given(transitions(9), "fresh", 1, [0])["rewards"]) == 0


@pytest.mark.parametrize("capacity, kept", [(10, range(7)), (7, range(7)), (4, range(3, 7))])
def test_a_buffer_is_filled_with_the_newest(capacity, kept):
    p = small_forks.plan()
    buffer = learners.learner(p, 0, capacity).replay_buffer
    shapes = {name: getattr(buffer, name).shape[1:] for name in replay.FIELDS}
    rows = {
        n: np.arange(7, dtype=np.float32).reshape(7, *[1] * len(s)) * np.ones(s) for n, s in shapes.items()
    }
    replay.fill(buffer, rows)
    assert replay.held(buffer)["rewards"][:, 0].tolist() == list(kept)
    assert buffer.size() == len(kept)


def test_too_large_a_buffer_is_refused_before_anything_starts():
    size = replay.bytes_of(1000, 11, 3)
    assert size == 1000 * 4 * (22 + 3 + 3)
    replay.check_memory(size, size, "x")
    with pytest.raises(UserError, match="take a smaller --buffer_size"):
        replay.check_memory(size + 1, size, "2 replay buffer(s) of Hopper-v5")


@pytest.mark.parametrize(
    "env, said",
    [
        ("CartPole-v1", "real numbers"),
        ("pong", "real numbers"),
        ("Hoper-v5", "did you mean"),
        ("InvertedDoublePendulum", None),
        ("hopper", None),
    ],
)
def test_environments(env, said):
    if said is None:
        learners.check_env(env)
        return
    with pytest.raises(UserError) as error:
        learners.check_env(env)
    assert said in str(error.value)


def test_without_their_program_it_is_said_which_extra_has_it(monkeypatch):
    monkeypatch.setattr(learners.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="connectivity"):
        learners.learner(Plan.of({}), 0, 10)
