"""Raw parameters in matmul, einsum and elementwise: exact on planted symmetry, or whole with a reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import Net, assert_same, assert_same_policy, inputs, lifted, random_, two_heads
from test_layers import assert_exact, net_of
from torch import nn
from torch.nn.utils import prune

from pufferlib_kcore import UserError, graph

pytestmark = pytest.mark.usefixtures("exact")


def raw(*shape):
    return nn.Parameter(torch.ones(*shape))


def behind(between, **layers):
    """A linear layer a of 6 units, something between, and a linear layer fc that makes 9 of it."""
    return lambda net, x: two_heads(net, net.fc(between(net, net.a(x).tanh())).relu()), dict(
        a=nn.Linear(5, 6), **layers
    )


W, H = dict(w=raw(6, 4)), dict(w=raw(4, 6))
FROM_6_TO_4 = {
    "x @ w": (lambda net, h: h @ net.w, W),
    "x @ w.T": (lambda net, h: h @ net.w.T, H),
    "x @ w.t()": (lambda net, h: h.matmul(net.w.t()), H),
    "x @ w.transpose": (lambda net, h: h @ net.w.transpose(-1, 0), H),
    "w @ x": (lambda net, h: (net.w @ h.T).T, H),
    "of another kind": (lambda net, h: h @ net.w.detach().clone().to(h).contiguous(), W),
    "mm": (lambda net, h: torch.mm(h, net.w), W),
    "mv": (lambda net, h: torch.stack([torch.mv(net.w, row) for row in h]), H),
    "addmm": (lambda net, h: torch.addmm(net.b, h, net.w), W | dict(b=raw(4))),
    "bmm": (lambda net, h: torch.bmm(h[:, None], net.w.expand(len(h), -1, -1))[:, 0], W),
    "bmm, unsqueezed": (
        lambda net, h: torch.bmm(net.w.unsqueeze(0).expand(len(h), -1, -1), h[:, :, None])[:, :, 0],
        H,
    ),
    "einsum of views": (
        lambda net, h: torch.einsum("ni,nio->no", h, net.w.t().unsqueeze(0).expand(len(h), -1, -1)),
        H,
    ),
    "a new axis": (
        lambda net, h: torch.einsum("mio,bi->bmo", net.w.unsqueeze(0).expand(2, -1, -1), h).mean(1),
        W,
    ),
    "an exponential shift": (lambda net, h: h @ net.w + net.s.exp(), W | dict(s=raw(4))),
    "a computed bias": (lambda net, h: F.linear(h, net.w, net.s.exp()), H | dict(s=raw(4))),
    "einsum by numbers": (lambda net, h: torch.einsum(h, [0, 1], net.w, [1, 2], [0, 2]), W),
    "F.linear": (lambda net, h: F.linear(h, net.w), H),
    "F.linear, transposed": (lambda net, h: F.linear(h, net.w.t(), net.b), W | dict(b=raw(4))),
    "einsum": (lambda net, h: torch.einsum("bi,io->bo", h, net.w), W),
    "einsum, ellipsis": (lambda net, h: torch.einsum("... i, o i -> ... o", h[None], net.w)[0], H),
    "einsum, arrowless": (lambda net, h: torch.einsum("bi,io", [h, net.w]), W),
    "einsum, permuted": (lambda net, h: torch.einsum("io,bi->ob", net.w, h).T, W),
    "einsum with a scale": (lambda net, h: torch.einsum("bi,i,io->bo", h, net.s, net.w), W | dict(s=raw(6))),
    "einsum with a scale behind": (
        lambda net, h: torch.einsum("bi,io,o->bo", h, net.w, net.s),
        W | dict(s=raw(4)),
    ),
    "one matrix twice": (lambda net, h: (h @ net.w).tanh() + (h.square() @ net.w), W),
    "linear by vector": (
        lambda net, h: torch.stack([F.linear(h, net.w0), F.linear(h * 2, net.w1)], -1) @ net.m,
        dict(w0=raw(6), w1=raw(6), m=raw(2, 4)),
    ),
}


@pytest.mark.parametrize("name", FROM_6_TO_4)
def test_matrices(name):
    between, layers = FROM_6_TO_4[name]
    forward, layers = behind(between, **layers, fc=nn.Linear(4, 9))
    base = net_of(forward, **layers)
    rows = graph.spaces(base, inputs(3, 5)).rows
    free = [row["space"] for row in rows if row["reason"] is None]
    assert sorted(row["units"] for row in rows if row["reason"] is None) == [4, 6, 9]
    assert_exact(base, inputs(3, 5), free)


def test_several_matrices_of_one_module_are_several_spaces():
    def forward(net, x):
        return two_heads(net, net.fc((x @ net.w1).relu() @ net.w2 + F.linear(x, net.w3)))

    base = net_of(forward, w1=raw(5, 4), w2=raw(4, 6), w3=raw(6, 5), fc=nn.Linear(6, 9))
    assert_exact(base, inputs(3, 5), ["w1", "w2", "fc"])


def bilinear_actor(score):
    """Hidden units and action embeddings meet in one tensor; an MLP makes one logit of each action."""

    def forward(net, x):
        hidden = net.hidden(x).relu()
        met = (score(net, hidden, net.actions) + net.shift.reshape(1, 1, -1)).relu()
        return net.one(net.mlp(met).relu()).squeeze(-1), net.value(net.critic(x).tanh())

    return forward


def in_two_steps(net, hidden, actions):
    """The embeddings stand for one state each, as where states and actions were flattened together."""
    hidden = hidden[:, None].expand(-1, 4, -1).reshape(-1, hidden.shape[-1])
    actions = actions(torch.arange(4))[None].expand(len(hidden) // 4, -1, -1)
    query = torch.einsum("n h, k h e -> n k e", hidden, net.met).tanh()
    scores = torch.einsum("n k e, n e -> n k", query, actions.reshape(len(hidden), -1))
    return scores.reshape(-1, 4, scores.shape[-1])


def over_the_table(net, hidden, actions):
    return torch.einsum("bh,khe,ae->bak", hidden, net.met, actions.weight).tanh()


def over_looked_up(net, hidden, actions):
    return torch.einsum("bh,khe,ae->bak", hidden, net.met, actions(torch.arange(4))).tanh()


def the_table_first(net, hidden, actions):
    return torch.einsum("ae,bh,khe->bak", actions.weight, hidden, net.met).tanh()


ACTORS = {
    "the table first": the_table_first,
    "in two steps": in_two_steps,
    "the table": over_the_table,
    "looked up": over_looked_up,
}


@pytest.mark.parametrize("name", ACTORS)
def test_bilinear_actors_over_action_embeddings(name):
    layers = dict(hidden=nn.Linear(5, 7), actions=nn.Embedding(4, 6), met=raw(8, 7, 6), shift=raw(8))
    layers |= dict(mlp=nn.Linear(8, 5), one=nn.Linear(5, 1), critic=nn.Linear(5, 6), value=nn.Linear(6, 1))
    base = random_(Net(bilinear_actor(ACTORS[name]), **layers))
    free = ["hidden", "met", "mlp", "critic"] + ["actions"] * (name != "in two steps")
    assert_exact(base, inputs(3, 5), free, whole=["actions"] * (name == "in two steps"))


def test_an_embedding_table_looked_up_and_summed_over_is_one_space():
    def forward(net, x):
        last = net.table((x[:, 0] * 9).long() % 4)
        met = torch.einsum("bh,he,ae->ba", net.a(x).relu(), net.w, net.table.weight)
        return met, net.critic(net.fc(last).relu())

    layers = dict(a=nn.Linear(5, 7), w=raw(7, 6), table=nn.Embedding(4, 6), fc=nn.Linear(6, 9))
    base = random_(Net(forward, **layers, critic=nn.Linear(9, 1)))
    assert_exact(base, inputs(3, 5), ["a", "table", "fc"])


def test_positions_are_shifts_of_neurons():
    def forward(net, x):
        h = net.a(x) + net.position
        return two_heads(net, net.fc((h * net.scale.T).relu().mean(1)))

    base = net_of(forward, a=nn.Linear(5, 6), position=raw(4, 6), scale=raw(6, 4), fc=nn.Linear(6, 9))
    assert_exact(base, inputs(3, 4, 5), ["a", "fc"])


def test_maps_of_places_are_the_same_for_all_channels():
    def forward(net, x):
        return two_heads(net, net.fc((net.a(x) * net.map).flatten(1)))

    base = net_of(forward, a=nn.Conv2d(1, 5, 2), map=raw(3, 2), fc=nn.Linear(30, 9))
    assert_exact(base, inputs(2, 1, 4, 3), ["a", "fc"])


def test_matrices_over_places_leave_channels_alone():
    def forward(net, x):
        return two_heads(net, net.fc((net.a(x) @ net.mix).relu().flatten(1)))

    base = net_of(forward, a=nn.Conv1d(1, 5, 2), mix=raw(3, 4), fc=nn.Linear(20, 9))
    assert_exact(base, inputs(2, 1, 4), ["a", "fc"])


def test_heads_of_attention_written_out_merge_as_wholes():
    """q and k write heads, whose inner axis is summed over: a place, not a neuron."""

    def forward(net, x):
        q, k = (torch.einsum("bti,ihd->bthd", x, w) for w in (net.q, net.k))
        score = torch.einsum("bthd,bshd->bhts", q, k).sigmoid()
        value = torch.einsum("bti,ihd->bthd", x, net.v)
        seen = torch.einsum("bhts,bshd->bthd", score, value)
        return two_heads(net, torch.einsum("bthd,hdo->bto", seen, net.o).relu().mean(1))

    base = net_of(forward, q=raw(5, 4, 2), k=raw(5, 4, 2), v=raw(5, 4, 3), o=raw(4, 3, 9))
    assert_exact(base, inputs(3, 6, 5), ["q", "o"])


WHOLE = {
    "two of ours are summed over": (
        lambda net, h, g: torch.einsum("bi,bi->b", h, g)[:, None],
        "`einsum` in Net sums over its neurons, with no parameter",
    ),
    "every pair": (
        lambda net, h, g: torch.einsum("bi,bj->bij", h, g).flatten(1),
        "`einsum` in Net pairs each with each of others",
    ),
    "with observations": (
        lambda net, h, g: torch.einsum("bi,bi,io->bo", h, net.x, net.w),
        "`einsum` in Net joins it with what cannot be merged",
    ),
    "by a computed matrix": (
        lambda net, h, g: h @ net.w.exp(),
        "`matmul` in Net sums over its neurons, with no parameter",
    ),
    "a matrix written over": (
        lambda net, h, g: h @ net.w.t().clone().mul_(torch.eye(4, 6).double() + 1).t(),
        "`matmul` in Net sums over its neurons, with no parameter",
    ),
    "two layers side by side": (
        lambda net, h, g: (torch.stack([h, g], 2) @ net.pair).flatten(1),
        "`matmul` in Net mixes it with others",
    ),
    "a row of a matrix": (
        lambda net, h, g: h * net.w[:, 0],
        "`mul` in Net joins it with what cannot be merged",
    ),
    "outer": (
        lambda net, h, g: torch.stack([torch.outer(u, v) for u, v in zip(h, g, strict=True)]).flatten(1),
        "`outer` in Net pairs",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_left_whole(name):
    between, reason = WHOLE[name]

    def forward(net, x):
        object.__setattr__(net, "x", x)
        return two_heads(net, net.fc(between(net, net.a(x), net.b(x)).tanh()))

    width = {
        "two layers side by side": 18,
        "every pair": 36,
        "outer": 36,
        "by a computed matrix": 4,
        "a matrix written over": 4,
        "with observations": 4,
    }
    width = 1 if "two of ours" in name else width.get(name, 6)
    layers = dict(a=nn.Linear(6, 6), b=nn.Linear(6, 6), w=raw(6, 4), pair=raw(2, 3))
    base = net_of(forward, **layers, fc=nn.Linear(width, 9))
    found = graph.collapse(base, inputs(3, 6), 2)
    assert found.reasons["a"].startswith(reason) and found.widths["a"] == 6
    large, fibers = lifted(base, inputs(3, 6))
    assert "a" not in fibers and "fc" in fibers


def test_an_equation_with_a_diagonal_is_refused():
    def forward(net, x):
        return two_heads(net, torch.einsum("bi,ii->bi", net.a(x), net.w))

    net = net_of(forward, a=nn.Linear(5, 9), w=raw(9, 9))
    with pytest.raises(UserError, match="`einsum` in Net cannot be traced: a letter comes twice in one term"):
        graph.collapse(net, inputs(3, 5))
    found = graph.collapse(net, inputs(3, 5), 2, ignore=["a"])
    assert found.widths["a"] == 9


def test_bilinear_layers_read_twice():
    def forward(net, x):
        return two_heads(net, net.fc(net.meet(net.a(x).tanh(), net.b(x).relu()).tanh()))

    layers = dict(a=nn.Linear(5, 4), b=nn.Linear(5, 6), meet=nn.Bilinear(4, 6, 7), fc=nn.Linear(7, 9))
    assert_exact(net_of(forward, **layers), inputs(3, 5), ["a", "b", "meet", "fc"])


def test_a_temperature_is_the_same_for_all():
    def forward(net, x):
        return two_heads(net, net.fc((net.a(x) / net.temperature.exp()).tanh()))

    base = net_of(forward, a=nn.Linear(5, 6), temperature=raw(1), fc=nn.Linear(6, 9))
    assert_exact(base, inputs(3, 5), ["a", "fc"])


def test_a_matrix_repeated_for_each_neuron_is_no_neurons_own():
    def forward(net, x):
        h = torch.stack([net.a(x).tanh(), net.a(x).sin()], 2)
        own = net.w.unsqueeze(0).expand(h.shape[1], -1, -1)
        return two_heads(net, net.fc(torch.einsum("bcj,cjo->bco", h, own).sin().flatten(1)))

    base = net_of(forward, a=nn.Linear(5, 6), w=raw(2, 4), fc=nn.Linear(24, 9))
    assert_exact(base, inputs(3, 5), ["a", "fc"])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_single_neuron_is_read_along_the_axis_that_is_summed_over(batch):
    base = net_of(
        lambda net, x: two_heads(net, (net.a(x).tanh() @ net.w).tanh()), a=nn.Linear(5, 1), w=raw(1, 9)
    )
    large = graph.lift(base, inputs(batch, 5), {"a": np.zeros(3, int)})
    assert large.w.shape == (3, 9)
    assert_same_policy(graph.collapse(large, inputs(batch, 5), 0).policy, base)
    with torch.no_grad():
        assert_same(large(*inputs(3, 5)), base(*inputs(3, 5)))


TASKS = torch.tensor([0, 3, 1])
PARTS = {
    "one of several matrices": (
        lambda net, h: h @ net.w[1],
        dict(w=raw(2, 6, 4)),
    ),
    "a matrix for each row": (
        lambda net, h: torch.einsum("bi,bio->bo", h, net.w[TASKS]),
        dict(w=raw(5, 6, 4)),
    ),
    "biases with a new axis": (
        lambda net, h: torch.baddbmm(net.b[:, None], h.expand(2, -1, -1), net.w).tanh().sum(0),
        dict(w=raw(2, 6, 4), b=raw(2, 4)),
    ),
    "a shift looked up": (lambda net, h: (h + net.t[TASKS]) @ net.w, dict(w=raw(6, 4), t=raw(5, 6))),
    "the first shifts": (lambda net, h: (h + net.t[: len(h)]) @ net.w, dict(w=raw(6, 4), t=raw(5, 6))),
    "squeezed": (lambda net, h: h @ net.w.squeeze(0), dict(w=raw(1, 6, 4))),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_parameters_along_one_axis_leave_the_others_to_merge(name):
    forward, layers = behind(*PARTS[name][:1], **PARTS[name][1])
    assert_exact(net_of(forward, **layers, fc=nn.Linear(4, 9)), inputs(3, 5), ["a", "w", "fc"])


def test_matrices_in_one_stack_that_follow_one_another_share_their_units():
    def forward(net, x):
        h = net.a(x).tanh()
        for w in net.w.unbind(0):
            h = (h @ w).tanh()
        return two_heads(net, net.fc(h))

    assert_exact(
        net_of(forward, a=nn.Linear(5, 6), w=raw(2, 6, 6), fc=nn.Linear(6, 9)), inputs(3, 5), ["a", "fc"]
    )


def test_an_axis_of_which_parts_are_taken_elsewhere_stays_whole():
    def forward(net, x):
        return two_heads(net, net.fc(F.linear(net.a(x).tanh(), net.w).tanh())) + (net.w[1].sum(),)

    net = random_(net_of(forward, a=nn.Linear(5, 6), w=raw(4, 6), fc=nn.Linear(4, 9)))
    with torch.no_grad():
        net.w[2:] = net.w[:2]
    found = graph.collapse(net, inputs(3, 5), 0)
    assert found.widths["w"] == 4 and found.reasons["w"]
    assert_same(found.policy(*inputs(3, 5)), net(*inputs(3, 5)))


def test_a_parameter_that_is_its_own_view_is_followed():
    def forward(net, x):
        return two_heads(net, net.fc((net.a(x) * net.w.to(x.dtype).contiguous()).tanh()))

    layers = dict(a=nn.Linear(5, 6), fc=nn.Linear(6, 9))
    mask = nn.Parameter(torch.ones(1, 6))
    assert_exact(net_of(forward, w=mask, **layers), inputs(3, 5), ["a", "fc"])
    pruned = net_of(lambda net, x: two_heads(net, net.fc(net.a(x).tanh())), **layers).double()
    prune.random_unstructured(pruned.a, "weight", amount=0.3)
    assert graph.collapse(pruned, inputs(3, 5), 2).widths["fc"] == 1
