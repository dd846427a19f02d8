"""Calibration: what is recorded is what layers compute; refits are exact where a smaller policy can be."""

import numpy as np
import pufferlib.models
import pytest
import torch
from planted import ATARI, Net, assert_same, episodes, lifted, nature, play, random_, screens
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.calibration import readers_of, smaller_inputs
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.recording import ROWS, Recorder

pytestmark = pytest.mark.usefixtures("exact")


def x(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYERS = {
    "linear": (nn.Linear(3, 4), (x(5, 2, 3),)),
    "linear without bias": (nn.Linear(3, 4, bias=False), (x(5, 3),)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1), (x(5, 3, 12),)),
    "conv1d of one": (nn.Conv1d(3, 4, 3), (x(3, 12),)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 1)), (x(5, 3, 12, 9),)),
    "conv3d": (nn.Conv3d(2, 4, (3, 2, 1)), (x(5, 2, 6, 7, 8),)),
    "many places": (nn.Conv2d(1, 2, 1), (x(3, 1, 80, 80),)),
    "lstm": (nn.LSTM(3, 4, 2), (x(5, 2, 3),)),
    "lstm, batch first": (nn.LSTM(3, 4, 2, batch_first=True), (x(5, 2, 3),)),
    "lstm with state": (nn.LSTM(3, 4), (x(5, 2, 3), (x(1, 2, 4), x(1, 2, 4, seed=1)))),
    "gru": (nn.GRU(3, 4, 2), (x(5, 2, 3),)),
    "rnn": (nn.RNN(3, 4, 2, nonlinearity="relu", bias=False), (x(5, 3),)),
    "lstm cell": (nn.LSTMCell(3, 4), (x(5, 3),)),
    "gru cell": (nn.GRUCell(3, 4), (x(5, 3),)),
    "rnn cell": (nn.RNNCell(3, 4), (x(5, 3), x(5, 4))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_call_holds_what_a_layer_read_and_computed(name):
    layer, inputs = LAYERS[name]
    layer = layer.double()
    out, calls = Recorder(layer).run("forward", inputs)
    for found, expected in zip(tensors_in(out), tensors_in(layer(*inputs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    parameters = dict(layer.named_parameters())
    assert {n for call in calls for n in (*call.weights, *call.biases)} == parameters.keys()
    for call in calls:
        z = sum(i @ parameters[w].flatten(1).T for i, w in zip(call.inputs, call.weights, strict=True))
        z = z + sum(parameters[bias] for bias in call.biases)
        torch.testing.assert_close(z, call.targets, rtol=1e-12, atol=1e-12)
        assert len(call.targets) <= ROWS


def test_a_call_stays_as_it_was_whatever_is_written_into_its_tensors_later():
    def forward(net, x):
        h = net.a(x)
        h += net.b(h).relu_()
        return net.c(h)

    layers = dict(a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2))
    policy, inputs = random_(Net(forward, **layers)), (x(5, 3),)
    _, (first, second, _) = Recorder(policy).run("forward", inputs)
    torch.testing.assert_close(first.targets, policy.a(*inputs))
    torch.testing.assert_close(second.inputs[0], first.targets)
    torch.testing.assert_close(second.targets, policy.b(first.targets))


def test_a_run_for_one_layer_ends_with_it():
    policy = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)).double()
    calls = Recorder(policy, ("1.weight",)).run_for("forward", (x(6, 3),), 1)
    assert [call.weights for call in calls] == [("1.weight",)]


def recorded(seed=3):
    """Stretches of screens, (B, T, ..), the state zero at their start."""
    return [(screens(4, 6, seed=seed + i), None) for i in range(40)]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_lifted_policy_needs_no_refit(layers):
    """Where merging is exact, calibration changes nothing: the same policy, to rounding."""
    base, inputs = nature(layers=layers)
    large, _ = lifted(base, inputs)
    plain = graph.collapse(large, inputs, 0)
    fitted = graph.collapse(large, inputs, 0, calibrate=recorded()[:4])
    for one, other in zip(plain.policy.parameters(), fitted.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_activations_find_a_lifted_policys_base_or_less_and_it_computes_the_same(layers):
    base, inputs = nature(layers=layers)
    large, _ = lifted(base, inputs)
    found = graph.collapse(large, inputs, 1e-9, calibrate=recorded(), colors="activations")
    for space in graph.spaces(base, inputs).rows:
        assert found.widths[space["space"]] <= space["units"]
    assert found.report.params_after <= sum(p.numel() for p in base.parameters())
    with torch.no_grad():
        assert_same(play(found.policy, episodes()), play(large, episodes()), 1e-3)
    assert graph.divergence(large, found.policy, recorded(99), found.network, found.merges).kl < 1e-6


def test_linear_dependence_is_found_that_no_two_neurons_show():
    """A neuron that is the sum of two others', where nothing bends in between: its readers take it over."""
    policy = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    with torch.no_grad():
        policy[0].weight[4] = policy[0].weight[0] + policy[0].weight[1]
    data = [(x(200, 6),)]
    assert graph.collapse(policy, data[0], 1e-6).widths["0"] == 5
    found = graph.collapse(policy, data[0], 1e-6, calibrate=data, colors="activations")
    assert found.widths["0"] == 4
    torch.testing.assert_close(found.policy(*data[0]), policy(*data[0]), rtol=1e-3, atol=1e-4)


class Mlp(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, width), nn.ReLU())
        self.actor, self.critic = nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, x):
        h = self.body(x)
        return self.actor(h), self.critic(h)


