"""How varied a policy is and how fast it changes, by hand and by second routes."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon

from pufferlib_kcore import distributions
from pufferlib_kcore.diagnostics import policies


def random_logits(states, n, seed=0):
    return torch.randn(states, n, generator=torch.Generator().manual_seed(seed)).double()


def of(logits):
    return distributions.of(logits, torch.float64)


def normal(mean, std):
    return distributions.of(torch.distributions.Normal(mean, std), torch.float64)


def test_entropy_in_parts_of_what_it_could_be():
    assert policies.relative_entropy(of(torch.zeros(3, 4))) == pytest.approx(1)
    assert policies.relative_entropy(of(torch.tensor([[1000.0, 0.0]]))) == pytest.approx(0)
    both = of([torch.zeros(3, 4), torch.zeros(3, 2)])
    assert policies.entropy(both) == pytest.approx(math.log(8))
    assert policies.relative_entropy(both) == pytest.approx(1)


def test_diversity_is_the_mean_over_all_pairs():
    logits = random_logits(9, 5)
    p = torch.softmax(logits, -1).numpy()
    pairs = [jensenshannon(p[a], p[b]) ** 2 for a, b in combinations(range(9), 2)]
    assert policies.action_diversity(of(logits)) == pytest.approx(np.mean(pairs))


def test_diversity_between_opposites_and_of_one_answer():
    opposite = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert policies.action_diversity(of(opposite)) == pytest.approx(math.log(2))
    same = torch.ones(30, 3).double()
    assert policies.action_diversity(of(same)) == 0
    assert policies.policy_variance(of(same)) == 0
    assert policies.action_diversity(of(same[:1])) == 0


def test_diversity_of_many_states_is_near_that_of_all_pairs():
    logits = random_logits(300, 4)
    p = torch.softmax(logits, -1).numpy()
    pairs = [jensenshannon(p[a], p[b]) ** 2 for a, b in combinations(range(300), 2)]
    assert policies.action_diversity(of(logits)) == pytest.approx(np.mean(pairs), rel=0.02)


def test_continuous_actions_are_measured_in_their_deviations():
    mean = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    assert policies.action_diversity(normal(mean, torch.ones(2, 2))) == pytest.approx(5)
    assert policies.action_diversity(normal(2 * mean, 2 * torch.ones(2, 2))) == pytest.approx(5)
    # variances 2.25 and 4
    assert policies.policy_variance(normal(mean, torch.ones(2, 2))) == pytest.approx(6.25)


def test_variance_by_hand():
    sure = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]).double()  # p_0 is 1, then 0: variance 1/4, twice
    assert policies.policy_variance(of(sure)) == pytest.approx(0.5)
    assert policies.policy_variance(of([sure, sure])) == pytest.approx(1)


def test_churn_counts_states():
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    now = torch.tensor([[9.0, 0.0], [0.0, 0.1], [0.0, 1.0], [0.0, 1.0]])
    assert policies.churn(of(before), of(now)) == 0.25
    assert policies.churn(of([before, before]), of([now, before])) == 0.25
    shifted = normal(torch.full((3, 2), 0.6), torch.full((3, 2), 2.0))
    assert policies.churn(normal(torch.zeros(3, 2), torch.full((3, 2), 2.0)), shifted) == pytest.approx(
        0.3 * 2**0.5
    )


def test_dominance():
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert policies.dominance(of(logits)) == 0.75
    assert policies.dominance(of([logits, logits.flip(0)])) == 0.5
    assert math.isnan(policies.dominance(normal(torch.zeros(2, 1), torch.ones(2, 1))))


@pytest.mark.parametrize("seed", range(4))
def test_trend_is_theils_slope_and_kendalls_tau(seed):
    v = np.random.default_rng(seed).normal(size=12).cumsum()
    slope, tau = policies.trend(v)
    assert slope == pytest.approx(stats.theilslopes(v).slope)
    assert tau == pytest.approx(stats.kendalltau(np.arange(12), v).statistic)
    holes = np.insert(v, 5, math.nan)
    assert policies.trend(holes)[1] == pytest.approx(tau)
    assert policies.trend([math.nan, 1.0]) == (0.0, 0.0)


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert policies.explained_variance(returns, returns) == 1
    assert policies.explained_variance(torch.zeros(3), returns) == 0
    assert policies.explained_variance(-returns, returns) == -3
    assert math.isnan(policies.explained_variance(returns, torch.ones(3)))
