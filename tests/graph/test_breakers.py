"""A symmetry breaker in other people's trainers: what it takes, and what it refuses before it acts."""

import copy

import numpy as np
import pytest
import torch
from planted import Net, random_, two_heads
from torch import nn

from pufferlib_kcore import graph
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.breaker import SymmetryBreaker
from pufferlib_kcore.graph.breaking import drawn

X = (torch.randn(64, 5, generator=torch.Generator().manual_seed(0)),)


def mlp(*widths, copies=4):
    """Linear layers with tanh; the first units of the first compute the same."""
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
    with torch.no_grad():
        for j in range(1, copies):
            layers[0].weight[j], layers[0].bias[j] = layers[0].weight[0], layers[0].bias[0]
    return nn.Sequential(*(x for layer in layers[:-1] for x in (layer, nn.Tanh())), layers[-1])


class Agent(nn.Module):
    """Two networks, called by other methods than forward, as in CleanRL."""

    def __init__(self):
        super().__init__()
        self.actor, self.critic = mlp(5, 8, 3), mlp(5, 8, 1)

    def forward(self, x):
        return self.actor(x), self.critic(x)

    def policy(self, x):
        return torch.distributions.Categorical(logits=self.actor(x)), self.critic(x)


def test_a_traced_policy_that_is_called_by_another_method():
    agent = Agent()
    before = [x.detach() for x in (agent.actor(*X), agent.critic(*X))]
    traced = graph.trace(agent, X, method="policy", outputs=lambda out: (out[0].logits, out[1]))
    optimizer = torch.optim.Adam(agent.parameters())
    done = SymmetryBreaker(traced, None, optimizer, threshold=1e-4, max_kl=1e-6).step(0)
    assert {name: list(units) for name, units in done.recycled.items()} == {
        "actor.0": [1, 2, 3], "critic.0": [1, 2, 3]
    }  # fmt: skip
    torch.testing.assert_close(agent.actor(*X), before[0])
    torch.testing.assert_close(agent.critic(*X), before[1])


