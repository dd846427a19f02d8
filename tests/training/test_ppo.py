"""PPO: the loss term by term, masking, and the pieces that users know by name."""

import math

import pytest
import torch
from worlds import Countdown, learner, rollout, tiny_policy, train_settings

from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.ppo.objective import LOSSES, explained_variance, objective


def test_loss_of_one_sample_by_hand():
    train = train_settings(clip_coef=0.2, vf_clip_coef=0.1, vf_coef=0.5, ent_coef=0.01, norm_adv=False)
    old, new = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.75)])  # ratio 1.5, clipped at 1.2
    total, terms = objective(
        new,
        torch.tensor([0.7]),
        torch.tensor([3.0]),
        old,
        torch.tensor([1.0]),
        torch.tensor([2.0]),
        torch.tensor([2.0]),
        train,
    )
    got = dict(zip(LOSSES, terms.tolist(), strict=True))
    assert got["policy_loss"] == pytest.approx(-1.2 * 2)
    assert got["value_loss"] == pytest.approx(0.5 * max((3 - 2) ** 2, (1.1 - 2) ** 2))
    assert got["entropy"] == pytest.approx(0.7) and got["clipfrac"] == 1
    assert got["approx_kl"] == pytest.approx(0.5 - math.log(1.5))
    assert got["old_approx_kl"] == pytest.approx(-math.log(1.5))
    assert float(total) == pytest.approx(-2.4 - 0.007 + 0.5 * 0.5)


def test_negative_advantages_are_not_clipped_away():
    train = train_settings(clip_coef=0.2, norm_adv=False, vf_coef=0, ent_coef=0)
    zeros = torch.zeros(1)
    ratio_up, _ = objective(
        torch.tensor([0.5]), zeros, zeros, zeros, zeros, torch.tensor([-1.0]), zeros, train
    )
    assert float(ratio_up) == pytest.approx(math.exp(0.5))


def test_dummy_steps_do_not_matter():
    """What stands in the dummy columns must not change the update."""
    results = []
    for poison in (False, True):
        vec = Countdown([3, 3, 20, 7])
        policy = tiny_policy(vec)
        data = rollout(vec, policy)
        assert (~data.valid).any()
        if poison:
            dummy = ~data.valid
            data.actions[dummy] = 2 - data.actions[dummy]
            data.log_probs[dummy] = 5.0
        learner(policy).update(data)
        results.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(*results)


def test_first_pass_of_an_update_sees_ratio_one():
    vec = Countdown([3, 5, 20, 7])
    policy = tiny_policy(vec)
    losses = learner(policy, minibatch_size=32, update_epochs=1).update(rollout(vec, policy))
    assert losses["approx_kl"] == pytest.approx(0, abs=1e-6) and losses["clipfrac"] == 0
    assert losses["old_approx_kl"] == pytest.approx(0, abs=1e-5)


def test_target_kl_stops_after_the_pass_that_reached_it():
    counts = []
    for target in (None, 1e-9):
        vec = Countdown([20] * 4)
        policy = tiny_policy(vec)
        learn = learner(policy, lr=0.05, update_epochs=5, target_kl=target)
        steps = []
        learn.optimizer.register_step_post_hook(lambda *_, steps=steps: steps.append(1))
        learn.update(rollout(vec, policy))
        counts.append(len(steps))
    assert counts[0] == 10 and counts[1] == 2


def test_a_loss_that_is_not_finite_stops_before_the_parameters_change():
    vec = Countdown([20] * 4)
    policy = tiny_policy(vec)
    data = rollout(vec, policy)
    data.rewards[2, 3] = float("nan")
    before = [p.detach().clone() for p in policy.parameters()]
    with pytest.raises(Diverged, match="nan"):
        learner(policy, update_epochs=1, minibatch_size=32).update(data)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(3), returns) == 0
    assert math.isnan(explained_variance(returns, torch.ones(3)))