def test_a_refit_is_nearer_than_no_refit_and_activations_nearer_than_weights():
    policy, data, others = random_(Mlp()), [(x(600, 5),)], [(x(600, 5, seed=1),)]

    def kl(found):
        return graph.divergence(policy, found.policy, others, found.network, found.merges).kl

    merged = graph.collapse(policy, data[0], 0.6)
    fitted = graph.collapse(policy, data[0], 0.6, calibrate=data)
    assert fitted.widths == merged.widths and merged.widths["body.0"] < 32
    assert kl(fitted) < kl(merged) / 2
    size = merged.report.params_after / merged.report.params_before
    found = graph.search(policy, data[0], data, others, target_params=size).collapse
    assert found.report.params_after <= merged.report.params_after and kl(found) < kl(fitted)


def test_a_refit_is_the_least_squares_solution():
    """Two routes: the engine's refit of the last layer, and lstsq on what the smaller policy gives it."""
    policy, data = random_(Mlp()), [(x(600, 5),), (x(300, 5, seed=1),)]
    found = graph.collapse(policy, data[0], 0.6, calibrate=data)
    with torch.no_grad():
        h = torch.cat([found.policy.body(*inputs) for inputs in data])
        h = torch.cat([h, torch.ones(len(h), 1)], 1)
        wanted = torch.cat([policy(*inputs)[0] for inputs in data])
        best = h @ torch.linalg.lstsq(h, wanted, driver="gelsd").solution
        got = torch.cat([found.policy(*inputs)[0] for inputs in data])
    assert (got - wanted).square().sum() == pytest.approx(float((best - wanted).square().sum()), rel=1e-3)
    torch.testing.assert_close(got, best, rtol=1e-2, atol=1e-2)


def test_layers_of_one_lstm_stay_equally_wide_and_round_to_rounds():
    base, inputs = nature(layers=2)
    found = graph.collapse(base, inputs, 0.2, calibrate=recorded()[:6], colors="activations", round_to=4)
    assert found.widths["recurrent.l0"] == found.widths["recurrent.l1"]
    assert all(width % 4 == 0 for name, width in found.widths.items() if found.reasons[name] != "output")
    weights = graph.collapse(base, inputs, 0.9, round_to=8)
    units = {row["space"]: row["units"] for row in weights.report.rows}
    for name, width in weights.widths.items():
        assert width % 8 == 0 or width == units[name] or weights.reasons[name] == "output"
    with torch.no_grad():
        found.policy(*inputs)


def test_state_given_to_the_smaller_policy_is_that_of_the_units_it_kept():
    base, inputs = nature()
    state = (x(1, 2, 20), x(1, 2, 20, seed=1))
    found = graph.collapse(base, inputs, 0.3, calibrate=[(inputs[0], state)], colors="activations")
    (cut,) = smaller_inputs(base, found.network, [(inputs[0], state)], found.merges)
    kept = np.flatnonzero(found.merges["recurrent"].pick)
    labels = found.fibers["recurrent"][kept]
    torch.testing.assert_close(cut[1][0][..., labels], state[0][..., kept])
    assert cut[0] is not inputs[0] and torch.equal(cut[0], inputs[0])


