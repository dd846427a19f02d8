"""Symmetry breaking: what is superfluous becomes fresh, and the policy computes what it did."""

import copy

import pytest
import torch
from planted import Net, assert_same, flat, inputs, lifted, nature, random_, two_heads
from torch import nn

from pufferlib_kcore.graph.breaker import SymmetryBreaker
from pufferlib_kcore.graph.plasticity import by_unit

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


class Trunk(nn.Module):
    """Convolution, norm, a trunk that two heads share, and a GRU."""

    def __init__(self, norm):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 5, 3), norm(5)
        self.trunk = nn.Linear(5 * 4, 7)
        self.gru = nn.GRU(7, 6, batch_first=True)
        self.actor, self.critic = nn.Linear(6, 3), nn.Linear(6, 1)

    def forward(self, x):
        h = torch.tanh(self.trunk(torch.relu(self.norm(self.conv(x))).flatten(1)))
        h, _ = self.gru(h[None])
        return self.actor(h), self.critic(h)


def trunk(norm):
    base, given = random_(Trunk(norm)).eval(), (torch.randn(4, 2, 4, 4).double(),)
    for x in base.buffers():
        if x.is_floating_point():
            x.copy_(torch.rand(x.shape).double() + 0.5)
    return lifted(base, given)[0].eval(), given


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm2d])
def test_through_conv_norm_shared_trunk_and_gru(norm):
    policy, given = trunk(norm)
    before = flat(policy(*given))
    done = SymmetryBreaker(policy, given, threshold=0).step(0)
    assert len(done.recycled) == 3 and done.count >= 8  # conv, trunk, gru
    assert_same(flat(policy(*given)), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=1e-3),
        lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0),
        lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    ],
    ids=["adam", "adamw", "sgd", "rmsprop"],
)
def test_a_fresh_unit_learns_and_nothing_is_remembered_of_the_old_one(make):
    policy, given, _ = planted("mlp")
    optimizer = make(policy.parameters())

    def learn():
        optimizer.zero_grad()
        sum((x - 1).square().sum() for x in flat(policy(*given))).backward()
        optimizer.step()

    learn()
    SymmetryBreaker(policy, given, optimizer, threshold=2, max_kl=None).step(0)  # all but one of a space
    moments = [m for state in optimizer.state.values() for m in state.values() if m.ndim]
    done = [(p, p.detach().clone()) for p in (policy.b.weight, policy.actor.weight)]
    silent = [(x == 0).all(0) for _, x in done]
    assert all(s.any() for s in silent) and moments
    rows = silent[1]  # units of b that nobody reads
    for name, moment in optimizer.state[policy.b.weight].items():
        if moment.ndim:
            assert (moment[rows] == 0).all() and (moment[~rows] != 0).any(), name
    learn()
    for (p, old), s in zip(done, silent, strict=True):
        assert ((p - old)[:, s] != 0).any(), "outgoing weights move with the first update"


@pytest.mark.parametrize("kind", ["mlp", "lstm", "deep lstm", "batchnorm"])
def test_everybody_who_is_fresh_is_read_again_after_one_update_and_learns_with_the_next(kind):
    """Nobody reads it, and so it takes no gradient yet; its readers' weights do, and then it does."""
    policy, given = trunk(nn.BatchNorm2d) if kind == "batchnorm" else planted(kind)[:2]
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)

    def learn():
        optimizer.zero_grad()
        sum((x - 1).square().sum() for x in flat(policy(*given))).backward()
        optimizer.step()
        tensors = {name: p.detach().clone() for name, p in policy.named_parameters()}
        return [by_unit(breaker.traced.network, tensors, role) for role in ("in", "out")]

    breaker = SymmetryBreaker(policy, given, optimizer, threshold=0)
    done = breaker.step(0)
    (read, written), (_, then) = learn(), learn()
    assert done.count > 3
    for name, units in done.recycled.items():
        awake = (then[name][units] != written[name][units]).any(1)
        assert awake.any(), name  # a ReLU may answer nothing on these few states
        assert (read[name][units][awake] != 0).any(1).all(), name


def test_activations_find_units_that_answer_alike_though_their_weights_differ():
    """relu(x - 5) and relu(2 x - 10) answer nothing on these states; two others answer x."""
    policy = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        policy[0].weight.copy_(torch.tensor([[1.0], [2.0], [1.0], [1.0]]))
        policy[0].bias.copy_(torch.tensor([-5.0, -10.0, 0.0, 0.0]))
        policy[0].weight[3] += 1e-12
    given = (torch.rand(30, 1).double() + 0.5,)
    before = policy(*given)
    done = SymmetryBreaker(policy, given, threshold=1e-3, colors="activations").step(0)
    assert {len(set(done.recycled["0"]) & {0, 1}), len(set(done.recycled["0"]) & {2, 3})} == {1}
    torch.testing.assert_close(policy(*given), before, rtol=0, atol=1e-10)


def test_collapse_after_breaking_finds_nothing_more_at_zero():
    policy, given, _ = planted("mlp")
    breaker = SymmetryBreaker(policy, given, threshold=0)
    breaker.step(0)
    assert all(k == policy_units for k, policy_units in zip(
        breaker._fibers(breaker.traced.color(0).merges).values(),
        [len(a) for a in breaker.ages.values()], strict=True))  # fmt: skip


def near_copies(apart):
    """Units that nearly compute the same, read with opposite signs by the value alone."""
    policy = mlp(units=8)
    with torch.no_grad():
        for j in (1, 2, 3):
            policy.a.weight[j] = policy.a.weight[0] + apart * torch.randn(5).double() * j
            policy.a.bias[j] = policy.a.bias[0]
    return policy, inputs(50, 5)


@pytest.mark.parametrize("bound", ["max_kl", "max_value_error"])
def test_no_more_are_recycled_than_actions_and_values_bear(bound):
    """A bound between what one and what all of them cost lets some through, and is kept."""
    policy, given = near_copies(0.2)
    free = SymmetryBreaker(copy.deepcopy(policy), given, threshold=0.9, probe=[given]).step(0)
    before = policy(*given)
    most = getattr(free, "kl" if bound == "max_kl" else "value_error")
    breaker = SymmetryBreaker(policy, given, threshold=0.9, probe=[given], **{bound: most / 4})
    done = breaker.step(0)
    assert 0 < done.count < free.count
    after = policy(*given)
    error = (after[1] - before[1]).square().mean() / before[1].var()
    assert done.value_error == pytest.approx(float(error), rel=1e-6)
    assert getattr(done, "kl" if bound == "max_kl" else "value_error") <= most / 4
    assert SymmetryBreaker(copy.deepcopy(policy), given, threshold=0.9, **{bound: 0.0}).step(0).count == 0
