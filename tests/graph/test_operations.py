"""What is claimed of an operation where its rule is registered is a law, tried on numbers."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from planted import inputs, random_, two_heads
from test_gains import scaled_lift
from test_trace import Net
from torch import nn
from torch.overrides import TorchFunctionMode

import pufferlib_kcore as kcore
from pufferlib_kcore import graph
from pufferlib_kcore.fibration.recurrent import CELLS
from pufferlib_kcore.graph import operations, rules
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.operations import OPERATIONS, TRAITS, operation_name

GAINS = (0.5, 4.0)  # powers of two, which no rounding shows
PLANE, ROWS = (4, 6), (2, 4, 6)  # shapes


def method(name, *args, **kwargs):
    return lambda x: getattr(x, name)(*args, **kwargs)


def function(name, *args, **kwargs):
    return lambda x: getattr(torch if hasattr(torch, name) else F, name)(x, *args, **kwargs)


def places(d):
    return (2, 3, *[6] * d)


def like(make, *args):
    """In place, on a copy."""
    return lambda x: getattr(x.clone(), make)(*args)


# operation -> a function of one tensor that calls it, and the tensor's shape
CALLS = {
    **{name: (method(name), ROWS) for name in "float double half bfloat16 clone contiguous cpu cuda".split()},
    **{name: (method(name), ROWS) for name in "detach requires_grad_ ravel positive zero_".split()},
    "data": (lambda x: x.data, ROWS),
    "alias": (lambda x: torch.ops.aten.alias(x), ROWS),
    "to": (method("to", torch.float32), ROWS),
    "type": (method("type", torch.float32), ROWS),
    "type_as": (lambda x: x.type_as(torch.zeros(1)), ROWS),
    "as_tensor": (function("as_tensor"), ROWS),
    "asarray": (function("asarray"), ROWS),
    "tensor": (function("tensor"), ROWS),
    "view": (method("view", 4, 12), ROWS),
    "reshape": (method("reshape", 4, 12), ROWS),
    "view_as": (lambda x: x.view_as(torch.zeros(4, 12)), ROWS),
    "reshape_as": (lambda x: x.reshape_as(torch.zeros(4, 12)), ROWS),
    "flatten": (method("flatten", 1), ROWS),
    "unflatten": (method("unflatten", 2, (3, 2)), ROWS),
    "squeeze": (method("squeeze", 1), (4, 1, 6)),
    "unsqueeze": (method("unsqueeze", 1), ROWS),
    "permute": (method("permute", 2, 0, 1), ROWS),
    **{name: (method(name, 0, 2), ROWS) for name in "transpose swapaxes swapdims movedim moveaxis".split()},
    "t": (method("t"), PLANE),
    "T": (lambda x: x.T, PLANE),
    "mT": (lambda x: x.mT, ROWS),
    "expand": (method("expand", 3, 4, 6), (1, 4, 6)),
    "broadcast_to": (method("broadcast_to", (3, 4, 6)), (1, 4, 6)),
    "expand_as": (lambda x: x.expand_as(torch.zeros(3, 4, 6)), (1, 4, 6)),
    **{name: (method(name, 2, 2), ROWS) for name in "chunk split tensor_split".split()},
    "split_with_sizes": (method("split_with_sizes", [1, 5], 2), ROWS),
    "unbind": (method("unbind", 1), ROWS),
    "narrow": (method("narrow", 2, 1, 3), ROWS),
    "select": (method("select", 2, 1), ROWS),
    "getitem": (lambda x: x[:, 1:3, [0, 2]], ROWS),
    "index_select": (lambda x: x.index_select(1, torch.tensor([2, 0])), ROWS),
    "broadcast_tensors": (lambda x: torch.broadcast_tensors(x, torch.zeros(3, 1)), (1, 6)),
    "repeat": (method("repeat", 2, 1, 3), ROWS),
    "tile": (method("tile", 2, 3), ROWS),
    "repeat_interleave": (method("repeat_interleave", 2, 1), ROWS),
    **{
        name: (lambda x, name=name: getattr(torch, name)([x, x.flip(0)]), ROWS)
        for name in "cat concat concatenate stack hstack vstack dstack".split()
    },
    "roll": (method("roll", 2, 1), ROWS),
    "flip": (method("flip", 1), ROWS),
    "rot90": (method("rot90", 1, (0, 2)), ROWS),
    "diagonal": (method("diagonal", 0, 1, 2), ROWS),
    "pixel_shuffle": (function("pixel_shuffle", 2), (1, 8, 2, 3)),
    "pixel_unshuffle": (function("pixel_unshuffle", 2), (1, 2, 4, 6)),
    "channel_shuffle": (function("channel_shuffle", 2), (1, 4, 2, 3)),
    **{f"max_pool{d}d": (function(f"max_pool{d}d", 2), places(d)) for d in (1, 2, 3)},
    **{f"avg_pool{d}d": (function(f"avg_pool{d}d", 2), places(d)) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": (function(f"adaptive_max_pool{d}d", 2), places(d)) for d in (1, 2, 3)},
    **{f"adaptive_avg_pool{d}d": (function(f"adaptive_avg_pool{d}d", 2), places(d)) for d in (1, 2, 3)},
    "sum": (method("sum", 1), ROWS),
    "mean": (method("mean", 1), ROWS),
    "relu": (F.relu, ROWS),
    "relu6": (F.relu6, ROWS),
    "leaky_relu": (F.leaky_relu, ROWS),
    **{name: (function(name, 0.5, True), ROWS) for name in "dropout alpha_dropout feature_dropout".split()},
    "feature_alpha_dropout": (function("feature_alpha_dropout", 0.5, True), ROWS),
    "rrelu": (function("rrelu", 0.1, 0.3, True), ROWS),
    "dropout1d": (F.dropout1d, ROWS),
    "dropout2d": (F.dropout2d, (2, 3, 4, 6)),
    "dropout3d": (F.dropout3d, (2, 3, 2, 2, 6)),
    **{
        name: (lambda x, name=name: getattr(torch, name)(2, 3), ROWS)
        for name in "zeros ones rand randn".split()
    },
    **{name: (function(name), ROWS) for name in "zeros_like ones_like rand_like randn_like".split()},
    **{f"new_{name}": (method(f"new_{name}", (2, 3)), ROWS) for name in ("zeros", "ones")},
    "full": (lambda x: torch.full((2, 3), 1.5), ROWS),
    "full_like": (function("full_like", 1.5), ROWS),
    "new_full": (method("new_full", (2, 3), 1.5), ROWS),
    "scalar_tensor": (lambda x: torch.scalar_tensor(1.5), ROWS),
    "zero": (like("zero_"), ROWS),
    "fill": (like("fill_", 1.5), ROWS),
    "randint": (lambda x: torch.randint(1000, (2, 3)), ROWS),
    "randint_like": (function("randint_like", 1000), ROWS),
    "randperm": (lambda x: torch.randperm(1000), ROWS),
    **{name: (like(f"{name}_"), ROWS) for name in "uniform exponential cauchy log_normal random".split()},
    "geometric": (like("geometric_", 0.01), ROWS),
    "normal": (lambda x: torch.normal(x, x.abs()), ROWS),
    "bernoulli": (lambda x: torch.bernoulli(x.sigmoid() / 4 + 0.3), ROWS),
    "multinomial": (lambda x: torch.multinomial(torch.ones(1000), 20), ROWS),
    "poisson": (lambda x: torch.poisson(x.abs() + 5), ROWS),
    **{name: (function(name), ROWS) for name in "isnan isinf isfinite isposinf isneginf".split()},
}
CALLS["requires_grad"], CALLS["zero"] = CALLS.pop("requires_grad_"), CALLS.pop("zero_")


def cell(name, x, w, b):
    """One step of a recurrent layer, whose own weights and state are the same whatever x, w and b are."""
    own = torch.linspace(-1, 1, len(w) * 4).double().reshape(len(w), 4)
    h = torch.linspace(-1, 1, 8).double().reshape(2, 4)
    state = (h, h) if name.startswith("lstm") else h
    if name.endswith("_cell"):
        return getattr(torch, name)(x, state, w, own, b, b)
    state = tuple(h[None] for h in state) if name == "lstm" else h[None]
    return getattr(torch, name)(x[None], state, [w, own, b, b], True, 1, 0.0, False, False, False)


# operation -> a function of a tensor, its weights and its bias, and their shapes
WEIGHTED = {
    "linear": (F.linear, (3, 5), (4, 5), (4,)),
    **{f"conv{d}d": (getattr(F, f"conv{d}d"), places(d), (4, 3, *[2] * d), (4,)) for d in (1, 2, 3)},
    **{
        f"conv_transpose{d}d": (getattr(F, f"conv_transpose{d}d"), places(d), (3, 4, *[2] * d), (4,))
        for d in (1, 2, 3)
    },
    **{
        name: (lambda x, w, b, name=name: cell(name, x, w, b), (2, 5), (4 * CELLS[kind].gates, 5), None)
        for kind in CELLS
        for name in (kind, f"{kind}_cell")
    },
}


class Called(TorchFunctionMode):
    """The names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.add(operation_name(func))
        return func(*args, **(kwargs or {}))


