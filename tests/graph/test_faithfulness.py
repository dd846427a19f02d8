"""Faithfulness: the KL of every kind of actions that a policy may return, against torch.distributions."""

import pytest
import torch
from planted import inputs, random_
from torch import nn
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")

KINDS = {
    "logits": lambda h: h,
    "categorical": lambda h: Categorical(logits=h),
    "several logits": lambda h: [h[:, :2], h[:, 2:]],
    "normal": lambda h: Normal(h[:, :2], h[:, 2:4].exp()),
    "independent normal": lambda h: Independent(Normal(h[:, :2], h[:, 2:4].exp()), 1),
    "logits and normal": lambda h: (h[:, :3], Normal(h[:, 3:4], h[:, 4:5].exp())),
}


class Acting(nn.Module):
    """Returns its last layer's five numbers as some kind of actions."""

    def __init__(self, kind):
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(4, 24), nn.Linear(24, 5), nn.Linear(24, 1)
        self.kind = kind

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.kind(self.actor(h)), self.critic(h)


def apart(a, b):
    """(states,), by torch."""
    if isinstance(a, (list, tuple)):
        return sum(apart(p, q) for p, q in zip(a, b, strict=True))
    a, b = (Categorical(logits=x) if isinstance(x, torch.Tensor) else x for x in (a, b))
    return kl_divergence(a, b).reshape(len(a.mean), -1).sum(1)


@pytest.mark.parametrize("name", KINDS)
def test_divergence_is_torchs_mean_over_the_states_of_all_inputs(name):
    net = random_(Acting(KINDS[name]))
    seen = [inputs(n, 4) for n in (20, 30)]
    found = graph.collapse(net, seen[0], 0.9)
    assert found.widths["body"] < 24
    with torch.no_grad():
        want = torch.cat([apart(net(*x)[0], found.policy(*x)[0]) for x in seen])
    measured = graph.divergence(net, found.policy, seen, found.network, found.merges)
    assert measured.kl == pytest.approx(float(want.mean())) and measured.look > 0
    taught = graph.distill(net, found, seen, seen, 40)
    assert graph.divergence(net, taught.policy, seen, found.network, found.merges).kl < measured.kl


def test_a_policy_that_does_not_look_looks_not():
    net = random_(Acting(KINDS["several logits"]))
    with torch.no_grad():
        net.actor.weight.zero_()
    seen = [inputs(20, 4)]
    same = graph.collapse(net, seen[0], 0)
    assert graph.divergence(net, same.policy, seen, same.network, same.merges).look < 1e-12


def test_actions_that_are_none_are_refused_with_what_to_do():
    net = random_(Acting(lambda h: h.argmax(-1)))
    seen = [inputs(20, 4)]
    found = graph.collapse(net, seen[0], 0.9)
    with pytest.raises(UserError, match=r"^a policy's actions are int64 .* expected .*actions=\.\.\.$"):
        graph.divergence(net, found.policy, seen, found.network, found.merges)
