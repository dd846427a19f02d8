"""Widths used as numbers: a space whose width the policy computes with keeps it, or is refused by name."""

import math

import pytest
import torch
from planted import Net, assert_same, inputs, random_
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")
Linear = nn.Linear

NUMBERS = {
    "sqrt of a shape": lambda net, h: math.sqrt(h.shape[-1]),
    "power of a size": lambda net, h: h.size(1) ** 0.5,
    "a size times a tensor": lambda net, h: h.size(-1) * torch.ones(1),
    "a tensor of a size": lambda net, h: torch.tensor(float(h.shape[1])),
    "full of a size": lambda net, h: torch.full((1,), h.shape[1]),
    "half a size": lambda net, h: h.shape[1] / 2,
    "several sizes": lambda net, h: float(h.shape[0] * h.shape[1] + 1),
    "a sum of ones": lambda net, h: torch.ones_like(h).sum(-1, keepdim=True),
    "how many are zero": lambda net, h: (h.new_zeros(h.shape) == 0).sum() / len(h),
    "numel": lambda net, h: h.numel(),
    "len": lambda net, h: len(h.T),
    "in_features": lambda net, h: net.b.in_features,
    "out_features": lambda net, h: net.a.out_features,
    "a parameter's shape": lambda net, h: net.b.weight.shape[1],
    "a parameter's size": lambda net, h: math.sqrt(net.a.weight.size(0)),
}
UNSEEN = {
    "a float over a size": lambda net, h: 1.0 / h.shape[-1],
    "a logarithm": lambda net, h: math.log(net.a.out_features),
    "a loop": lambda net, h: sum(1 for _ in range(h.shape[-1])),
    "a comparison": lambda net, h: 2 if h.shape[-1] > 7 else 1,
    "formatted": lambda net, h: float(str(h.shape[-1])),
}


def scaled(number):
    layers = dict(a=Linear(5, 8), b=Linear(8, 6), c=Linear(6, 3))
    net = random_(Net(lambda net, x: net.c((net.b(h := net.a(x).tanh()) / number(net, h)).tanh()), **layers))
    with torch.no_grad():
        for p in net.a.parameters():
            p[4:] = p[:4]
    return net


@pytest.mark.parametrize("name", NUMBERS)
def test_a_space_whose_width_is_a_number_keeps_it_and_others_merge(name):
    net, x = scaled(NUMBERS[name]), inputs(6, 5)
    same = graph.collapse(net, x, 0)
    with torch.no_grad():
        assert_same([same.policy(*x)], [net(*x)])
    found = graph.collapse(net, x, 2)
    assert (found.widths["a"], found.widths["b"]) == (8, 1) and found.reasons["a"]


@pytest.mark.parametrize("name", UNSEEN)
def test_where_a_number_is_not_seen_the_lift_differs_and_the_space_is_named(name):
    net, x = scaled(UNSEEN[name]), inputs(6, 5)
    with pytest.raises(UserError, match=r"number of its units, .*ignore=\['a'\]"):
        graph.collapse(net, x, 0)
    assert graph.collapse(net, x, 2, ignore=["a"]).widths["b"] == 1


class Stored(nn.Module):
    """One number for a shape, and for a scale."""

    def __init__(self):
        super().__init__()
        self.hidden, self.a, self.b, self.c = 8, Linear(5, 8), Linear(8, 6), Linear(6, 3)

    def forward(self, x):
        h = self.a(x).tanh().view(-1, self.hidden)
        return self.c((self.b(h) / math.sqrt(self.hidden)).tanh())


def test_a_stored_number_that_is_a_width_and_a_scale_stays():
    net = random_(Stored())
    found = graph.collapse(net, inputs(6, 5), 2)
    assert (found.policy.hidden, found.widths["a"], found.widths["b"]) == (8, 8, 1)
    net.forward = lambda x: net.c((net.b(net.a(x).tanh()) / math.sqrt(net.hidden)).tanh())
    assert found.reasons["a"] == "the policy computes with its width"


class Scaled(Stored):
    """A number that only scales is kept as it is: the space may merge."""

    def forward(self, x):
        return self.c((self.b(self.a(x).tanh()) / math.sqrt(self.hidden)).tanh())


def test_a_stored_number_that_only_scales_stays_and_its_space_merges():
    found = graph.collapse(random_(Scaled()), inputs(6, 5), 2)
    assert (found.policy.hidden, found.widths["a"]) == (8, 1)


def test_a_fixed_size_is_refused_with_its_line_and_its_space():
    def forward(net, x):
        return net.c(net.b(net.a(x)).reshape(3, 12))

    net = random_(Net(forward, a=Linear(5, 7), b=Linear(7, 12), c=Linear(12, 3)))
    with pytest.raises(UserError) as error:
        graph.collapse(net, inputs(3, 5), 1.0)
    assert "at test_widths.py:" in str(error.value) and "`return net.c(net.b(net.a(x))" in str(error.value)
    assert "its code fixes a size" in str(error.value) and "ignore=['b']" in str(error.value)
    assert graph.collapse(net, inputs(3, 5), 1.0, ignore=["b"]).widths["a"] < 7


def beside(net, x):
    return net.c((net.b(net.a(x).tanh()) * (1.0 / net.a(x).shape[-1])).tanh())


UNTOLD = {
    "actions alone": (lambda net, x: beside(net, x).argmax(-1), inputs(6, 5)),
    "sampled actions": (lambda net, x: torch.multinomial(beside(net, x).softmax(-1), 1), inputs(6, 5)),
    "nothing but zeros": (beside, (torch.zeros(6, 5).double(),)),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_a_number_shows_in_what_actions_were_chosen_by_and_where_inputs_are_zeros(name):
    forward, x = UNTOLD[name]
    layers = dict(a=Linear(5, 8, bias=False), b=Linear(8, 6, bias=False), c=Linear(6, 3, bias=False))
    net = random_(Net(forward, **layers))
    with torch.no_grad():
        net.a.weight[4:] = net.a.weight[:4]
    with pytest.raises(UserError, match=r"number of its units, .*ignore=\['a'\]"):
        graph.collapse(net, x, 0)


@pytest.mark.parametrize("how", ["bfloat16", "autocast"])
def test_rounding_of_short_numbers_is_no_width(how):
    def forward(net, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            return net.c(net.b(net.a(x).relu()).relu()).float()

    torch.manual_seed(1)
    net = Net(forward, a=Linear(5, 64), b=Linear(64, 64), c=Linear(64, 3))
    x = torch.randn(16, 5)
    if how == "bfloat16":
        net, x = net.bfloat16(), x.bfloat16()
    assert graph.collapse(net, (x,), 0.9).widths["b"] < 64