def numbers(shape, seed=0):
    """Odd numbers, no two alike, half of them below 0; few enough for no dtype to round them."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (2 * (order - count // 2) + 1).double().reshape(shape)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()


def results(name, x, seed=0):
    """What an operation makes of x.  -> its tensors"""
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(seed)
    call, _ = CALLS[name]
    with Called() as called:
        made = list(tensors_in(call(x.clone())))
    assert name in called.names, f"the example of {name} calls {called.names}"
    return [y.detach().cpu() for y in made]


def claiming(trait):
    return pytest.mark.parametrize("name", sorted(n for n, o in OPERATIONS.items() if getattr(o, trait)))


@claiming("homogeneous")
def test_homogeneous(name):
    """f(g x) = g f(x), and with weights W and a bias b: f(g x, W, g b) = g f(x, W, b)"""
    for g in GAINS:
        if name in WEIGHTED:
            call, *shapes = WEIGHTED[name]
            x, w, b = (random(*shape) for shape in shapes)
            torch.testing.assert_close(call(g * x, w, g * b), g * call(x, w, b))
        else:
            x = numbers(CALLS[name][1])
            for a, b in zip(results(name, g * x), results(name, x), strict=True):
                if a.is_floating_point():  # of what is none, no gain is handed on
                    torch.testing.assert_close(a, g * b, rtol=1e-12, atol=1e-12)


@claiming("weighs")
def test_weighs(name):
    """f(g x, W / g, b) = f(x, W, b)"""
    call, *shapes = WEIGHTED[name]
    x, w, b = (random(*(shape or shapes[1][:1])) for shape in shapes)
    for g in GAINS:
        with Called() as called:
            pairs = zip(tensors_in(call(g * x, w / g, b)), tensors_in(call(x, w, b)), strict=True)
        assert name in called.names
        for one, other in pairs:
            torch.testing.assert_close(one, other)


@claiming("keeps_sign")
def test_keeps_signs(name):
    """f(x) >= 0 where x >= 0"""
    for y in results(name, numbers(CALLS[name][1]).abs()):
        assert (y >= 0).all()


@claiming("rectifies")
def test_rectifies(name):
    """f(x) >= 0, and f(x) = 0 where x <= 0"""
    x = numbers(ROWS)
    (y,) = results(name, x)
    assert (y >= 0).all() and (y[x <= 0] == 0).all() and (y > 0).any()


@claiming("selects")
def test_selects(name):
    """Each number of f(x) is one of x."""
    x = numbers(CALLS[name][1])
    for y in results(name, x):
        if y.is_floating_point() and (name != "broadcast_tensors" or y.any()):  # another one, of zeros
            assert torch.isin(y, x.to(y)).all()


@claiming("moves")
def test_moves(name):
    """The same places of x, whatever its numbers are: f(x)[i] = x[f(0, 1, 2, ..)[i]]"""
    shape = CALLS[name][1]
    order = torch.arange(torch.Size(shape).numel()).double().reshape(shape)
    x = numbers(shape, seed=1)
    for y, where in zip(results(name, x), results(name, order), strict=True):
        if name != "broadcast_tensors" or y.any():
            assert torch.equal(y.double(), x.flatten()[where.long()])


@claiming("uniform")
def test_uniform(name):
    """f is one value all over; that of what is only allocated is not known yet."""
    if name not in ("new", "empty", "new_empty", "empty_like"):
        (y,) = results(name, numbers(ROWS))
        assert (y == y.flatten()[0]).all()


@pytest.mark.parametrize("name", sorted(n for n, o in OPERATIONS.items() if o.random or o.drops))
def test_random(name):
    """Another seed, other numbers; the same one, the same. And what drops has the shape of x."""
    x = numbers(CALLS[name][1])
    (one,), (again,), (other,) = (results(name, x, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert not OPERATIONS[name].drops or one.shape == x.shape


@claiming("tells_if_finite")
def test_tells_if_finite(name):
    (one,), (other,) = results(name, numbers(ROWS)), results(name, -3 * numbers(ROWS))
    assert torch.equal(one, other)


@claiming("takes_shape")
def test_takes_shape(name):
    x = torch.zeros(1, 6)
    for shape in ((1, 6), (1, 1, 6)):
        assert getattr(x, name)(shape).shape == shape
        if name != "broadcast_to":
            assert getattr(x, name)(*shape).shape == shape


NO_NUMBERS = set(
    "view_as reshape_as expand_as ravel t T mT hstack vstack dstack broadcast_tensors zero".split()
)
NO_NUMBERS |= set("zeros_like ones_like empty_like".split())
ANY_NUMBERS = {"arange", "full_like", "rand"}  # which take values, too


def sized(name, n):
    """Call an operation with n where it takes a size; fails if there is no way to."""
    x, y = torch.zeros(1, 4, 6), torch.zeros(4, 6)
    if name in CELLS or name.removesuffix("_cell") in CELLS:
        return torch.zeros(n)  # its number of layers is a module's
    if name.startswith("conv"):
        d = int(name[-2])
        return getattr(F, name)(torch.zeros(places(d)), torch.zeros(3, 3, *[2] * d), None, n)
    return {
        "arange": lambda: torch.arange(n),
        "as_strided": lambda: y.as_strided((n,), (1,)),
        "broadcast_to": lambda: y[:1, :1].broadcast_to((n, n)),
        "cat": lambda: torch.cat([x, x], n),
        "channel_shuffle": lambda: F.channel_shuffle(torch.zeros(1, 4, 2, 2), n),
        "chunk": lambda: x.chunk(n),
        "concat": lambda: torch.concat([x, x], n),
        "concatenate": lambda: torch.concatenate([x, x], n),
        "diagonal": lambda: y.diagonal(n),
        "expand": lambda: y[:1, :1].expand(n, n),
        "eye": lambda: torch.eye(n),
        "flatten": lambda: x.flatten(n),
        "flip": lambda: x.flip(n),
        "fold": lambda: F.fold(x[..., :4], (3, 2), (2, n)),
        "full": lambda: torch.full((n,), 0.5),
        "getitem": lambda: y[n],
        "group_norm": lambda: F.group_norm(y, n),
        "index_select": lambda: x.index_select(n, torch.tensor([0])),
        "interpolate": lambda: F.interpolate(x, (n,)),
        "layer_norm": lambda: F.layer_norm(torch.zeros(3, 2), (n,)),
        "linspace": lambda: torch.linspace(0, 1, n),
        "narrow": lambda: y.narrow(0, 0, n),
        "new": lambda: y.new(n),
        "normalize": lambda: F.normalize(x, dim=n),
        "one_hot": lambda: F.one_hot(torch.tensor([1]), n),
        "pad": lambda: F.pad(y, (0, n)),
        "permute": lambda: x.permute(n, 0, 1),
        "pixel_shuffle": lambda: F.pixel_shuffle(torch.zeros(1, 4, 2, 2), n),
        "pixel_unshuffle": lambda: F.pixel_unshuffle(torch.zeros(1, 4, 2, 2), n),
        "randint": lambda: torch.randint(5, (n,)),
        "randn": lambda: torch.randn(n),
        "repeat": lambda: y.repeat(n, 1),
        "repeat_interleave": lambda: y.repeat_interleave(n),
        "reshape": lambda: y.reshape(n, 12),
        "resize": lambda: torch.zeros(3).resize_(n),
        "rms_norm": lambda: F.rms_norm(torch.zeros(3, 2), (n,)),
        "roll": lambda: y.roll(n),
        "rot90": lambda: y.rot90(n),
        "select": lambda: y.select(0, n),
        "setitem": lambda: y.__setitem__(n, 0.5),
        "split": lambda: y.split(n),
        "split_with_sizes": lambda: y.split_with_sizes([n, 2]),
        "squeeze": lambda: x.squeeze(n),
        "stack": lambda: torch.stack([y, y], n),
        "tensor_split": lambda: y.tensor_split(n),
        "tile": lambda: y.tile(n),
        "topk": lambda: y.topk(n),
        "unbind": lambda: x.unbind(n),
        "unflatten": lambda: y.unflatten(1, (3, n)),
        "unfold": lambda: x.unfold(1, n, 1),
        "unsqueeze": lambda: y.unsqueeze(n),
        "view": lambda: y.view(n, 12),
        **{name: lambda name=name: getattr(torch, name)(n) for name in ("zeros", "ones", "empty")},
        **{name: lambda name=name: getattr(y, name)(n) for name in ("new_zeros", "new_ones", "new_empty")},
        "new_full": lambda: y.new_full((n,), 0.5),
        **{
            name: lambda name=name: getattr(x, name)(0, n)
            for name in "transpose swapaxes swapdims movedim moveaxis".split()
        },
    }[name]()


@claiming("takes_sizes")
def test_takes_sizes(name):
    """A size is a whole number, where a value could be a fraction."""
    if name in NO_NUMBERS | ANY_NUMBERS:
        return
    n = 1 if name in ("fold", "group_norm") else 2
    with Called() as called:
        sized(name, n)
    assert name in called.names or name.removesuffix("_cell") in CELLS
    with pytest.raises((TypeError, RuntimeError, IndexError, ValueError)):
        sized(name, n + 0.5)


def test_what_moves_selects_and_what_selects_is_homogeneous_and_keeps_signs():
    found = operations.Operation(moves=True)
    assert found.moves and found.selects and found.homogeneous and found.keeps_sign
    assert not any(getattr(operations.Operation(), trait) for trait in TRAITS)


def test_an_unknown_trait_is_refused_with_the_nearest():
    with pytest.raises(kcore.UserError, match="'homogenous' of mine is no trait .* did you mean homogeneous"):
        kcore.rule("mine", homogenous=True)(lambda trace, out, x: trace.neurons(x))


class Once(dict):
    def update(self, entries):
        assert not (twice := self.keys() & entries.keys()), f"registered twice: {twice}"
        super().update(entries)


def test_every_operation_is_registered_once(monkeypatch):
    """Operators and functions may share a bare name: what is said last would be all that is known of it."""
    once = Once()
    monkeypatch.setattr(operations, "OPERATIONS", once)
    for module in vars(rules).values():
        if getattr(module, "__name__", "").startswith(f"{rules.__name__}."):
            importlib.reload(module)
    assert once.keys() == OPERATIONS.keys()


def mlp(bend):
    layers = dict(a=nn.Linear(5, 8), b=nn.Linear(8, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1))
    return random_(Net(lambda net, x: two_heads(net, net.b(bend(net.a(x))).relu()), **layers))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("traits, width", [({}, 15), ({"homogeneous": True}, 8)])
def test_a_rule_of_ones_own_says_what_is_homogeneous(traits, width):
    """renorm stands for an operation that the engine does not know; here it leaves everything as it is."""
    kcore.rule("renorm", **traits)(lambda trace, out, x, *args: trace.neurons(x))
    base, x = mlp(lambda h: torch.renorm(h.relu(), 2, 0, 1e9)), inputs(6, 5)
    large = scaled_lift(base, x, {"a": 7})
    found = graph.collapse(large, x, 0, colors="faithful")
    assert found.widths["a"] == width
    torch.testing.assert_close(found.policy(*x), base(*x))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("traits, width", [({}, 9), ({"rectifies": True}, 7)])
def test_a_rule_of_ones_own_says_what_rectifies(traits, width):
    kcore.rule("renorm", **traits)(lambda trace, out, x, *args: trace.neurons(x))
    layers = dict(a=nn.Linear(5, 8), b=nn.Linear(8, 9), actor=nn.Linear(9, 3), critic=nn.Linear(9, 1))
    rectified = lambda h: torch.renorm(h, 1, 0, 1e9)  # noqa: E731
    net = random_(Net(lambda net, x: two_heads(net, rectified(net.b(net.a(x).relu())).relu()), **layers))
    with torch.no_grad():
        for p in (net.b.weight, net.b.bias):
            p[:2] = -p[:2].abs()
    assert graph.collapse(net, inputs(6, 5), 0, colors="faithful").widths["b"] == width


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_whole_numbers_hand_no_gain_on(kind):
    """3.4 and 2 * 3.4 are 3 and 6, but 0.4 and 2 * 0.4 both 0."""
    base, x = mlp(lambda h: h.relu().to(kind).to(h.dtype)), inputs(6, 5)
    with torch.no_grad():
        base.a.weight[1], base.a.bias[1] = 1.5 * base.a.weight[0], 1.5 * base.a.bias[0]
    found = graph.collapse(base, x, 0, colors="faithful")
    assert found.widths["a"] == 8
    torch.testing.assert_close(found.policy(*x), base(*x))