class Answers(nn.Module):
    """Distributions and values of a Stable-Baselines3 policy, whose forward draws actions."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, x):
        return self.policy.get_distribution(x).distribution, self.policy.predict_values(x)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_stable_baselines3_model_between_two_stretches_of_training(env):
    ppo = pytest.importorskip("stable_baselines3").PPO
    how = dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0, policy_kwargs={"net_arch": [16]})
    model = ppo("MlpPolicy", env, **how).learn(16)
    x = torch.as_tensor(model.rollout_buffer.observations).view(-1, *model.observation_space.shape)
    bounds = dict(max_kl=0.01, max_value_error=0.2)
    for colors in ("faithful", "activations"):
        with pytest.raises(UserError, match="actions"):  # it draws them, and so there is no KL
            SymmetryBreaker(
                model.policy, (x,), model.policy.optimizer, threshold=0.5, colors=colors, **bounds
            )
        whole = Answers(model.policy)
        breaker = SymmetryBreaker(
            whole, (x,), model.policy.optimizer, threshold=0.5, colors=colors, probe=[(x,)], **bounds
        )
        before = breaker.bounds.off(whole)
        done = breaker.step(0)
        assert before.kl == before.value_error == 0 and done.kl <= 0.01 and done.value_error <= 0.2
        assert done.count or colors == "faithful"
    old = model.policy.action_net.weight.clone()
    model.learn(16)
    assert not torch.equal(old, model.policy.action_net.weight)


def test_the_values_of_a_critic_alone_are_bounded():
    critic = mlp(5, 8, 1)
    with torch.no_grad():
        critic[0].weight[1:4] += 0.3 * torch.randn(3, 5)
    free = SymmetryBreaker(copy.deepcopy(critic), X, threshold=0.5).step(0)
    before = critic(*X).detach()
    done = SymmetryBreaker(critic, X, threshold=0.5, max_value_error=free.value_error / 4).step(0)
    assert done.count < free.count
    error = (critic(*X).detach() - before).square().mean() / before.var()
    assert error <= free.value_error / 4


def test_a_compiled_policy_is_broken_in_place():
    policy = mlp(5, 8, 3)
    before = policy(*X).detach()
    compiled = torch.compile(policy, backend="eager")
    done = SymmetryBreaker(compiled, X, torch.optim.Adam(compiled.parameters()), threshold=1e-4).step(0)
    assert done.count == 3 and (policy[2].weight[:, 1:4] == 0).all()
    torch.testing.assert_close(policy(*X), before)


def test_a_bound_of_0_lets_through_what_differs_by_rounding_alone():
    policy = Agent()
    how = dict(threshold=0.3, max_kl=0.0, max_value_error=0.0)
    done = SymmetryBreaker(policy, X, **how).step(0)
    assert {name: len(units) for name, units in done.recycled.items()} == {"actor.0": 3, "critic.0": 3}
    assert done.candidates > 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("colors", ["faithful", "activations"])
def test_half_precision(dtype, colors):
    policy, given = mlp(5, 8, 3).to(dtype), (X[0].to(dtype),)
    before = policy(*given).float().detach()
    done = SymmetryBreaker(policy, given, threshold=1e-4, colors=colors).step(0)
    assert done.recycled["0"].tolist() == [1, 2, 3] and policy[0].weight.dtype == dtype
    torch.testing.assert_close(policy(*given).float(), before, rtol=0, atol=0.02)


def test_layers_of_one_lstm_need_not_be_broken_alike():
    """The first has nothing superfluous; a collapse would have to leave the second as wide."""
    lstm = random_(nn.LSTM(4, 6, num_layers=2, batch_first=True))
    policy = Net(
        lambda net, x: two_heads(net, net.lstm(x)[0][:, -1]),
        lstm=lstm, actor=nn.Linear(6, 3).double(), critic=nn.Linear(6, 1).double(),
    )  # fmt: skip
    with torch.no_grad():
        rows = torch.arange(4) * 6  # of a unit's gates
        for name in ("weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "bias_hh_l1"):
            x = getattr(lstm, name)
            x[rows + 3] = x[rows + 1]
    given = (torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0)).double(),)
    before = [x.detach() for x in policy(*given)]
    done = SymmetryBreaker(policy, given, threshold=0).step(0)
    assert done.count == 1 and done.recycled["lstm.l1"].tolist() in ([1], [3])
    for a, b in zip(policy(*given), before, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_thresholds_by_space_also_of_activations():
    policy = mlp(5, 8, 8, 3)
    with torch.no_grad():
        policy[2].weight[1], policy[2].bias[1] = policy[2].weight[0], policy[2].bias[0]
    for colors in ("faithful", "activations"):
        how = dict(threshold={"0": 1e-4, "2": 0.0}, colors=colors)
        assert set(SymmetryBreaker(copy.deepcopy(policy), X, **how).step(0).recycled) == {"0", "2"}
        how = dict(threshold={"default": 0.0, "0": 2.0}, colors=colors)
        done = SymmetryBreaker(copy.deepcopy(policy), X, **how).step(0)
        assert {name: len(units) for name, units in done.recycled.items()} == {"0": 7, "2": 1}


class Orthogonal(nn.Module):
    """Draws its layer in its own way, a parameter in none, and has a part that needs to be told how."""

    def __init__(self):
        super().__init__()
        self.layer, self.log_std, self.told = nn.Linear(4, 4), nn.Parameter(torch.full((3,), -0.5)), Told()

    def reset_parameters(self):
        nn.init.orthogonal_(self.layer.weight)


class Told(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.ones(2))

    def reset_parameters(self, scale):
        raise AssertionError("called without its argument")


def test_a_whole_has_the_last_word_on_how_its_parts_are_drawn():
    made = drawn(Orthogonal(), 0)
    torch.testing.assert_close(made["layer.weight"] @ made["layer.weight"].T, torch.eye(4))
    assert not any(x.requires_grad for x in made.values())
    assert torch.equal(made["told.x"], torch.ones(2)), "normal, of mean 1 and no deviation"


def test_what_is_frozen_is_left_alone():
    """Its first layer takes no gradient; nor does the last, later."""
    policy = mlp(5, 8, 8, 8, 3)
    with torch.no_grad():
        for layer in (policy[2], policy[4]):
            layer.weight[1], layer.bias[1] = layer.weight[0], layer.bias[0]
    policy[0].requires_grad_(False)
    old = [p.clone() for p in policy[0].parameters()]
    done = SymmetryBreaker(copy.deepcopy(policy), X, threshold=1e-4).step(0)
    assert {name: len(units) for name, units in done.recycled.items()} == {"2": 1, "4": 1}
    policy[6].requires_grad_(False)
    assert set(SymmetryBreaker(copy.deepcopy(policy), X, threshold=1e-4).step(0).recycled) == {"2"}
    for method in ("shrink-perturb", "l2-init"):
        SymmetryBreaker(policy, X, threshold=0.5, method=method).step(0)
    assert all(torch.equal(p, x) for p, x in zip(policy[0].parameters(), old, strict=True))
    with pytest.raises(UserError, match="0: it is frozen"):
        SymmetryBreaker(policy.requires_grad_(False), X, threshold=0.3)


def test_another_method_goes_on_with_ages_and_starts_where_it_is():
    """As when a run is resumed with another --break.method."""
    policy = mlp(5, 8, 3)
    old = SymmetryBreaker(policy, X, threshold=1e-4)
    old.step(0)
    breaker = SymmetryBreaker(policy, X, threshold=0.5, method="l2-init")
    breaker.load_state_dict(old.state_dict())
    before = [p.detach().clone() for p in policy.parameters()]
    breaker.step(1)
    assert breaker.total == 3 and all(map(torch.equal, policy.parameters(), before))
    fibers = SymmetryBreaker(policy, X, threshold=1e-4)
    fibers.load_state_dict(breaker.state_dict())
    assert not fibers.first, "weights at the start are of l2-init alone"


def test_no_gradient_at_all_makes_nobody_fresh():
    policy = mlp(5, 6, 6, 3)
    (policy(*X).sum() * 0).backward()
    assert SymmetryBreaker(policy, X, threshold=0.5, method="regrama").step(0).count == 0


@pytest.mark.parametrize("method", ["regrama", "swr"])
@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_gradients_that_are_not_finite_make_nobody_fresh(method, odd):
    """In parts of an infinite mean all others would be dormant."""
    policy = mlp(5, 6, 6, 3)
    policy(*X).sum().backward()
    policy[0].weight.grad[0, 0] = odd
    old = [p.detach().clone() for p in policy.parameters()]
    done = SymmetryBreaker(policy, X, threshold=0.5, method=method).step(0)
    assert done.count == done.weights == 0 and all(map(torch.equal, policy.parameters(), old))


@pytest.mark.parametrize("method", ["regrama", "swr"])
def test_what_reads_gradients_says_when_there_are_none(method):
    breaker = SymmetryBreaker(mlp(5, 6, 3), X, threshold=0.5, method=method)
    with pytest.raises(UserError, match="after backward, and before zero_grad"):
        breaker.step(0)


@pytest.mark.parametrize(
    "policy, how, said",
    [
        (mlp(5, 3, copies=0), {}, "nothing in Sequential can be merged.*output"),
        (mlp(5, 8, 3), dict(threshold={"default": 0.3}, method="redo"), "redo takes a part"),
        (mlp(5, 8, 3), dict(threshold="x"), "expected a cosine distance"),
        (mlp(5, 8, 3), dict(threshold=float("nan")), "from 0 to 2"),
        (mlp(5, 8, 3), dict(fraction=float("nan")), "above 0, at most 1"),
        (mlp(5, 8, 3), dict(max_kl=-1.0), "max_kl is -1.0"),
        (mlp(5, 8, 3), dict(max_value_error=0.1), "returns no values"),
        (mlp(5, 8, 1), dict(max_kl=0.1), "the KL is always 0"),
        (Agent(), dict(actions="logits"), "leads nowhere"),
        (mlp(5, 8, 3), dict(probe=[(torch.randn(4, 7),)]), r"shapes \(4, 7\).*same environment"),
        (mlp(5, 8, 3), dict(optimizer=torch.optim.Adam(mlp(5, 8, 3).parameters())), "no parameter of Seq"),
    ],
)  # fmt: skip
def test_it_refuses_when_it_is_made_what_it_cannot_do(policy, how, said):
    with pytest.raises(UserError, match=said):
        SymmetryBreaker(policy, X, **{"threshold": 0.3, **how})


def test_a_probe_of_another_environment_changes_nothing():
    policy = mlp(5, 8, 3)
    breaker = SymmetryBreaker(policy, X, threshold=0.3)
    before = [p.detach().clone() for p in policy.parameters()]
    breaker.probe = [(torch.randn(4, 7),)]
    with pytest.raises(UserError, match="same environment"):
        breaker.step(0)
    assert all(torch.equal(p, old) for p, old in zip(policy.parameters(), before, strict=True))


def test_a_state_that_is_none_is_refused():
    breaker = SymmetryBreaker(mlp(5, 8, 3), X, threshold=0.3)
    with pytest.raises(UserError, match="no symmetry breaker's state"):
        breaker.load_state_dict({})
    with pytest.raises(UserError, match="other spaces or widths"):
        breaker.load_state_dict(SymmetryBreaker(mlp(5, 9, 3), X, threshold=0.3).state_dict())
    assert np.array_equal(breaker.ages["0"], np.zeros(8))


def test_a_search_bounded_by_a_kl_that_is_always_0_is_refused():
    """Of a critic alone it would leave one unit a layer."""
    with pytest.raises(UserError, match="the KL is always 0.*a critic alone"):
        graph.search(mlp(5, 8, 1), X, [X], [X], max_kl=0.01)
    assert graph.search(mlp(5, 8, 1), X, [X], [X], target_params=0.5).collapse.widths["0"] < 8
