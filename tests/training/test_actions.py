"""Actions: scores equal torch.distributions, samples follow the distribution."""

import torch
from torch.distributions import Categorical, Normal

from pufferlib_kcore.training import actions as act


def test_discrete_scores_equal_torch():
    logits, actions = torch.randn(7, 5), torch.randint(0, 5, (7,))
    want = Categorical(logits=logits)
    log_prob, entropy = act.score(logits, actions)
    assert torch.allclose(log_prob, want.log_prob(actions)) and torch.allclose(entropy, want.entropy())


def test_multidiscrete_scores_add_up():
    logits = [torch.randn(7, n) for n in (2, 3, 4)]
    actions = torch.stack([torch.randint(0, n, (7,)) for n in (2, 3, 4)], -1)
    log_prob, entropy = act.score(logits, actions)
    parts = [Categorical(logits=x) for x in logits]
    assert torch.allclose(log_prob, sum(p.log_prob(actions[:, i]) for i, p in enumerate(parts)))
    assert torch.allclose(entropy, sum(p.entropy() for p in parts))


def test_continuous_scores_equal_torch():
    normal = Normal(torch.randn(7, 3), torch.rand(7, 3) + 0.1)
    actions = torch.randn(7, 3)
    log_prob, entropy = act.score(normal, actions)
    assert torch.allclose(log_prob, normal.log_prob(actions).sum(-1), atol=1e-6)
    assert torch.allclose(entropy, normal.entropy().sum(-1))


def test_samples_follow_their_distribution_and_their_seed():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(60_000, 3)
    actions, log_prob = act.sample(logits, generator)
    share = torch.bincount(actions, minlength=3) / len(actions)
    assert torch.allclose(share, torch.softmax(logits[0], -1), atol=0.01)
    assert torch.allclose(log_prob, act.score(logits, actions)[0])
    again, _ = act.sample(logits, torch.Generator().manual_seed(0))
    assert torch.equal(actions, again)

    normal = Normal(torch.full((60_000, 1), 2.0), torch.full((60_000, 1), 0.5))
    actions, _ = act.sample(normal, generator)
    assert abs(actions.mean() - 2) < 0.01 and abs(actions.std() - 0.5) < 0.01


def test_mode_is_the_most_likely_action():
    assert act.mode(torch.tensor([[0.0, 3.0], [2.0, 1.0]])).tolist() == [1, 0]
    assert act.mode([torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 1.0]])]).tolist() == [[1, 0]]
    assert act.mode(Normal(torch.tensor([[0.5]]), torch.ones(1, 1))).tolist() == [[0.5]]
