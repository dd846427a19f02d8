"""Multiply-accumulates counted from traced shapes are those that torch counts as it runs."""

import pufferlib.models
import pytest
import torch
from planted import ATARI, PROCGEN, Net, nature, random_, screens
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pufferlib_kcore import graph

pytestmark = [pytest.mark.usefixtures("exact"), pytest.mark.filterwarnings("ignore:TF32")]


def torchs_count(policy, inputs):
    """Half of torch's floating-point operations; in kernels that it counts, as oneDNN's LSTM is none."""
    whole = torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), whole[0], whole[1], FlopCounterMode(display=False) as counter:
        policy(*inputs)
    return counter.get_total_flops() // 2


def attentive(net, x):
    """(4, 3, 6): length, batch, width; keys of a width of their own, and one added to them."""
    q, k, v = (linear(x) for linear in (net.q, net.k, net.v))
    y = F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in (q, k, v))).transpose(0, 1)
    for need in (True, False):
        y = net.own(y, y, y, need_weights=need)[0]
    return net.other(y, k[..., :5], v[..., :2])[0]


def attention():
    return Net(
        attentive,
        **{name: nn.Linear(6, 6) for name in "qkv"},
        own=nn.MultiheadAttention(6, 2),
        other=nn.MultiheadAttention(6, 3, kdim=5, vdim=2, add_bias_kv=True, add_zero_attn=True),
    )


def cells(net, x):
    h = net.gru(net.rnn(x, x[:, 1:]), x.new_ones(len(x), 4))
    return net.lstm(h, (h, h))[0]


def products(net, x):
    """x: (6, 5)"""
    h = torch.addmm(net.b, x, net.w) @ net.w.T
    h = torch.baddbmm(h[None], h.expand(2, -1, -1), torch.stack([net.s, net.s])).sum(0)
    h = torch.mm(h, net.s) + torch.bmm(h[None], net.s[None])[0]
    h = h + net.s.__rmatmul__(h) + torch.einsum("...i,ij->...j", h, net.s)
    h = h + torch.einsum("ki,kj,jl->il", h, h, net.s)[0] + torch.einsum("ki,kj->kj", h, h)
    return torch.einsum("bi,oi->bo", [h, net.w.T]) + torch.einsum("bi,oij,bj", h, net.t, h)


def matrices():
    net = Net(products)
    for name, shape in {"b": (7,), "w": (5, 7), "s": (5, 5), "t": (7, 5, 5)}.items():
        net.register_parameter(name, nn.Parameter(torch.randn(shape)))
    return net


class Recurrent(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.core = kind(5, 8, **how)

    def forward(self, x):
        return self.core(x)[0]


def convolutions():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2, output_padding=1),
        nn.Conv2d(8, 8, (3, 1), groups=8, dilation=2, padding="same"),
        nn.Flatten(2),
        nn.Conv1d(8, 3, 5),
        nn.ConvTranspose1d(3, 2, 4),
    )


POLICIES = {
    "PufferLib's convolutions and LSTM": lambda: nature(layers=2),
    "PufferLib's ResNet": lambda: (
        pufferlib.models.ProcgenResnet(PROCGEN, cnn_width=4, mlp_width=10),
        (screens(2, shape=(16, 16, 3)),),
    ),
    "PufferLib's convolutions": lambda: (
        pufferlib.models.Convolutional(ATARI, framestack=1, flat_size=256, hidden_size=12, output_size=12),
        (screens(3),),
    ),
    "convolutions": lambda: (convolutions(), (torch.randn(2, 4, 9, 9),)),
    "a picture alone": lambda: (nn.Conv2d(4, 6, 3), (torch.randn(4, 9, 9),)),
    "attention": lambda: (attention(), (torch.randn(4, 3, 6),)),
    "cells": lambda: (
        Net(cells, rnn=nn.RNNCell(5, 4), gru=nn.GRUCell(4, 4), lstm=nn.LSTMCell(4, 4)),
        (torch.randn(6, 5),),
    ),
    "matrices": lambda: (matrices(), (torch.randn(6, 5),)),
    **{
        f"{kind.__name__} {layers}": lambda kind=kind, layers=layers: (
            Recurrent(kind, num_layers=layers),
            (torch.randn(7, 3, 5),),
        )
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
        for layers in (1, 3)
    },
    "a sequence alone": lambda: (Recurrent(nn.LSTM), (torch.randn(7, 5),)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_macs_are_those_that_torch_counts(name):
    policy, inputs = POLICIES[name]()
    policy, inputs = random_(policy), tuple(x if x is None else x.double() for x in inputs)
    assert graph.trace(policy, inputs).network.macs == torchs_count(policy, inputs) > 0


def test_projected_and_bidirectional_modules_are_counted():
    core = nn.LSTM(5, 8, bidirectional=True, proj_size=3, num_layers=2)
    policy, x = (
        Net(lambda net, x: net.act(net.core(x)[0]), core=core, act=nn.Linear(6, 2)),
        torch.randn(7, 3, 5),
    )
    assert graph.trace(policy, (x,), ignore=["core"]).network.macs == torchs_count(policy, (x,))


def test_what_torch_does_not_count_is_multiplied_out():
    """A matrix times a vector, and a bilinear layer."""
    net = random_(Net(lambda net, x: (net.two(x, x), net.two.weight[0] @ x[0]), two=nn.Bilinear(5, 5, 3)))
    x = torch.randn(4, 5).double()
    assert graph.trace(net, (x,)).network.macs == 4 * 3 * 5 * 5 + 5 * 5


def test_the_report_counts_both_and_says_nothing_of_what_cannot_be_counted():
    policy, inputs = random_(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))), torch.randn(6, 5)
    found = graph.collapse(policy, (inputs.double(),), 1.2)
    width = found.widths["0"]
    assert (found.report.macs_before, found.report.macs_after) == (6 * 8 * (5 + 3), 6 * width * (5 + 3))
    net = random_(Net(lambda net, x: torch.cdist(net.a(x), net.b(x)), a=nn.Linear(5, 8), b=nn.Linear(5, 8)))
    found = graph.collapse(net, (inputs.double(),), 0, ignore=["a", "b"])
    assert found.report.macs_before is None and "MACs" not in str(found.report)
