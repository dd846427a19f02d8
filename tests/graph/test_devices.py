"""Where a policy lies changes nothing: on a GPU it is collapsed, searched and taught as on the CPU."""

import pytest
import torch
from planted import Net, assert_exact, inputs, random_
from torch import nn

from pufferlib_kcore import graph

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))


def forward(net, x, h, c):
    y, (h, c) = net.core(net.see(x).relu(), (h, c))
    actions = torch.distributions.Categorical(logits=net.actor(y))
    return actions.logits, net.critic(y), actions.sample(), (h, c)


def agent():
    layers = dict(see=nn.Linear(5, 8), core=nn.LSTM(8, 7), actor=nn.Linear(7, 3), critic=nn.Linear(7, 1))
    return random_(Net(forward, **layers)), (*inputs(4, 3, 5), *(torch.zeros(1, 3, 7).double(),) * 2)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_policy_collapses_where_it_lies_as_it_does_elsewhere(device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    found = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        net, given = agent()
        net, given = net.to(place), tuple(x.to(place) for x in given)
        seen = [(torch.randn(16, 3, 5, dtype=torch.float64).to(place) + i, *given[1:]) for i in range(3)]
        before = torch.random.get_rng_state()
        near = graph.collapse(net, given, 0.9, calibrate=seen[:2])
        search = graph.search(net, given, seen[:2], seen[2:], target_params=0.5)
        taught = graph.distill(net, search.collapse, seen[:2], seen[2:], 3)
        assert torch.equal(before, torch.random.get_rng_state())
        assert next(taught.policy.parameters()).device.type == place
        assert near.report.macs_after is not None
        kept = graph.ablate(net, given, {"see": 4}, by="l1").policy.see.weight.cpu()
        assert len(search.frontier) > 1 and set(taught.widths) == set(near.widths)
        found.append((near.widths, kept.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_planted_copies_merge_exactly(device):
    def forward(net, x):
        return net.c(torch.relu(net.b(net.a(x).tanh())))

    net = random_(Net(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 6), c=nn.Linear(6, 3))).to(device)
    found = assert_exact(net, tuple(x.to(device) for x in inputs(6, 5)), ["a", "b"])
    assert next(found.policy.parameters()).device.type == device
