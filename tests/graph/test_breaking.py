"""Symmetry breaking: what is superfluous becomes fresh, and the policy computes what it did."""

import pytest
import torch
from planted import Net, assert_same, flat, inputs, lifted, nature, random_, two_heads
from torch import nn

from pufferlib_kcore.graph.breaker import SymmetryBreaker

pytestmark = pytest.mark.usefixtures("exact")


def mlp(bend=torch.tanh, units=8):
    return random_(
        Net(
            lambda net, x: two_heads(net, bend(net.b(bend(net.a(x))))),
            a=nn.Linear(5, units), b=nn.Linear(units, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1),
        )
    )  # fmt: skip


def planted(kind):
    """A policy with exact fibers, and what it is called with."""
    if kind in ("lstm", "deep lstm"):
        base, given = nature(layers=1 if kind == "lstm" else 2)
    elif kind == "mlp":
        base, given = mlp(), inputs(6, 5)
    large, fibers = lifted(base, given)
    return large, given, fibers


@pytest.mark.parametrize("kind", ["mlp", "lstm", "deep lstm"])
def test_the_function_stays_and_the_fibers_part(kind):
    policy, given, fibers = planted(kind)
    with torch.no_grad():
        before = flat(policy(*given))
    breaker = SymmetryBreaker(policy, given, threshold=0, max_kl=1e-9)
    done = breaker.step(0)
    with torch.no_grad():
        assert_same(flat(policy(*given)), before)
    assert done.count == sum(len(labels) - labels.max() - 1 for labels in fibers.values()) == breaker.total
    assert done.kl == pytest.approx(0, abs=1e-12)
    for name, labels in fibers.items():
        assert done.before[name] == labels.max() + 1
        assert done.after[name] == len(labels)
    assert breaker.step(1).count == 0
