"""Optimizer state of a lifted policy maps to the state that its base's own optimizer has."""

import copy

import pytest
import torch
from planted import assert_same, episodes, flat, lifted, nature, play, random_fibers
from torch import nn

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.0, eps=1e-30, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, eps=1e-30),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.0, eps=1e-30, momentum=0.9, centered=True),
}


def trained(policy, make, steps=3):
    """The optimizer after some steps at learning rate zero, on other observations each."""
    optimizer = make(policy.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        sum(x.sin().sum() for x in play(policy, episodes(seed=10 * step))).backward()
        optimizer.step()
    return optimizer.state_dict()


def assert_same_state(found, expected, tolerance=1e-8):
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for index, buffers in expected["state"].items():
        assert buffers.keys() == found["state"][index].keys()
        for name, x in buffers.items():
            y = found["state"][index][name]
            scale = x.abs().max().clamp(min=1e-30)
            torch.testing.assert_close(y / scale, x / scale, rtol=0, atol=tolerance, msg=f"{index} {name}")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_a_lift_maps_to_the_bases(name):
    base, inputs = nature(layers=2)
    fibers = random_fibers(base, inputs)
    large = graph.lift(base, inputs, fibers)  # evenly: gradients in a fiber are proportional
    before = trained(large, OPTIMIZERS[name])
    kept = copy.deepcopy(before)
    found = graph.collapse(large, inputs, 0)
    after = graph.collapse_optimizer(before, found, policy=large)
    assert_same_state(after, trained(base, OPTIMIZERS[name]))
    assert_same_state(before, kept, 0)

    optimizer = OPTIMIZERS[name](found.policy.parameters())
    optimizer.load_state_dict(after)
    sum(x.sin().sum() for x in flat(found.policy(*inputs))).backward()
    optimizer.step()


def test_second_moments_of_any_lift_bound_the_bases():
    base, inputs = nature()
    large, _ = lifted(base, inputs)
    found = graph.collapse(large, inputs, 0)
    after = graph.collapse_optimizer(trained(large, OPTIMIZERS["adam"]), found, policy=large)
    expected = trained(base, OPTIMIZERS["adam"])
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


def test_the_state_of_another_policy_is_refused():
    policy, inputs = nature()
    found = graph.collapse(policy, inputs, 1.0)
    other = torch.optim.Adam(nn.Linear(2, 2).parameters())
    with pytest.raises(UserError, match="holds 2 parameters and LSTMWrapper 16"):
        graph.collapse_optimizer(other.state_dict(), found, policy=policy)
    wrong = trained(nature(input_size=30)[0], OPTIMIZERS["adam"], 1)
    with pytest.raises(UserError, match=r"'exp_avg' of policy.network.7.weight has shape \(30, 256\)"):
        graph.collapse_optimizer(wrong, found, policy=policy)


def test_an_unknown_buffer_is_refused():
    policy, inputs = nature()
    found = graph.collapse(policy, inputs, 1.0)
    state = trained(policy, torch.optim.Adamax, 1)
    with pytest.raises(UserError, match="'exp_inf' cannot be collapsed"):
        graph.collapse_optimizer(state, found, policy=policy)
