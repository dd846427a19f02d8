"""Recurrent state: however a policy packs, masks, starts and returns it, it is cut with its units."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from planted import Net, assert_exact, assert_same, inputs, random_
from torch import Tensor, nn

from pufferlib_kcore import graph

pytestmark = pytest.mark.usefixtures("exact")

Linear = nn.Linear
Pair = namedtuple("Pair", "h c")


@dataclass
class Record:
    h: Tensor
    c: Tensor


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


def packed(net, x, state):
    h, c = state.chunk(2, -1)
    y, (h, c) = net.core(x[None], (h[None].contiguous(), c[None].contiguous()))
    return net.act(y[0]), torch.cat([h[0], c[0]], -1)


def packed_layers(net, x, state):
    state = state.view(len(x), 2, -1).permute(1, 0, 2).contiguous()
    y, state = net.core(x.unsqueeze(0), state)
    return net.act(y.squeeze(0)), state.permute(1, 0, 2).reshape(len(x), -1)


def two_cores(net, x, state):
    a, b = state.chunk(2, 1)
    y, a = net.core(x[None], a[None].contiguous())
    z, b = net.other(x[None], b[None].contiguous())
    return net.act(y[0]), net.value(z[0]), torch.cat([a[0], b[0]], 1)


def squeezed(net, x, h):
    y, h = net.core(x[None], h.unsqueeze(0))
    return net.act(y[0]), h.squeeze(0).clone()


def stacked(net, x, state):
    y, state = net.core(x[None], tuple(state.unbind(0)))
    return net.act(y[0]), torch.stack(state).detach()


def transposed(net, x, state):
    y, (h, c) = net.core(x[:, None], (state["h"].transpose(0, 1), state["c"].transpose(0, 1)))
    return net.act(y[:, -1]), {"h": h.transpose(0, 1).detach(), "c": c.transpose(0, 1).detach()}


def masked(net, x, h, done):
    keep = (1 - done.double()).unsqueeze(-1)
    h = net.core(x, torch.where(keep.expand_as(h) > 0.5, h, torch.zeros_like(h)) * keep)
    return net.act(h), h


def set_to_zero(net, x, h, done):
    h = h.clone()
    h[done] = 0.0
    h = net.core(x, h)
    return net.act(h), h


def as_record(net, x, state):
    y, (h, c) = net.core(x[None], (state.h, state.c))
    return net.act(y[0]), type(state)(h, c)


DONE = torch.tensor([False, True, False])
GIVEN = {
    "[h | c] in one tensor": (packed, dict(core=nn.LSTM(5, 8)), (noise(3, 16),)),
    "layers side by side": (packed_layers, dict(core=nn.GRU(5, 8, 2)), (noise(3, 16),)),
    "two cores in one tensor": (
        two_cores,
        dict(core=nn.GRU(5, 8), other=nn.GRU(5, 8), value=Linear(8, 1)),
        (noise(3, 16),),
    ),
    "through squeeze and clone": (squeezed, dict(core=nn.GRU(5, 8)), (noise(3, 8),)),
    "stacked": (stacked, dict(core=nn.LSTM(5, 8)), (noise(2, 1, 3, 8),)),
    "transposed, in a dict": (
        transposed,
        dict(core=nn.LSTM(5, 8, batch_first=True)),
        ({"h": noise(3, 1, 8), "c": noise(3, 1, 8)},),
    ),
    "masked by where": (masked, dict(core=nn.GRUCell(5, 8)), (noise(3, 8), DONE)),
    "set to zero in place": (set_to_zero, dict(core=nn.GRUCell(5, 8)), (noise(3, 8), DONE)),
    "a namedtuple": (as_record, dict(core=nn.LSTM(5, 8)), (Pair(noise(1, 3, 8), noise(1, 3, 8)),)),
    "a dataclass": (as_record, dict(core=nn.LSTM(5, 8)), (Record(noise(1, 3, 8), noise(1, 3, 8)),)),
}


@pytest.mark.parametrize("name", GIVEN)
def test_state_that_is_given_is_cut_wherever_it_lies(name):
    forward, layers, state = GIVEN[name]
    net, given = Net(forward, **layers, act=Linear(8, 3)), (*inputs(3, 5), *state)
    cores = [space for n in ("core", "other") if n in layers for space in spaces_of(n, layers[n])]
    assert_exact(net, given, cores)
    small = graph.collapse(random_(net), given, 2)
    assert all(small.widths[space] == 1 for space in cores) and small.network.state_inputs


def spaces_of(name, module):
    layers = getattr(module, "num_layers", 1)
    return [name] if layers == 1 else [f"{name}.l{i}" for i in range(layers)]


def test_what_a_dict_returns_of_a_state_that_was_not_given_is_state_too():
    def forward(net, x, state=None):
        y, (h, c) = net.core(x[:, None], state)
        return net.act(y[:, -1]), {"hidden": h.transpose(0, 1).detach(), "cell": c.transpose(0, 1).detach()}

    class Recurrent(Net):
        def forward(self, x, state=None):
            return forward(self, x, state)

    net = Recurrent(None, core=nn.LSTM(5, 8, batch_first=True), act=Linear(8, 3))
    assert_exact(net, inputs(3, 5), ["core"])


def test_features_are_not_taken_for_state():
    """What nobody can give back is an output: its size is somebody else's business."""
    net = random_(Net(lambda net, x: net.core(x)[1][-1], core=nn.GRU(5, 8)))
    assert graph.collapse(net, inputs(4, 3, 5), 2).reasons["core"] == "output"


