"""Optimizer state of a lifted policy maps to the state that its base's own optimizer has."""

import copy

import pytest
import torch
from planted import assert_same, episodes, lifted, nature, play, random_fibers
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")


class Orthogonalised(torch.optim.Optimizer):
    """Keeps what heavyball's Muon does: beta s + g, before what it takes for a step is orthogonalised."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            kept = self.state[p].setdefault("nesterov_momentum_momentum", torch.zeros_like(p))
            kept.mul_(0.9).add_(p.grad)


OPTIMIZERS = {
    "heavyball's muon": Orthogonalised,
    "adam": lambda p: torch.optim.Adam(p, lr=0.0, eps=1e-30, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, eps=1e-30, foreach=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.0, eps=1e-30),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.0, eps=1e-30),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.0, eps=1e-30),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.0, eps=1e-30),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.0, eps=1e-30),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.0, eps=1e-30, momentum=0.9, centered=True),
}


def trained(policy, make, steps=3):
    """An optimizer after some steps at learning rate zero, on other observations each."""
    optimizer = make(policy.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        sum(x.sin().sum() for x in play(policy, episodes(seed=10 * step))).backward()
        optimizer.step()
    return optimizer


def assert_same_state(found, expected, tolerance=1e-8):
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for index, buffers in expected["state"].items():
        assert buffers.keys() == found["state"][index].keys()
        for name, x in buffers.items():
            y = found["state"][index][name]
            scale = x.abs().max().clamp(min=1e-30)
            torch.testing.assert_close(y / scale, x / scale, rtol=0, atol=tolerance, msg=f"{index} {name}")


@pytest.fixture(scope="module")
def lift():
    """A base, its lift, and the lift's collapse. Split evenly: gradients in a fiber are proportional."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        base, inputs = nature(layers=2)
        large = graph.lift(base, inputs, random_fibers(base, inputs))
        return base, large, graph.collapse(large, inputs, 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_a_lift_maps_to_the_bases(name, lift):
    base, large, found = lift
    optimizer = trained(large, OPTIMIZERS[name])
    kept = copy.deepcopy(optimizer.state_dict())
    after = graph.collapse_optimizer(optimizer, found, policy=large)
    assert_same_state(after, trained(base, OPTIMIZERS[name]).state_dict())
    assert_same_state(optimizer.state_dict(), kept, 0)
    OPTIMIZERS[name](found.policy.parameters()).load_state_dict(after)


def test_second_moments_of_any_lift_bound_the_bases():
    base, inputs = nature()
    large, _ = lifted(base, inputs)
    found = graph.collapse(large, inputs, 0)
    after = graph.collapse_optimizer(trained(large, OPTIMIZERS["adam"]), found, policy=large)
    expected = trained(base, OPTIMIZERS["adam"]).state_dict()
    gaps = []
    for index, buffers in expected["state"].items():
        for moment in ("exp_avg_sq", "max_exp_avg_sq"):
            x, y = buffers[moment], after["state"][index][moment]
            assert (y >= x * (1 - 1e-9)).all()
            gaps.append((y / x.clamp(min=1e-300)).max())
        assert_same([after["state"][index]["exp_avg"]], [buffers["exp_avg"]], 1e-9)
        assert after["state"][index]["step"] == 3
    assert max(gaps) > 1.01  # or this test would not know the bound from an equality


def test_parameters_without_state_and_groups_are_kept():
    base, inputs = nature()
    heads = [*base.policy.actor.parameters(), *base.policy.value_fn.parameters()]
    others = [p for p in base.parameters() if not any(p is q for q in heads)]
    names = {id(p): name for name, p in base.named_parameters()}
    groups = [[(names[id(p)], p) for p in group] for group in (heads, others)]
    optimizer = torch.optim.AdamW([{"params": groups[0], "lr": 0.5}, {"params": groups[1]}])
    base.policy.actor(torch.ones(1, 20).double()).sum().backward()
    optimizer.step()
    found = graph.collapse(base, inputs, 1.1)
    after = graph.collapse_optimizer(optimizer.state_dict(), found, policy=base)
    assert [len(group["params"]) for group in after["param_groups"]] == [4, len(others)]
    assert after["param_groups"][0]["lr"] == 0.5
    assert after["state"].keys() == {0, 1}
    assert after["state"][0]["exp_avg"].shape == found.policy.policy.actor.weight.shape


class Towers(nn.Module):
    """An actor and a critic that differ in their heads alone."""

    def __init__(self, hidden=16):
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, k)) for k in (3, 1)
        )

    def forward(self, x):
        return self.actor(x), self.critic(x)


@pytest.fixture
def towers():
    """The towers, an optimizer made of what is asked for after one step of Adam, and their collapse."""
    torch.manual_seed(0)
    policy, x = Towers(), torch.randn(6, 5)
    found = graph.collapse(policy, (x,), 0.9)
    assert found.report.params_after < found.report.params_before

    def stepped(parameters, make=torch.optim.Adam):
        optimizer = make(parameters, lr=0.0)
        policy.zero_grad()
        sum(out.square().sum() for out in policy(x)).backward()
        optimizer.step()
        return optimizer

    return policy, found, stepped