def test_readers_see_covariances_place_by_place():
    """What a linear layer reads of channels flattened before it: each place's own mean is taken off."""
    policy = pufferlib.models.Convolutional(ATARI, framestack=1, flat_size=256, hidden_size=8, output_size=8)
    policy = random_(policy)
    inputs = (screens(30),)
    reader = readers_of(policy, graph.trace(policy, inputs).network, [inputs])["network.4"][0]
    with torch.no_grad():
        seen = policy.network[:6](inputs[0].double() / 255).flatten(2)  # (30, 64, 4)
    expected = sum(torch.cov(seen[:, :, place].T, correction=0) for place in range(4))
    torch.testing.assert_close(reader.covariance, expected, rtol=1e-9, atol=1e-9)


def test_a_large_constant_does_not_cancel_what_varies():
    """Two routes: what the reader sees, and the weights' own arithmetic on the inputs' covariance."""
    policy = random_(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)))
    with torch.no_grad():
        policy[0].bias += 1e7
    data = [(x(50, 6, seed=i),) for i in range(4)]
    (reader,) = readers_of(policy, graph.trace(policy, data[0]).network, data)["0"]
    weight = policy[0].weight.detach()
    expected = weight @ torch.cov(torch.cat([i for (i,) in data]).T, correction=0) @ weight.T
    torch.testing.assert_close(reader.covariance, expected, rtol=1e-6, atol=1e-6)


class Goal(nn.Module):
    """A branch that only the goal moves; `bias` of what reads it."""

    def __init__(self, bias=True, width=12):
        super().__init__()
        self.see, self.goal = nn.Linear(5, width), nn.Linear(4, width)
        self.act, self.value = nn.Linear(2 * width, 3, bias), nn.Linear(2 * width, 1, bias)

    def forward(self, x, goal):
        h = torch.cat([self.see(x).relu(), self.goal(goal).tanh()], -1)
        return self.act(h), self.value(h)