# States that a policy starts by itself ---------------------------------------------------------------


class Starting(nn.Module):
    def __init__(self, start, core=None, layers=1):
        super().__init__()
        self.hidden_size, self.num_layers, self.start = 8, layers, start
        self.core, self.act = core or nn.GRU(5, 8, layers), Linear(8, 3)

    def forward(self, x):
        return self.act(self.core(x, self.start(self, x))[0])


STARTS = {
    "zeros": lambda net, x: torch.zeros(net.num_layers, x.size(1), net.hidden_size).to(x.device).double(),
    "new and zero_": lambda net, x: (
        next(net.parameters()).new(net.num_layers, x.size(1), net.hidden_size).zero_()
    ),
    "new_zeros": lambda net, x: x.new_zeros(net.num_layers, x.size(1), net.hidden_size),
    "full": lambda net, x: torch.full((net.num_layers, x.size(1), net.hidden_size), 0.5, dtype=x.dtype),
    "zeros of the batch's shape": lambda net, x: (
        torch.zeros((1, *x.shape[1:-1], net.hidden_size), dtype=x.dtype)
        .expand(net.num_layers, -1, -1)
        .contiguous()
    ),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("start", STARTS)
def test_a_width_that_a_module_keeps_is_learned_from_the_state_that_it_shapes(start, layers):
    net = Starting(STARTS[start], layers=layers)
    found = assert_exact(net, inputs(4, 3, 5), ["core"] if layers == 1 else ["core.l0", "core.l1"])
    assert found.policy.hidden_size == 8 and found.policy.num_layers == layers
    assert graph.collapse(net, inputs(4, 3, 5), 2).policy.hidden_size == 1


def learned(net, x):
    h, c = net.h0.expand(-1, x.shape[1], -1).contiguous(), net.c0.repeat(1, x.shape[1], 1)
    return net.act(net.core(x, (h, c))[0])


def test_learned_initial_states_merge_with_their_units():
    starts = dict(h0=nn.Parameter(torch.ones(1, 1, 8)), c0=nn.Parameter(torch.ones(1, 1, 8)))
    net = Net(learned, core=nn.LSTM(5, 8), act=Linear(8, 3), **starts)
    found = assert_exact(net, inputs(4, 3, 5), ["core"])
    assert found.kinds["core"] == "lstm"


class Written(nn.Module):
    """A cell written out, from zeros of a stored width."""

    def __init__(self, kind):
        super().__init__()
        self.width, self.kind, self.act = 6, kind, Linear(6, 3)
        if kind == "gru":
            self.x, self.h = Linear(5, 18), Linear(6, 18, bias=False)
        elif kind == "rnn":
            self.w = Linear(11, 6)
        else:
            self.W, self.U, self.b = (nn.Parameter(torch.ones(*n)) for n in ((5, 24), (6, 24), (24,)))

    def forward(self, x):
        h, ys = x.new_zeros(x.shape[1], self.width), []
        c = torch.zeros_like(h)
        for now in x:
            if self.kind == "gru":
                (rx, zx, nx), (rh, zh, nh) = self.x(now).chunk(3, -1), self.h(h).chunk(3, -1)
                z = torch.sigmoid(zx + zh)
                h = (1 - z) * torch.tanh(nx + torch.sigmoid(rx + rh) * nh) + z * h
            elif self.kind == "rnn":
                h = torch.tanh(self.w(torch.cat([now, h], -1)))
            else:
                i, f, g, o = (now @ self.W + h @ self.U + self.b).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            ys.append(h)
        return self.act(torch.stack(ys))


@pytest.mark.parametrize("kind, space", [("gru", "x"), ("rnn", "w"), ("lstm", "W")])
def test_cells_written_out_from_zeros(kind, space):
    found = assert_exact(Written(kind), inputs(4, 3, 5), [space])
    assert found.policy.width == 6


def test_results_collected_in_a_buffer_step_by_step():
    def forward(net, x):
        out, h = x.new_zeros(*x.shape[:2], net.act.in_features), x.new_zeros(x.shape[1], net.act.in_features)
        for t in range(len(x)):
            h = net.core(x[t], h)
            out[t] = h
        last = torch.zeros_like(out)
        last[-1].copy_(h)
        return net.act(out) + net.act(last)

    assert_exact(Net(forward, core=nn.GRUCell(5, 8), act=Linear(8, 3)), inputs(4, 3, 5), ["core"])


def test_course_that_inputs_choose_is_followed_and_said():
    def forward(net, x, state, starts):
        if torch.all(starts == 0.0):
            y, state = net.core(x, state)
            return net.act(y), state
        ys = []
        for now, start in zip(x, starts, strict=True):
            keep = (1.0 - start).view(1, -1, 1)
            y, state = net.core(now[None], (keep * state[0], keep * state[1]))
            ys.append(y)
        return net.act(torch.cat(ys)), state

    for starts in (torch.zeros(4, 3), noise(4, 3).gt(0)):
        given = (*inputs(4, 3, 5), (noise(1, 3, 8), noise(1, 3, 8)), starts.double())
        found = assert_exact(Net(forward, core=nn.LSTM(5, 8), act=Linear(8, 3)), given, ["core"])
        assert "`bool` in Net at test_states.py:" in str(found.report)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_was_collapsed_to_one_unit_collapses_and_lifts_again(kind):
    net = random_(Net(lambda net, x: net.act(net.core(x)[0]), core=kind(5, 6, 2), act=Linear(6, 3)))
    one = graph.collapse(net, inputs(4, 3, 5), 2).policy
    again = graph.collapse(one, inputs(4, 3, 5), 2)
    assert again.widths["core.l0"] == 1 and one.core.hidden_size == 1
    spaces = {"core.l0": [0, 0, 0], "core.l1": [0, 0, 0]}
    assert_same([graph.lift(one, inputs(4, 3, 5), spaces)(*inputs(4, 3, 5))], [one(*inputs(4, 3, 5))])


class Shared(nn.Module):
    """One number for the width of two layers, or of their states."""

    def __init__(self, cores):
        super().__init__()
        self.width, self.a, self.b = (
            8,
            *((nn.GRU(5, 8), nn.GRU(5, 8)) if cores else (Linear(5, 8), Linear(5, 8))),
        )
        self.act, self.value = Linear(8, 3), Linear(8, 1)

    def forward(self, x):
        if isinstance(self.a, nn.GRU):
            starts = [torch.zeros(1, x.shape[1], self.width, dtype=x.dtype) for _ in range(2)]
            return self.act(self.a(x, starts[0])[0]), self.value(self.b(x, starts[1])[0])
        return self.act(self.a(x).view(-1, self.width).relu()), self.value(
            self.b(x).view(-1, self.width).relu()
        )


@pytest.mark.parametrize("cores", [True, False])
def test_layers_whose_width_is_one_number_stay_as_wide_as_each_other(cores):
    net = random_(Shared(cores))
    with torch.no_grad():
        for layer, kept in ((net.a, 4), (net.b, 6)):
            for p in layer.parameters():
                for gate in p.chunk(3) if cores else [p]:
                    gate[kept:] = gate[: 8 - kept].clone()
    x = inputs(4, 3, 5) if cores else inputs(4, 5)
    found = graph.collapse(net, x, 0)
    assert found.widths["a"] == found.widths["b"] == found.policy.width == 6
    assert_same(found.policy(*x), net(*x))


def test_a_course_that_chance_chose_is_said():
    def forward(net, x):
        h = net.a(x).relu()
        return net.act(h) if torch.rand(()) < -1 else net.act(net.b(h).relu())

    net = random_(Net(forward, a=Linear(5, 8), b=Linear(8, 8), act=Linear(8, 3)))
    assert "or chance, chose: `bool` in Net at test_states.py:" in str(
        graph.collapse(net, inputs(4, 5), 2).report
    )


def test_recurrent_layers_with_dropout_between_them_merge_in_training():
    core = nn.LSTM(5, 8, 2, dropout=0.3)
    net = random_(Net(lambda net, x: net.act(net.core(x)[0]), core=core, act=Linear(8, 3))).train()
    assert graph.collapse(net, inputs(4, 3, 5), 2).widths["core.l0"] == 1


STATES = {
    "gru": (lambda: nn.GRU(5, 8), lambda y, h: (y, h)),
    "lstm": (lambda: nn.LSTM(5, 8), lambda y, h: (y, h)),
    "lstm, a dict": (lambda: nn.LSTM(5, 8), lambda y, h: (y, dict(h=h[0], c=h[1]))),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_beside_the_actions_is_no_value(name):
    cell, answer = STATES[name]

    class Acting(Net):
        def forward(self, x, state=None):
            y, h = self.core(x, state)
            return answer(self.act(y), h)

    net, seen = random_(Acting(None, core=cell(), act=Linear(8, 3))), [inputs(4, 6, 5) for _ in range(2)]
    found = graph.search(net, seen[0], seen[:1], seen[1:], target_params=0.5)
    taught = graph.distill(net, found.collapse, seen[:1], seen[1:], 2)
    apart = graph.divergence(net, taught.policy, seen, taught.network, taught.merges)
    assert apart.value_error != apart.value_error and apart.kl >= 0 and found.collapse.widths["core"] < 8