def buffers_by_name(policy, state, names):
    """Parameter's name -> its exp_avg, where the optimizer's parameters have these names."""
    assert all(
        state["state"][i]["exp_avg"].shape == policy.get_parameter(n).shape for i, n in enumerate(names)
    )
    return {name: state["state"][i]["exp_avg"] for i, name in enumerate(names)}


ORDERS = {
    "plain": lambda names: names,
    "backwards": lambda names: names[::-1],
    "the other tower first": lambda names: names[4:] + names[:4],
    "two of one shape exchanged": lambda names: [names[i] for i in (4, 5, 2, 3, 0, 1, 6, 7)],
    "one tower": lambda names: names[:4],
    "without a frozen layer": lambda names: names[:4] + names[6:],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("told", ["by the optimizer itself", "by its groups", "by the caller"])
def test_each_parameter_gets_its_own_state_in_any_order(towers, order, told):
    policy, found, stepped = towers
    plain = [name for name, _ in policy.named_parameters()]
    expected = graph.collapse_optimizer(stepped(policy.parameters()), found, policy)
    expected = buffers_by_name(found.policy, expected, plain)
    names = ORDERS[order](plain)
    own = [policy.get_parameter(name) for name in names]
    if told == "by the optimizer itself":
        after = graph.collapse_optimizer(stepped(own), found, policy)
    elif told == "by its groups":
        named = list(zip(names, own, strict=True))
        groups = [{"params": named[:2], "lr": 0.5}, {"params": named[2:]}]
        after = graph.collapse_optimizer(stepped(groups).state_dict(), found, policy)
        assert [group["param_names"] for group in after["param_groups"]] == [names[:2], names[2:]]
        assert after["param_groups"][0]["lr"] == 0.5
    else:
        after = graph.collapse_optimizer(stepped(own).state_dict(), found, policy, names=names)
    for name, moment in buffers_by_name(found.policy, after, names).items():
        assert torch.equal(moment, expected[name])


def test_a_part_of_the_policy_is_known_by_its_own_names_and_shapes(towers):
    policy, found, stepped = towers
    for part in (policy.actor, policy.critic):
        names = [name for name, p in policy.named_parameters() if any(p is q for q in part.parameters())]
        exact = graph.collapse_optimizer(stepped(part.parameters()), found, policy)
        for own in (part.named_parameters(), part.parameters()):
            state = stepped(own).state_dict()
            buffers_by_name(found.policy, graph.collapse_optimizer(state, found, policy), names)
        buffers_by_name(found.policy, exact, names)


def test_a_state_that_does_not_say_whose_it_is_is_refused(towers):
    policy, found, stepped = towers
    plain = [name for name, _ in policy.named_parameters()]
    for order in ("plain", "the other tower first", "two of one shape exchanged", "without a frozen layer"):
        state = stepped([policy.get_parameter(n) for n in ORDERS[order](plain)]).state_dict()
        with pytest.raises(
            UserError, match=r"actor.0.\w+ and critic.0.\w+ are of one shape: pass the optimizer"
        ):
            graph.collapse_optimizer(state, found, policy)
    first = stepped(policy.actor[0].parameters()).state_dict()  # as well of the critic's
    with pytest.raises(UserError, match="named_parameters"):
        graph.collapse_optimizer(first, found, policy)
    first = stepped(policy.actor[0].named_parameters()).state_dict()
    with pytest.raises(
        UserError, match="'weight' as a parameter of Towers, which may be of actor.0 or of critic.0"
    ):
        graph.collapse_optimizer(first, found, policy)


def test_shapes_that_are_one_parameters_alone_tell_any_order():
    torch.manual_seed(0)
    policy, x = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(6, 5)
    found = graph.collapse(policy, (x,), 0.9)
    names = [name for name, _ in policy.named_parameters()][::-1]
    optimizer = torch.optim.Adam([policy.get_parameter(name) for name in names])
    policy(x).square().sum().backward()
    optimizer.step()
    bare = graph.collapse_optimizer(optimizer.state_dict(), found, policy)
    assert_same_state(bare, graph.collapse_optimizer(optimizer, found, policy), 0)
    buffers_by_name(found.policy, bare, names)


def test_the_state_of_another_policy_is_refused():
    policy, inputs = nature()
    found = graph.collapse(policy, inputs, 1.0)
    names = [name for name, _ in policy.named_parameters()]
    other = torch.optim.Adam(nn.Linear(2, 2).parameters())
    for state, told in ((other, None), (other.state_dict(), names), (other.state_dict(), names[:1] * 2)):
        with pytest.raises(UserError, match="none of LSTMWrapper|16 names are given for 2|twice"):
            graph.collapse_optimizer(state, found, policy, names=told)
    wrong = trained(nature(input_size=30)[0], OPTIMIZERS["adam"], 1).state_dict()
    with pytest.raises(UserError, match=r"'exp_avg' of policy.network.7.weight has shape \(30, 256\)"):
        graph.collapse_optimizer(wrong, found, policy, names=names)
    with pytest.raises(UserError, match=r"holds state of shape \(30, 256\) for 1 parameters, and"):
        graph.collapse_optimizer(wrong, found, policy)
    with pytest.raises(UserError, match="had .* when it was collapsed: expected the policy before"):
        graph.collapse_optimizer(trained(found.policy, OPTIMIZERS["adam"], 1), found, found.policy)
    with pytest.raises(UserError, match="'state' and 'param_groups'"):
        graph.collapse_optimizer(policy.state_dict(), found, policy)


WRONG = {  # what becomes of the first weight's exp_avg -> what is said of it
    "nested": (lambda x: [x, {"inner": x}], "is a list: expected a tensor"),
    "transposed": (lambda x: x.T.contiguous(), r"has shape \(5, 16\), the parameter \(16, 5\)"),
    "flat": (lambda x: x.flatten(), r"has shape \(80,\), the parameter \(16, 5\)"),
    "rows alone": (lambda x: x.mean(1), r"has shape \(16,\), the parameter \(16, 5\)"),
    "one number": (lambda x: x.mean(), r"has shape \(\), the parameter"),
    "quantized": (lambda x: x.mul(255).to(torch.uint8), "is a Tensor of torch.uint8"),
    "nan": (lambda x: x * torch.nan, "holds NaN in 80 of its 80 numbers"),
    "too large for its type": (
        lambda x: x.half() * 0 + 6e4,
        "summed over fibers, holds infinity .*: torch.float16 cannot hold it",
    ),
    "infinite": (lambda x: x + torch.inf, "holds infinity"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_buffers_that_do_not_map_are_refused_by_their_and_the_parameters_names(towers, wrong):
    policy, found, stepped = towers
    made, sentence = WRONG[wrong]
    optimizer = stepped(policy.parameters())
    buffers = optimizer.state[policy.actor[0].weight]
    buffers["exp_avg"] = made(buffers["exp_avg"])
    with pytest.raises(UserError, match=f"'exp_avg' of actor.0.weight,? {sentence}"):
        graph.collapse_optimizer(optimizer, found, policy)


@pytest.mark.parametrize("key", ["exp_avg_sq_row", "Q", "RMS", "prev"])
@pytest.mark.parametrize("value", [3.0, torch.ones(16, 5), {"a": torch.ones(16, 5)}, None])
def test_state_of_unknown_kinds_is_refused(towers, key, value):
    policy, found, stepped = towers
    optimizer = stepped(policy.parameters())
    optimizer.state[policy.actor[0].weight][key] = value
    with pytest.raises(UserError, match=f"'{key}' of actor.0.weight cannot be collapsed: expected none but"):
        graph.collapse_optimizer(optimizer, found, policy)
    with pytest.raises(UserError, match=f"'{key}' of its parameter 0 cannot be collapsed"):
        graph.collapse_optimizer(optimizer.state_dict(), found, policy)


def test_nested_state_is_refused(towers):
    policy, found, stepped = towers
    optimizer = stepped(policy.parameters())
    weight = policy.actor[0].weight
    optimizer.state[weight] = {0: optimizer.state[weight]}  # as heavyball 2 keeps it
    with pytest.raises(UserError, match="nested state of actor.0.weight cannot be collapsed"):
        graph.collapse_optimizer(optimizer, found, policy)


def test_what_lies_outside_of_the_parameters_state_is_refused(towers):
    policy, found, stepped = towers
    state = stepped(policy.actor.parameters()).state_dict()
    group = state["param_groups"][0]
    for changed, sentence in (
        ({**state, "inner": {}}, "holds 'inner'"),
        ({**state, "state": {**state["state"], 0: [torch.ones(16, 5)]}}, "of its parameter 0 is a list"),
        ({**state, "state": {**state["state"], "shared": {"step": 1}}}, "holds state of 'shared'"),
        ({**state, "param_groups": [{**group, "scales": torch.ones(16)}]}, "groups hold 'scales'"),
    ):
        with pytest.raises(UserError, match=sentence):
            graph.collapse_optimizer(changed, found, policy)


def test_squares_below_zero_and_steps_that_are_no_number_are_refused(towers):
    policy, found, stepped = towers
    for key, value, sentence in (
        ("exp_avg_sq", -torch.ones(16, 5), "below 0"),
        ("step", torch.ones(16, 5), "one number"),
        ("step", [1], "one number"),
    ):
        optimizer = stepped(policy.parameters())
        optimizer.state[policy.actor[0].weight][key] = value
        with pytest.raises(UserError, match=f"'{key}' of actor.0.weight .*{sentence}"):
            graph.collapse_optimizer(optimizer, found, policy)


def test_an_optimizer_that_has_not_stepped_and_one_without_momentum_are_kept(towers):
    policy, found, stepped = towers
    for optimizer in (torch.optim.Adam(policy.parameters()), stepped(policy.parameters(), torch.optim.SGD)):
        for state in (optimizer, optimizer.state_dict()):
            assert graph.collapse_optimizer(state, found, policy) == optimizer.state_dict()
