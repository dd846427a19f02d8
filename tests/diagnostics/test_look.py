"""A look at a policy: counts worked by hand, the same by a second route, and nothing changed."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from pufferlib_kcore import graph
from pufferlib_kcore.diagnostics import units
from pufferlib_kcore.diagnostics.capacity import capacity
from pufferlib_kcore.diagnostics.look import fibers_of, gradients, look


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 4)
        self.actor, self.critic = nn.Linear(4, 5), nn.Linear(4, 1)

    def forward(self, x):
        h = torch.tanh(self.b(torch.relu(self.a(x))))
        return self.actor(h), self.critic(h)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    made = Net().double()
    with torch.no_grad():
        made.a.bias[:2] = -100.0  # two of six never wake
        made.actor.weight.mul_(5)
    return made


X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_each_number_by_a_second_route(policy):
    seen = look(graph.trace(policy, (X[:3],)), [(X[:15],), (X[15:],)])
    m, (logits, value) = seen.metrics, (x.detach() for x in policy(X))
    assert m["entropy"] == pytest.approx(float(Categorical(logits=logits).entropy().mean()))
    assert m["value_mean"] == pytest.approx(float(value.mean()))
    h = torch.relu(policy.a(X)).detach()
    assert m["dead/a"] == pytest.approx(2 / 6) and m["dead/b"] == 0
    assert m["dead"] == pytest.approx(2 / 10)
    assert m["dormant/a"] == pytest.approx(float(units.dormant(h).double().mean()))
    sigma = torch.linalg.svdvals(torch.tanh(policy.b(h)).detach())
    p = sigma / sigma.sum()
    assert (
        m["effective_rank"] == m["effective_rank/b"] == pytest.approx(math.exp(-float((p * p.log()).sum())))
    )
    norm = torch.cat([p.flatten() for p in policy.parameters()]).norm()
    assert m["weight_norm"] == pytest.approx(float(norm.detach()))


def test_units_that_no_gradient_reaches(policy):
    """Those that never wake, and one whose reader is cut."""
    with torch.no_grad():
        policy.actor.weight[:, 1], policy.critic.weight[:, 1] = 0, 0
    m = look(graph.trace(policy, (X[:3],)), [(X,)]).metrics
    assert m["gradient_dormant/a"] >= 2 / 6 and m["gradient_dormant/b"] == pytest.approx(1 / 4)


def test_the_gradient_is_one_of_the_loss_that_is_said(policy):
    traced = graph.trace(policy, (X[:3],))
    found = gradients(traced, [(X,)])
    again = gradients(traced, [(X,)])
    assert all(torch.equal(found[n], again[n]) for n in found)
    assert found.keys() == dict(policy.named_parameters()).keys()
    assert all(p.grad is None for p in policy.parameters())


def test_churn_is_of_the_states_whose_greedy_action_moved(policy):
    traced = graph.trace(policy, (X[:3],))
    first = look(traced, [(X,)])
    assert look(traced, [(X,)], before=first.actions).metrics["churn"] == 0
    before = policy(X)[0].argmax(-1)
    with torch.no_grad():
        policy.actor.bias.add_(torch.tensor([1.0, 0, 0, 0, 0]))
    now = look(traced, [(X,)], before=first.actions).metrics["churn"]
    assert now == pytest.approx(float((policy(X)[0].argmax(-1) != before).double().mean())) and now > 0


def test_nothing_of_the_policy_or_of_chance_changes(policy):
    norm = nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)
    ).double()
    before, chance = copy.deepcopy(norm.state_dict()), torch.get_rng_state()
    traced = graph.trace(norm, (X[:3],))
    look(traced, [(X,)])
    capacity(traced, [(X,)], 3)
    assert all(torch.equal(x, norm.state_dict()[n]) for n, x in before.items())
    assert torch.equal(chance, torch.get_rng_state())


def test_fibers_are_those_of_a_coloring(policy):
    with torch.no_grad():
        policy.a.weight[5], policy.a.bias[5] = policy.a.weight[4], policy.a.bias[4]
    found = fibers_of(graph.trace(policy, (X[:3],)), 0)
    assert found["units"] == 10 and found["fibers/a"] == 5 and found["fibers"] == 9


def test_capacity_is_none_without_steps_more_with_more_and_gone_with_dead_units(policy):
    traced = graph.trace(policy, (X[:3],))
    assert capacity(traced, [(X,)], 0) == 0
    few, many = capacity(traced, [(X,)], 10), capacity(traced, [(X,)], 300)
    assert 0 < few < many < 1
    with torch.no_grad():
        policy.a.bias.fill_(-100.0)
    assert capacity(traced, [(X,)], 300) < many / 3  # nothing but two biases learns


@pytest.mark.parametrize("kind", ["several", "gaussian", "deep lstm", "fast", "two nets"])
def test_every_kind_of_policy_is_looked_at(kind):
    """PufferLib's, ours, and one of CleanRL's kind, whose actor and critic share nothing."""
    import numpy as np
    from gymnasium import spaces

    from pufferlib_kcore.policies import build, example_inputs, spec_from

    numbers, pixels = spaces.Box(-1, 1, (5,), np.float32), spaces.Box(0, 255, (3, 12, 12), np.uint8)
    several = spaces.MultiDiscrete([2, 3])
    if kind == "two nets":

        class Agent(nn.Module):
            def __init__(self):
                super().__init__()
                self.actor = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3))
                self.critic = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))

            def forward(self, x):
                return self.actor(x), self.critic(x)

        policy, x = Agent(), (torch.randn(20, 5),)
    else:
        observation, action, rnn, name, rnn_args = {
            "several": (numbers, several, None, "Default", {}),
            "gaussian": (numbers, spaces.Box(-1, 1, (2,), np.float32), "Recurrent", "Default", {}),
            "deep lstm": (numbers, spaces.Discrete(3), "Recurrent", "Mlp", {"num_layers": 2}),
            "fast": (pixels, spaces.Discrete(3), "Recurrent", "Fast", {"num_layers": 2}),
        }[kind]
        spec = spec_from(None, name, rnn, {}, rnn_args, observation, action)
        policy, x = build(spec), example_inputs(spec, 20)
    traced = graph.trace(policy, x)
    first = look(traced, [x])
    again = look(traced, [x], before=first.actions)
    assert again.metrics.pop("churn") == 0 and again.metrics == first.metrics
    assert {
        "entropy",
        "action_diversity",
        "dormant",
        "gradient_dormant",
        "effective_rank",
    } <= first.metrics.keys()
    assert 0 < capacity(traced, [x], 20) < 1
