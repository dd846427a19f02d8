"""Activations: what spaces compute on recorded inputs, after their nonlinearities, over time and places."""

import pytest
import torch
from planted import Net, inputs, nature, random_, screens
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.activations import activations, all_activations
from pufferlib_kcore.graph.calibration import readers_of

pytestmark = pytest.mark.usefixtures("exact")


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def seen(policy, recorded, **how):
    traced = graph.trace(policy, recorded[0], **how)
    with torch.no_grad():
        return all_activations(policy, traced.network, recorded)


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_they_are_read_after_the_nonlinearity_by_the_first_that_reads_them(inplace):
    """One layer reads `a` as it is rectified, a later one as it is squared."""

    def forward(net, x):
        h = net.bend(net.a(x))
        return net.b(h), net.c(h * h)

    layers = dict(a=nn.Linear(5, 8), bend=nn.ReLU(inplace), b=nn.Linear(8, 3), c=nn.Linear(8, 1))
    policy, recorded = random_(Net(forward, **layers)), [inputs(6, 5), inputs(2, 3, 5)]
    found = seen(policy, recorded)
    assert set(found) == {"a"}  # nothing reads outputs
    with torch.no_grad():
        same(found["a"], torch.cat([policy.a(x).relu().reshape(-1, 8) for (x,) in recorded]))


def test_they_come_call_by_call():
    policy, recorded = random_(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))), [inputs(3, 5)] * 2
    network = graph.trace(policy, recorded[0]).network
    calls = activations(policy, network, recorded)
    assert [next(calls)["0"].shape for _ in recorded] == [(3, 4), (3, 4)]
    assert next(calls, None) is None


def test_channels_are_read_place_by_place():
    policy, _ = nature()
    recorded = [(screens(3, seed=i), None) for i in range(2)]
    found, convolutions = seen(policy, recorded), policy.policy.network
    with torch.no_grad():
        x = torch.cat([x for x, _ in recorded]).double() / 255
        flattened = convolutions[:6](x).flatten(2).transpose(1, 2).reshape(-1, 64)
        same(found["policy.network.4"], flattened)
        read = convolutions[:4](x).flatten(2).transpose(1, 2).reshape(-1, 64)  # in windows, by the next
    assert len(found["policy.network.2"]) == 6 * 2 * 2 * 9
    apart = torch.cdist(found["policy.network.2"], read, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.min(0).values.max() == apart.min(1).values.max() == 0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_units_are_read_at_every_step(kind):
    def forward(net, x):
        return net.actor(net.core(net.a(x).tanh())[0])

    layers = dict(a=nn.Linear(5, 6), core=kind(6, 7, 2), actor=nn.Linear(7, 3))
    policy, recorded = random_(Net(forward, **layers)), [inputs(4, 3, 5)]
    found = seen(policy, recorded)
    with torch.no_grad():
        x = policy.a(*recorded[0]).tanh()
        same(found["a"], x.reshape(-1, 6))
        same(found["core.l1"], policy.core(x)[0].reshape(-1, 7))
        below = kind(6, 7).double()
        below.load_state_dict({n: p for n, p in policy.core.state_dict().items() if n.endswith("l0")})
        same(found["core.l0"], below(x)[0].reshape(-1, 7))


def test_a_cell_that_runs_step_by_step_is_read_at_every_step_and_where_nobody_else_does_before_each():
    def unrolled(net, x):
        h = torch.zeros(3, 6).double()
        return [net.actor(h := net.core(step, h)) for step in x]

    layers = dict(core=nn.GRUCell(5, 6), actor=nn.Linear(6, 3))
    policy, (x,) = random_(Net(unrolled, **layers)), inputs(4, 3, 5)
    found = seen(policy, [(x,)])
    alone = random_(Net(lambda net, x: net.core(x)[0], core=nn.GRU(5, 6)))
    alone.core.load_state_dict({f"{n}_l0": p for n, p in policy.core.state_dict().items()})
    with torch.no_grad():
        states = alone(x)
        same(found["core"], states.reshape(-1, 6))
        before = torch.cat([torch.zeros(1, 3, 6), states[:-1]]).reshape(-1, 6)
    same(seen(alone, [(x,)])["core"], before)


def test_any_method_and_policies_stay_as_they_are():
    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)

        def act(self, x):
            return self.b(self.norm(self.a(x)).relu())

    policy, x = random_(Agent()), inputs(7, 5)
    before, chance = policy.norm.running_mean.clone(), torch.random.get_rng_state()
    found = seen(policy, [x], method="act")
    assert torch.equal(policy.norm.running_mean, before) and torch.equal(torch.random.get_rng_state(), chance)
    with torch.no_grad():
        same(found["a"], policy.norm(policy.a(*x)).relu())


def test_a_calibration_reads_them():
    """Two routes to one covariance."""
    policy, recorded = random_(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))), [inputs(30, 5)]
    network = graph.trace(policy, recorded[0]).network
    (reader,) = readers_of(policy, network, recorded)["0"]
    same(reader.covariance, torch.cov(seen(policy, recorded)["0"].T, correction=0))


def test_what_is_not_finite_is_refused_by_name():
    policy, (x,) = random_(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))), inputs(3, 5)
    bad = x.clone()
    bad[1, 2] = torch.nan
    with pytest.raises(UserError, match=r"^what 0.weight reads on recorded inputs \[1\] holds NaN"):
        seen(policy, [(x,), (bad,)])