def goal_states(count, states=40, dtype=torch.float64):
    return [(x(states, 5, seed=i).to(dtype), x(4, seed=99).to(dtype).expand(states, 4)) for i in range(count)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_a_constant_branch_is_one_unit_and_computes_the_same(bias, dtype, tolerance):
    """Its readers' biases take it over; without them, a unit that is left stands for all."""
    policy, data = random_(Goal(bias)).to(dtype), goal_states(4, dtype=dtype)
    found = graph.collapse(policy, data[0], 1e-9, calibrate=data[:2], colors="activations")
    assert (found.widths["see"], found.widths["goal"]) == (12, 1)
    for seen in data:
        assert_same(found.policy(*seen), policy(*seen), tolerance)
    searched = graph.search(policy, data[0], data[:2], data[2:], target_params=0.5)
    assert searched.collapse.widths["goal"] == 1 and searched.frontier[0].kl < tolerance
    assert all(p.isfinite().all() for p in searched.collapse.policy.parameters())


def test_constant_channels_are_left_to_biases_place_by_place():
    base, inputs = nature(input_size=12, hidden=6)
    constant = {"policy.network.2": [1, 5, 6], "policy.network.4": [0, 9], "policy.network.7": [2, 3]}
    with torch.no_grad():
        for name, units in constant.items():
            base.get_submodule(name).weight[units], base.get_submodule(name).bias[units] = 0, 0.5
    found = graph.collapse(base, inputs, 1e-9, calibrate=recorded()[:8], colors="activations")
    for name, units in constant.items():
        assert not found.merges[name].pick[units].any() and not found.merges[name].gain[units].any()
    with torch.no_grad():
        assert_same(play(found.policy, episodes()), play(base, episodes()), 1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("states", [1, 7])
def test_where_nothing_moves_the_one_answer_is_kept(bias, states):
    policy = random_(Goal(bias))
    data = [(x(1, 5).expand(states, 5), x(1, 4).expand(states, 4))]
    for colors, threshold in (("activations", 0.1), ("weights", 0.9), ("weights", 2)):
        found = graph.collapse(policy, data[0], threshold, calibrate=data, colors=colors)
        assert_same(found.policy(*data[0]), policy(*data[0]), 1e-8)
    searched = graph.search(policy, data[0], data, data, max_kl=0.1)
    assert set(searched.collapse.widths.values()) == {1, 3} and searched.frontier[-1].value_error < 1e-6
    taught = graph.distill(policy, searched.collapse, data, data, steps=2)
    assert all(p.isfinite().all() for p in taught.policy.parameters())


def spoilt(what, value=float("nan")):
    """A policy, recorded inputs and others, of which one holds NaN."""
    policy, data, others = random_(Mlp()), [(x(9, 5),), (x(9, 5, seed=1),)], [(x(9, 5, seed=2),)]
    with torch.no_grad():
        for place in {"weight": policy.body[2].weight, "state": data[1][0], "other": others[0][0]}.items():
            if place[0] == what:
                place[1][1, 2] = value
    return policy, data, others


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_place(value):
    healthy, data, others = spoilt("nothing")
    found = graph.collapse(healthy, data[0], 0.9)

    policy, *_ = spoilt("weight", value)
    for refused in (
        lambda: graph.collapse(policy, data[0], 0.9),
        lambda: graph.ablate(policy, data[0], {"body.0": 3}),
        lambda: graph.search(policy, data[0], data, others, target_params=0.5),
        lambda: graph.divergence(policy, found.policy, others, found.network, found.merges),
        lambda: graph.distill(policy, found, data, others, steps=1),
    ):
        with pytest.raises(UserError, match="^body.2.weight holds .* in 1 of its 1024 numbers"):
            refused()

    _, states, _ = spoilt("state", value)
    for refused in (
        lambda: graph.collapse(healthy, data[0], 0.9, calibrate=states, colors="activations"),
        lambda: graph.collapse(healthy, data[0], 0.9, calibrate=states),
        lambda: graph.search(healthy, data[0], states, others, target_params=0.5),
    ):
        with pytest.raises(UserError, match=r"^what body.0.weight reads on recorded inputs \[1\] holds"):
            refused()

    _, _, unseen = spoilt("other")
    for refused in (
        lambda: graph.search(healthy, data[0], data, unseen, target_params=0.5),
        lambda: graph.divergence(healthy, found.policy, unseen, found.network, found.merges),
        lambda: graph.distill(healthy, found, data, unseen, steps=1),
    ):
        with pytest.raises(UserError, match=r"^what the policy returns for inputs \[0\] holds"):
            refused()


def test_a_gradient_that_is_not_finite_is_refused_by_name():
    class Root(Mlp):
        def forward(self, x):
            actions, value = super().forward(x)
            return actions + (actions - actions.detach()).sqrt(), value  # of 0, where its slope has no end

    policy, data = random_(Root()), [(x(9, 5),)]
    found = graph.collapse(policy, data[0], 0)
    with pytest.raises(UserError, match="^the gradient of body.0.weight in step 0 of distillation holds NaN"):
        graph.distill(policy, found, data, data, steps=1)


def test_masked_actions_are_compared():
    class Masked(Mlp):
        def forward(self, x):
            actions, value = super().forward(x)
            return torch.cat([actions, torch.full_like(actions[:, :1], -torch.inf)], 1), value

    policy, data = random_(Masked()), [(x(50, 5),)]
    found = graph.collapse(policy, data[0], 0.9)
    plain = random_(Mlp())
    expected = graph.divergence(
        plain, graph.collapse(plain, data[0], 0.9).policy, data, found.network, found.merges
    )
    assert graph.divergence(policy, found.policy, data, found.network, found.merges).kl == pytest.approx(
        expected.kl
    )


def test_a_sum_beyond_a_dtype_is_refused():
    policy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).half()
    with torch.no_grad():
        policy[0].weight[:], policy[0].bias[:], policy[2].weight[:] = 1, 0, 3e4
    with pytest.raises(UserError, match="^2.weight holds infinity .* float32"):
        graph.collapse(policy, (torch.ones(2, 3).half(),), 0)


def test_rounding_of_few_bits_is_not_taken_for_a_width():
    class Core(nn.Module):
        def __init__(self):
            super().__init__()
            self.see, self.mix, self.core, self.act = (
                nn.Linear(5, 8), nn.Linear(8, 8), nn.LSTM(8, 8), nn.Linear(8, 3),
            )  # fmt: skip

        def forward(self, x):
            return self.act(self.core(self.mix(self.see(x).relu()).tanh())[0])

    for seed in range(8):
        policy = random_(Core(), seed).bfloat16()
        found = graph.collapse(policy, (x(4, 3, 5).bfloat16(),), 1.1)
        assert found.report.params_after < found.report.params_before


def test_recorded_inputs_without_a_state_are_refused():
    policy, data = random_(Mlp()), [(x(9, 5),)]
    with pytest.raises(UserError, match=r"^recorded inputs \[1\] hold no state"):
        graph.collapse(policy, data[0], 0.9, calibrate=[*data, (x(0, 5),)])
    with pytest.raises(UserError, match="one list is empty"):
        graph.search(policy, data[0], data, [], target_params=0.5)


def test_a_search_keeps_its_budget_and_its_frontier_falls():
    policy, data, others = random_(Mlp()), [(x(600, 5),)], [(x(400, 5, seed=1),)]
    for budget in ({"target_params": 0.3}, {"max_kl": 0.01}, {"target_params": 0.05, "max_kl": 0.01}):
        found = graph.search(policy, data[0], data, others, **budget)
        sizes = [point.size for point in found.frontier]
        assert sizes == sorted(sizes, reverse=True)
        last = found.frontier[-1]
        assert (
            last.params
            == found.collapse.report.params_after
            == sum(p.numel() for p in found.collapse.policy.parameters())
        )
        assert last.widths.items() <= found.collapse.widths.items()
        apart = graph.divergence(
            policy, found.collapse.policy, others, found.collapse.network, found.collapse.merges
        )
        assert apart.kl == pytest.approx(last.kl, rel=1e-6, abs=1e-12)
        if budget == {"target_params": 0.3}:
            assert 0.27 < last.size  # and no smaller than it must be
        if "max_kl" in budget:
            assert last.kl <= budget["max_kl"]
        else:
            assert last.size <= 0.3


@pytest.mark.parametrize(
    "budget", [{}, {"target_params": 0}, {"target_params": 1.1}, {"max_kl": -1}, {"max_kl": float("nan")}]
)
def test_a_search_without_a_sensible_budget_is_refused(budget):
    policy, data = random_(Mlp()), [(x(10, 5),)]
    with pytest.raises(UserError):
        graph.search(policy, data[0], data, data, **budget)


def test_distillation_never_leaves_a_policy_farther_off():
    policy, data, others = random_(Mlp()), [(x(400, 5),)], [(x(400, 5, seed=1),)]
    found = graph.search(policy, data[0], data, others, target_params=0.1).collapse
    taught = graph.distill(policy, found, data, others, steps=50)

    def kl(collapse):
        return graph.divergence(policy, collapse.policy, others, found.network, found.merges).kl

    assert kl(taught) < kl(found)
    assert kl(graph.distill(policy, found, data, others, steps=0)) == kl(found)


def test_distillation_that_goes_astray_is_taken_back(monkeypatch):
    monkeypatch.setattr("pufferlib_kcore.graph.distillation.LEARNING_RATE", 10.0)
    policy, data, others = random_(Mlp()), [(x(400, 5),)], [(x(400, 5, seed=1),)]
    found = graph.search(policy, data[0], data, others, target_params=0.3).collapse
    taught = graph.distill(policy, found, data, others, steps=20)
    for one, other in zip(taught.policy.parameters(), found.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_an_lstm_is_fitted_reading_the_originals_state():
    """Two routes: the refit, and lstsq on what the smaller policy reads and the original's state."""
    base, inputs = nature()
    data = recorded()[:20]
    found = graph.collapse(base, inputs, 0.1, calibrate=data, colors="activations")
    key, kept = (
        ("recurrent.weight_ih_l0", "recurrent.weight_hh_l0"),
        np.flatnonzero(found.merges["recurrent"].pick),
    )
    kept = kept[np.argsort(found.fibers["recurrent"][kept])]
    assert 4 < len(kept) < 20
    rows = np.concatenate([gate * 20 + kept for gate in range(4)])
    ours = torch.cat([Recorder(found.policy, key).run("forward", x)[1][0].inputs[0] for x in data])
    theirs = [Recorder(base, key).run("forward", x)[1][0] for x in data]
    read = torch.cat(
        [ours, torch.cat([call.inputs[1] for call in theirs])[:, kept], torch.ones(len(ours), 1)], 1
    )
    wanted = torch.cat([call.targets for call in theirs])[:, rows]
    best = read @ torch.linalg.lstsq(read, wanted).solution
    lstm = found.policy.recurrent
    fitted = torch.cat(
        [lstm.weight_ih_l0, lstm.weight_hh_l0, (lstm.bias_ih_l0 + lstm.bias_hh_l0)[:, None]], 1
    )
    got, best = ((read @ fitted.T.detach() - wanted).square().sum(), (best - wanted).square().sum())
    assert float(got) == pytest.approx(float(best), rel=0.01)


def test_divergence_is_that_of_torch_and_zero_of_itself():
    policy, data = random_(Mlp()), [(x(50, 5),)]
    same = graph.collapse(policy, data[0], 0)
    assert graph.divergence(policy, same.policy, data, same.network, same.merges).kl < 1e-12
    found = graph.collapse(policy, data[0], 0.9)
    apart = graph.divergence(policy, found.policy, data, found.network, found.merges)
    p, q = policy(*data[0])[0].softmax(-1), found.policy(*data[0])[0].softmax(-1)
    assert apart.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean().detach()))
    mean = p.mean(0)
    assert apart.look == pytest.approx(float((p * (p / mean).log()).sum(-1).mean().detach()))
    v, w = policy(*data[0])[1].detach(), found.policy(*data[0])[1].detach()
    assert apart.value_error == pytest.approx(float((v - w).square().mean() / v.var()))


