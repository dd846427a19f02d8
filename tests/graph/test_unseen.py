"""Code that tracing cannot look into, wrappers, odd objects: held, unwrapped, shared, or refused by name."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from planted import Net, assert_exact, assert_same, inputs, random_, two_heads
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")
Linear = nn.Linear


def around(net, x):
    return two_heads(net, net.c(net.inner(net.b(net.a(x).tanh()))).tanh())


def surrounded(inner):
    return Net(
        around,
        a=Linear(5, 7),
        b=Linear(7, 8),
        inner=inner,
        c=Linear(8, 9),
        actor=Linear(9, 3),
        critic=Linear(9, 1),
    )


@torch.jit.script
def twice(x):
    return torch.relu(x) * 2


class Twice(nn.Module):
    def forward(self, x):
        return twice(x)


class Vmapped(nn.Module):
    """Some layers at once, their weights stacked."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2, 4, 8)), nn.Parameter(torch.ones(2, 4))

    def forward(self, x):
        y = torch.func.vmap(lambda w, b: F.linear(x, w, b).relu())(self.weight, self.bias)
        return y.permute(1, 0, 2).reshape(len(x), -1)


HIDDEN = {
    "a scripted module": lambda: torch.jit.script(
        nn.Sequential(Linear(8, 6), nn.ReLU(), Linear(6, 8)).double()
    ),
    "a traced module": lambda: torch.jit.trace(Linear(8, 8).double(), torch.ones(3, 8).double()),
    "a scripted function": Twice,
    "vmap": Vmapped,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_cannot_be_looked_into_stays_and_what_stands_around_it_merges(name):
    net, x = random_(surrounded(HIDDEN[name]())), inputs(3, 5)
    found = graph.collapse(net, x, 2)
    assert (found.widths["a"], found.widths["b"], found.widths["c"]) == (1, 8, 1)
    assert "runs where tracing cannot look" in found.reasons["b"]
    names = [f"inner.{name}" for name, _ in net.inner.named_parameters()]
    assert all(name in str(found.report) for name in names)
    with torch.no_grad():
        whole = graph.collapse(net, x, 2, ignore=["a", "c"]).policy
        assert_same(whole(*x), net(*x), 0)


@pytest.mark.parametrize("whole", [False, True])
def test_compiled_modules_are_traced_as_they_were_written(whole):
    inner = nn.Sequential(Linear(8, 6), nn.ReLU(), Linear(6, 8))
    net = surrounded(inner if whole else torch.compile(inner))
    net = random_(torch.compile(net) if whole else net)
    found = graph.collapse(net, inputs(3, 5), 2)
    assert sum(width == 1 for width in found.widths.values()) == 5 + 1  # a, b, two inside, c; and one value
    assert type(found.policy) is type(net)


def test_a_compiled_method_that_is_bound_to_the_original_is_refused():
    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Linear(5, 8), Linear(8, 3)
            self.encode = torch.compile(self._encode)

        def _encode(self, x):
            return self.a(x).tanh()

        def forward(self, x):
            return self.b(self.encode(x))

    with pytest.raises(UserError, match="uses a.weight through a method that was bound before"):
        graph.collapse(Bound(), (torch.randn(3, 5),))


def test_weights_out_of_reach_are_refused(monkeypatch):
    monkeypatch.undo()  # float32
    quantize = torch.ao.quantization.quantize_dynamic
    mlp = nn.Sequential(Linear(5, 8), nn.ReLU(), Linear(8, 3))
    with pytest.raises(UserError, match="tracing saw no layer of Sequential.forward"):
        graph.collapse(quantize(mlp, {Linear}), (torch.randn(3, 5),))
    head = nn.Sequential(Linear(5, 8), nn.ReLU(), quantize(nn.Sequential(Linear(8, 3)), {Linear}))
    with pytest.raises(UserError, match=r"`quantized.linear_dynamic` in 2.0 is unknown: .*ignore=\['0'\]"):
        graph.collapse(head, (torch.randn(3, 5),))


def test_the_meta_device_is_named():
    net = random_(surrounded(nn.Identity())).to("meta")
    with pytest.raises(UserError, match="a.weight is on the meta device"):
        graph.collapse(net, (inputs(3, 5)[0].to("meta"),))


def test_locks_and_generators_are_shared_and_everything_else_is_copied():
    net = random_(surrounded(nn.Tanh()))
    net.lock, net.kept = threading.Lock(), {"lock": threading.RLock(), "seen": [torch.zeros(3)]}
    net.numbers = (i for i in range(3))
    found = graph.collapse(net, inputs(3, 5), 2).policy
    assert found.lock is net.lock and found.kept["lock"] is net.kept["lock"]
    assert found.kept is not net.kept and found.kept["seen"][0] is not net.kept["seen"][0]


def test_parameters_that_the_policy_does_not_register_are_numbers_like_others():
    net = random_(surrounded(nn.Identity()))
    net.apart = [Linear(5, 5).double()]
    net.body = lambda net, x: around(net, net.apart[0](x))
    found = graph.collapse(net, inputs(3, 5), 2)
    assert found.widths["a"] == 1 and "the policy does not register them: 2 parameters" in str(found.report)


class Renorm(nn.Module):
    """Batch renormalization: statistics in buffers that start as zeros and ones."""

    def __init__(self, units):
        super().__init__()
        self.register_buffer("mean", torch.zeros(units)), self.register_buffer("var", torch.ones(units))
        self.register_buffer("steps", torch.tensor(0))
        self.scale, self.shift = nn.Parameter(torch.ones(units)), nn.Parameter(torch.zeros(units))

    def forward(self, x):
        mean, var = self.mean, self.var
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            if self.steps > 5:
                deviation = (var + 1e-3).sqrt()
                ratio = (deviation / (self.var + 1e-3).sqrt()).clamp(1 / 3, 3)
                mean = mean - (mean - self.mean).clamp(-5, 5) * deviation / ratio
            self.mean += 0.01 * (mean.detach() - self.mean)
            self.var.lerp_(var.detach(), 0.01)
            self.steps += 1
        return self.scale * (x - mean[None]) / (var[None] + 1e-3).sqrt() + self.shift


@pytest.mark.parametrize("steps", [0, 9])
@pytest.mark.parametrize("training", [False, True])
def test_buffers_as_wide_as_a_layer_merge_with_it(training, steps):
    net = random_(surrounded(Renorm(8))).train(training)
    net.inner.steps += steps
    before = copy.deepcopy(net.state_dict())
    found = assert_exact(copy.deepcopy(net), inputs(6, 5), ["a", "b", "c"])
    assert found.policy.inner.mean.shape == (8,)
    small = graph.collapse(net, inputs(6, 5), 2).policy
    assert small.inner.mean.shape == small.inner.scale.shape == (1,)
    assert_same(net.state_dict().values(), before.values(), 0)


def test_statistics_of_observations_are_nobodys():
    net = random_(surrounded(nn.Identity()))
    net.register_buffer("mean", torch.zeros(5).double())
    net.body = lambda net, x: around(net, x - net.mean)
    found = graph.collapse(net, inputs(3, 5), 2)
    assert found.widths["a"] == 1 and found.policy.mean.shape == (5,)


class Answer:
    def __init__(self, actor, critic):
        self.logits, self.value = actor, critic


def named(answer):
    return answer.logits, answer.value


def test_objects_that_a_policy_returns_are_named_by_a_function():
    net = random_(surrounded(nn.Tanh()))
    net.body = lambda net, x: Answer(*around(net, x))
    with pytest.raises(UserError, match="returns a Answer: .* outputs=lambda out"):
        graph.collapse(net, inputs(3, 5))
    x = inputs(64, 5)
    found = assert_exact(net, x, ["a", "b", "c"], outputs=named)
    small = graph.collapse(net, x, 0.9, outputs=named, calibrate=[x])
    apart = graph.divergence(net, small.policy, [x], small.network, small.merges, outputs=named)
    assert apart.kl > 0 and found.kinds["critic"] == "critic"
    search = graph.search(net, x, [x], [x], target_params=0.5, outputs=named)
    taught = graph.distill(net, search.collapse, [x], [x], 3, outputs=named)
    assert isinstance(taught.policy(*x), Answer)
    assert graph.ablate(net, x, {"a": 3}, outputs=named).policy.a.out_features == 3
    assert len(graph.spaces(net, x, outputs=named).rows) == 5


def test_one_argument_needs_no_tuple():
    net = random_(surrounded(nn.Tanh()))
    (x,) = inputs(64, 5)
    a, b = graph.collapse(net, x, 0.9, calibrate=[x]), graph.collapse(net, (x,), 0.9, calibrate=[(x,)])
    assert_same(a.policy.parameters(), b.policy.parameters(), 0)
    assert graph.divergence(net, a.policy, [x], a.network, a.merges) == graph.divergence(
        net, b.policy, [(x,)], b.network, b.merges
    )
    assert len(graph.spaces(net, x).rows) == 5 and graph.lift(net, x, {"a": [0, 1, 2, 3, 4, 5, 6, 6]})


def test_a_policy_that_does_not_run_says_where():
    net = random_(surrounded(nn.Tanh()))
    with pytest.raises(
        UserError, match="Net.forward does not run on the example inputs .* at test_unseen.py:"
    ):
        graph.collapse(net, inputs(3, 4))


# What is the caller's -------------------------------------------------------------------------------


class Writes(nn.Module):
    """Writes into the state that it is given, into its observations, and into itself."""

    def __init__(self):
        super().__init__()
        self.see = nn.utils.parametrizations.spectral_norm(Linear(5, 8))
        self.cell, self.act, self.value = nn.LSTM(8, 8), Linear(8, 6), Linear(8, 1)
        self.calls, self.seen, self.total, self.last = 0, [], torch.zeros(3), None

    def forward(self, x, state):
        self.calls, self.last = self.calls + 1, x
        self.seen.append(x)
        self.total += 1
        held = None if state["h"] is None else (state["h"], state["c"])
        y, (state["h"], state["c"]) = self.cell(torch.tanh(self.see(x.mul_(2))), held)
        return self.act(y), self.value(y)


def test_nothing_of_the_callers_is_changed():
    torch.manual_seed(0)
    net = Writes().double().train()
    seen = [(inputs(6, 3, 5)[0] + i, {"h": None, "c": None, "more": [torch.ones(2)]}) for i in range(3)]
    before, weights = copy.deepcopy(seen), {n: x.clone() for n, x in net.state_dict().items()}
    same = graph.collapse(net, seen[0], 0.0)
    assert graph.divergence(net, same.policy, seen, same.network, same.merges).kl < 1e-12
    found = graph.search(net, seen[0], seen[:2], seen[2:], target_params=0.7)
    graph.distill(net, found.collapse, seen[:2], seen[2:], 2)
    graph.collapse(net, seen[0], 0.9, calibrate=seen, colors="activations")
    graph.lift(net, seen[0], {"cell": [0, 1, 2, 3, 4, 5, 6, 7, 0]}), graph.ablate(net, seen[0], {"cell": 4})
    for (x, state), (x_before, state_before) in zip(seen, before, strict=True):
        assert torch.equal(x, x_before) and state["h"] is None and state.keys() == state_before.keys()
    assert all(torch.equal(x, weights[name]) for name, x in net.state_dict().items())
    assert (net.calls, net.seen, net.last) == (0, [], None) and not net.total.any()


def test_weights_that_unknown_operations_compute_stay_and_the_rest_merges():
    class Bounded(nn.Module):
        def forward(self, w):
            return w.renorm(2, 0, 1.0)

    a = Linear(5, 7)
    nn.utils.parametrize.register_parametrization(a, "weight", Bounded())
    layers = dict(a=a, b=Linear(7, 9), actor=Linear(9, 3), critic=Linear(9, 1))
    net = random_(Net(lambda net, x: two_heads(net, net.b(net.a(x).tanh())), **layers))
    found = graph.collapse(net, inputs(3, 5), 2)
    assert found.widths["b"] == 1 and "parametrizations.weight.original" in str(found.report.notes)


def test_coin_flips_stay_coin_flips_while_a_collapse_is_tried():
    def forward(net, x):
        coin = torch.distributions.Bernoulli(logits=net.act(net.a(x).tanh()), validate_args=True)
        flips = coin.sample()
        return flips, coin.log_prob(flips)

    net = random_(Net(forward, a=Linear(5, 8), act=Linear(8, 3)))
    assert graph.collapse(net, inputs(3, 5), 2).widths["a"] == 1


def test_inputs_without_a_row_are_refused():
    with pytest.raises(UserError, match="example inputs are empty"):
        graph.collapse(nn.Sequential(Linear(5, 8), nn.ReLU(), Linear(8, 3)), torch.zeros(0, 5))
