"""Operations over different neurons: what is compared or added up pair by pair merges alike or stays."""

import pytest
import torch
import torch.nn.functional as F
from planted import Net, assert_exact, inputs, random_, two_heads
from torch import nn

from pufferlib_kcore import graph

pytestmark = pytest.mark.usefixtures("exact")
Linear = nn.Linear


def critic(actions=4):
    return nn.Sequential(Linear(5, 8), nn.ReLU(), Linear(8, actions))


def over(reduce, n=2):
    """Some critics, and one answer of all: its shape is the policy's business, not the collapse's."""

    def forward(net, x):
        return reduce(torch.stack([getattr(net, f"q{i}")(x) for i in range(n)]))

    return Net(forward, **{f"q{i}": critic() for i in range(n)})


PAIRED = {
    "min": lambda q: q.min(0).values,
    "minimum of two": lambda q: torch.minimum(q[0], q[1]),
    "torch.min of two": lambda q: torch.min(*q),
    "amax": lambda q: q.amax(0),
    "aminmax": lambda q: torch.aminmax(q, dim=0).max,
    "mean": lambda q: q.mean(0),
    "std": lambda q: q.std(0),
    "median": lambda q: q.median(0).values,
    "logsumexp": lambda q: q.logsumexp(0),
    "a subset": lambda q: q[torch.tensor([1, 0])].min(0)[0],
    "any": lambda q: (q > 0).any(0).double(),
}


@pytest.mark.parametrize("name", PAIRED)
def test_answers_of_several_critics_keep_their_shape_and_their_trunks_merge(name):
    net = over(PAIRED[name])
    assert_exact(net, inputs(6, 5), ["q0.0", "q1.0"])
    small = graph.collapse(net, inputs(6, 5), 2)
    assert small.widths["q0.0"] == 1 and small.policy(*inputs(6, 5)).shape == (6, 4)


SORTED = {
    "sort": lambda q: q.sort(0).values[0],
    "topk": lambda q: q.topk(1, 0).values[0],
    "kthvalue": lambda q: q.kthvalue(2, 0).values,
    "argmin": lambda q: q.argmin(0).double(),
    "places of the least": lambda q: q.min(0).indices.double(),
    "cumsum": lambda q: q.cumsum(0)[-1],
    "norm": lambda q: q.norm(dim=0),
    "quantile": lambda q: q.quantile(0.5, 0),
}


@pytest.mark.parametrize("name", SORTED)
def test_what_depends_on_places_stays_whole_and_what_is_before_merges(name):
    net = random_(over(SORTED[name], 3))
    small = graph.collapse(net, inputs(6, 5), 2)
    assert small.widths["q0.0"] == 1 and small.widths["q0.2"] == 4
    assert small.policy(*inputs(6, 5)).shape == (6, 4)


def test_units_that_are_compared_in_the_middle_merge_as_one_space():
    def forward(net, x):
        return two_heads(net, torch.stack([net.a(x), net.b(x)]).max(0).values)

    layers = dict(a=Linear(5, 9), b=Linear(5, 9), actor=Linear(9, 3), critic=Linear(9, 1))
    found = assert_exact(Net(forward, **layers), inputs(6, 5), ["a"])
    assert graph.collapse(found.policy, inputs(6, 5), 2).policy.b.out_features == 1


def test_the_largest_of_all_units_does_not_count_them():
    def forward(net, x):
        return two_heads(net, net.b(net.a(x).tanh().max(-1, keepdim=True).values + net.c(x)))

    layers = dict(a=Linear(5, 7), b=Linear(6, 9), c=Linear(5, 6), actor=Linear(9, 3), critic=Linear(9, 1))
    assert_exact(Net(forward, **layers), inputs(6, 5), ["a", "b", "c"])


@pytest.mark.parametrize("pieces", [(9, 2), (2, 9)])
def test_maxout_of_one_layer_stays_whole(pieces):
    def forward(net, x):
        h = net.a(x).view(-1, *pieces)
        return two_heads(net, h.amax(1 + (pieces[1] == 2)))

    net = random_(Net(forward, a=Linear(5, 18), actor=Linear(9, 3), critic=Linear(9, 1)))
    assert graph.collapse(net, inputs(6, 5), 2).reasons["a"] == "`amax` in Net goes over its neurons"


def test_actors_and_critics_of_discrete_sac():
    class Sac(nn.Module):
        def __init__(self):
            super().__init__()
            self.q1, self.q2, self.pi = critic(), critic(), critic()

        def forward(self, x):
            p = F.softmax(self.pi(x), -1)
            return p, (p * (torch.min(self.q1(x), self.q2(x)) - 0.2 * (p + 1e-8).log())).sum(-1)

    found = assert_exact(Sac(), inputs(6, 5), ["q1.0", "q2.0", "pi.0"])
    small = graph.collapse(found.policy, inputs(6, 5), 2)
    assert small.policy.q1[2].out_features == small.policy.pi[2].out_features == 4


def test_what_is_computed_and_not_returned_stays_whole_and_says_so():
    def forward(net, x):
        h = net.trunk(x).relu()
        net.aside = net.atoms(h)
        net.chain = net.second(net.first(h).relu())
        return net.actor(h)

    layers = dict(trunk=Linear(5, 9), atoms=Linear(9, 51), first=Linear(9, 7), second=Linear(7, 6))
    net = random_(Net(forward, **layers, actor=Linear(9, 3)))
    found = graph.collapse(net, inputs(3, 5), 2)
    assert found.reasons["trunk"] is None and found.policy.atoms.out_features == 51
    reason = "no layer reads it, and it is not returned as it is"
    assert found.reasons["atoms"] == found.reasons["second"] == reason


def test_steps_are_gone_over_unit_by_unit():
    """A minGRU: scans along time know no units."""

    def forward(net, x):
        hidden, gate = net.hg(x).chunk(2, -1)
        keep, take = -F.softplus(gate), -F.softplus(-gate)
        value = take + torch.where(hidden >= 0, (hidden.relu() + 0.5).log(), -F.softplus(-hidden))
        total = keep.cumsum(1)
        h = (total + (value - total).logcumsumexp(1)).exp()
        return net.act(torch.lerp(h, h.atanh().nan_to_num(), 0.25))

    found = assert_exact(Net(forward, hg=Linear(5, 12), act=Linear(6, 3)), inputs(2, 3, 5), ["hg"])
    net = random_(Net(lambda net, x: net.act(net.a(x).cumsum(-1)), a=Linear(5, 9), act=Linear(9, 3)))
    assert graph.collapse(net, inputs(2, 5), 2).reasons["a"] == "`cumsum` in Net mixes its neurons"
    assert found.widths["hg"] == 6