@pytest.mark.parametrize("by", ["random", "l1"])
def test_ablation_keeps_units_as_they_are(by):
    policy, inputs = random_(Mlp()), (x(7, 5),)
    widths = {"body.0": 5, "body.2": 9}
    found = graph.ablate(policy, inputs, widths, by=by, generator=torch.Generator().manual_seed(1))
    assert {name: found.widths[name] for name in widths} == widths
    kept = {name: np.flatnonzero(found.merges[name].pick) for name in widths}
    torch.testing.assert_close(found.policy.body[0].weight, policy.body[0].weight[kept["body.0"]])
    torch.testing.assert_close(
        found.policy.body[2].weight, policy.body[2].weight[kept["body.2"]][:, kept["body.0"]]
    )
    if by == "l1":
        sums = policy.body[0].weight.abs().sum(1) + policy.body[0].bias.abs()
        assert set(kept["body.0"]) == set(sums.argsort(descending=True)[:5].tolist())
    whole = graph.ablate(policy, inputs, {"body.0": 32, "body.2": 32}, by=by)
    assert_same(whole.policy(*inputs), policy(*inputs))


def test_what_is_ablated_of_dead_units_computes_the_same():
    policy, inputs = random_(Mlp()), (x(7, 5),)
    with torch.no_grad():
        policy.body[2].weight[:, 10:] = 0
        policy.body[0].weight[10:] = policy.body[0].bias[10:] = 0
    found = graph.ablate(policy, inputs, {"body.0": 10}, by="l1")
    assert_same(found.policy(*inputs), policy(*inputs))


def test_from_scratch_inputs_to_units_vary_as_at_full_size():
    fresh, inputs = random_(Mlp(400)), (x(500, 5),)
    found = graph.reinitialize(
        fresh, inputs, {"body.0": 100, "body.2": 100}, generator=torch.Generator().manual_seed(0)
    )
    assert found.widths["body.0"] == found.widths["body.2"] == 100
    with torch.no_grad():
        before = (fresh.body[2].weight @ fresh.body[:2](*inputs).T).std()
        after = (found.policy.body[2].weight @ found.policy.body[:2](*inputs).T).std()
    assert float(after / before) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("widths", [{"body.1": 3}, {"body.0": 0}, {"body.0": 33}, {"actor": 2}])
def test_widths_that_cannot_be_are_refused(widths):
    with pytest.raises(UserError):
        graph.ablate(random_(Mlp()), (x(7, 5),), widths)


def test_macs_of_an_lstm_are_counted():
    base, inputs = nature(input_size=24, hidden=20)
    found = graph.collapse(base, inputs, 0)
    conv = 32 * 100 * 64 + 64 * 16 * 32 * 16 + 64 * 4 * 64 * 9
    one = conv + 256 * 24 + 4 * 20 * (24 + 20) + 20 * 7
    assert found.report.macs_before == 2 * one  # two screens
    assert found.report.macs_after == found.report.macs_before
