"""Tracing: one run of a policy, unedited, in which every number computed carries its neuron's name."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.recurrent import Step, plain_step
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.macs import MACS, plus
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.sizes import axis_of, learn_sizes, tagged_shape

RULES: dict[str, Callable] = {}  # operation -> rule(trace, out, *args, **kwargs) -> neurons of out
HOMOGENEOUS = set(
    """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d relu leaky_relu dropout
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    view reshape flatten unflatten ravel squeeze unsqueeze permute transpose t T contiguous clone detach
    chunk split getitem cat stack expand float double to
    """.split()
)  # what makes of a neuron g times as large a result g times as large, or reads it
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
VIEWS = set(
    """
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    view reshape flatten unflatten ravel squeeze unsqueeze permute transpose t T contiguous clone detach
    chunk split getitem cat stack expand float double to
    """.split()
)  # what lets numbers through, or the largest of them
AVERAGES = {f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in (1, 2, 3)} | {"mean", "sum"}
KEEPS_SIGN = VIEWS | AVERAGES | {"dropout"}
RECTIFIERS = {"relu", "relu6"}
TAKES_SIZES = {"view", "reshape", "expand", "broadcast_to"}
ASKS_A_VALUE = {"item", "tolist", "numpy", "bool", "int", "float", "index", "complex"}
Axes = tuple[int | None, ...]  # of a parameter, in the order of a view's; None where it only repeats
INPUT = -1  # among the sources of a tensor: the policy's inputs


def rule(*operations: str) -> Callable:
    """Teach the tracer operations by name: "relu" stands for F.relu, Tensor.relu and Tensor.relu_.

    The rule gets the trace, the operation's result and its arguments. It declares which axes of which
    parameters write or read neurons, and returns the neurons of the result's elements, in the result's
    shape (a tuple of such for several results):

        @rule("linear")
        def linear(trace, out, x, weight, bias=None):
            trace.read(weight, 1, trace.along(x, -1))
            units = trace.write((weight, 0), (bias, 0), kind="linear")
            return trace.spread(units, out, -1)
    """

    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return register


@dataclass(frozen=True)
class Shadow:
    """What the tracer knows of a tensor."""

    neurons: Tensor  # int64, the tensor's shape: > 0 a neuron, 0 nobody, -1 - i the policy's i-th input
    sources: frozenset[int] = frozenset()  # the populations it was computed from
    positive: bool = False  # known to be nowhere below 0
    raw: bool = False  # just written: nothing but views since


@dataclass(frozen=True)
class Population:
    """Neurons written together, numbered first .. first + units - 1."""

    name: str
    kind: str
    first: int
    units: int
    columns: tuple[Columns, ...]
    gates: int
    step: Step


@dataclass(frozen=True)
class Use:
    """What one axis of one parameter does: its role, and the neurons of its positions."""

    role: str  # "out": writes them, "in": sums over them
    neurons: Tensor


class Trace(TorchFunctionMode):
    """The record of one run: which parameters write which neurons, which read them, which must agree."""

    def __init__(self, policy: nn.Module, ignore: Sequence[str] = ()):
        super().__init__()
        self.policy, self.ignore = policy, tuple(ignore)
        self.tensors: dict[str, Tensor] = dict([*policy.named_parameters(), *policy.named_buffers()])
        self.count = 1  # neurons so far, and one more: number 0 is nobody
        self.populations: list[Population] = []
        self.uses: dict[tuple[str, int], Use] = {}  # (parameter, axis) -> what it does
        self.united: list[tuple[Tensor, Tensor]] = []
        self.taken: list[Tensor] = []  # neurons that went on together, maybe without the rest of their layer
        self.protected: list[tuple[Tensor, str]] = []  # and why
        self.bent: list[Tensor] = []  # neurons whose size matters: g times as large, they do something else
        self.bare: list[Tensor] = []  # neurons that something other than a rectifier saw as they were written
        self.signed: set[str] = set()  # parameters that read what may be below 0
        self.same_width: list[list[Tensor]] = []  # populations that one module keeps at one width
        self.inputs = 0  # tensors in what the method was given
        self.state_inputs: dict[int, Tensor] = {}  # an input that is recurrent state -> its neurons
        self.state_outputs: set[int] = set()  # ids of recurrent states, which may leave at any width
        self.computed_with: dict[str, str] = {}  # parameters that operations other than layers use
        self.touched: set[str] = set()  # parameters that took part
        self.macs: int | None = 0  # multiply-accumulates so far; None where some cannot be counted
        self._names = {id(tensor): name for name, tensor in self.tensors.items()}
        self._shadows: dict[int, tuple[Tensor, Shadow]] = {}  # tensors are kept, so that ids stay theirs
        self._views: dict[int, tuple[Tensor, Tensor, Axes]] = {}  # views of parameters, and of which
        self._path: list[str] = []  # the modules that are running
        self._written: set[int] = set()  # populations of the operation that is running
        self._viewing = False  # whether it makes a view of a parameter

    # What a rule may ask and declare ------------------------------------------------------------------

    def sources(self, x: Tensor) -> frozenset[int]:
        """The indices of the populations that a tensor was computed from."""
        return self._shadows[id(x)][1].sources if id(x) in self._shadows else frozenset()

    def neurons(self, x: Tensor) -> Tensor:
        """The neurons of a tensor's elements.  int64, the shape of x"""
        return self._shadow(x).neurons

    def along(self, x: Tensor, dim: int) -> Tensor:
        """The neurons along one axis of x.  -> (size,); protected, and zeros, if others differ"""
        neurons = axis_of(self.neurons(x), dim)
        if neurons is None:
            self.protect(self.neurons(x), f"{self.here()} mixes it with others")
            return torch.zeros(x.shape[dim], dtype=torch.int64, device=x.device)
        return neurons

    def spread(self, units: Tensor, out: Tensor, dim: int) -> Tensor:
        """These neurons along one axis of `out`, the same at every other index.  (size,) -> shape of out"""
        return units.reshape([-1 if d == dim % out.ndim else 1 for d in range(out.ndim)]).expand(out.shape)

    def is_constant(self, x: Tensor) -> bool:
        """Whether x is nobody's, and the same for every neuron that it meets."""
        return not self.neurons(x).any() and bool((x == x.flatten()[:1]).all())

    def read(self, parameter: Tensor, dim: int, neurons: Tensor) -> None:
        """An axis of a parameter, or of a view of one, is summed over these neurons."""
        if self.axis(parameter, dim) is None:
            self.hold(parameter, "reads with it")
            self.protect(neurons, f"{self.here()} reads it through a computed matrix")
        else:
            self._use(parameter, dim, "in", neurons)

    def write(
        self,
        *axes: tuple[Tensor | None, int],
        kind: str,
        gates: int = 1,
        step: Step = plain_step,
        columns: Sequence[Columns] | None = None,
        name: str | None = None,
    ) -> Tensor:
        """Axes of parameters, or of views of them, write one population of neurons.  -> (units,)

        kind         which threshold it takes: "linear", "cnn" or "lstm"
        gates, step  of a recurrent cell, whose gates' rows follow one another along the axes
        columns      how the parameters make the rows to color; side by side where None
        name         of the population; where None, of the module whose weight is the first parameter
        """
        written = [(parameter, dim) for parameter, dim in axes if parameter is not None]
        parameter, dim = written[0]
        units = parameter.shape[dim] // gates
        places = {i: place for i, (p, d) in enumerate(written) if (place := self.axis(p, d))}
        if 0 not in places:  # a computed matrix
            return torch.zeros(units, dtype=torch.int64, device=parameter.device)
        use = self.uses.get(places[0])
        if use is not None and use.role == "out":  # a module that runs again writes the same neurons
            neurons = use.neurons[:units]
        else:
            neurons = torch.arange(self.count, self.count + units, device=parameter.device)
            columns = columns or [Columns((name,)) for name, _ in places.values()]
            name = self._free_name(name, *places[0])
            self.populations.append(Population(name, kind, self.count, units, tuple(columns), gates, step))
            self.count += units
        if kind == "lstm":
            self.bent.append(neurons)
        for i, (parameter, dim) in enumerate(written):
            if i in places:
                self._use(parameter, dim, "out", neurons.repeat(gates))
            elif not self.is_constant(parameter):
                self.unite(neurons.repeat(gates), self.along(parameter, dim))
        self._written.add(self.population(int(neurons[0])))
        return neurons

    def view(self, x: Tensor, out: Tensor, dims: Sequence[int | None]) -> bool:
        """Whether x is a parameter, or a view of one: then `out` is another, and rules may name its axes.

        dims  for each axis of out that of x; None where out repeats x along it
        """
        origin = self._origin(x)
        if origin is not None:
            parameter, before = origin
            axes = tuple(None if dim is None else before[dim] for dim in dims)
            self._views[id(out)], self._viewing = (out, parameter, axes), True
        return origin is not None

    def unite(self, a: Tensor, b: Tensor) -> None:
        """These neurons, pair by pair, can only be merged alike; what meets none of ours is protected."""
        self.united.append((a, b))
        self.protect(a[(b <= 0) & (a > 0)], f"{self.here()} joins it with what cannot be merged")
        self.protect(b[(a <= 0) & (b > 0)], f"{self.here()} joins it with what cannot be merged")

    def protect(self, neurons: Tensor, reason: str) -> None:
        """These neurons are never merged."""
        self.protected.append((neurons[neurons > 0], reason))

    def hold(self, x: Tensor, why: str) -> None:
        """The operation that is running needs every entry of x as it is: neurons, or a parameter."""
        origin = self._origin(x)
        if origin is None:
            self.protect(self.neurons(x), f"{self.here()} {why}")
        else:
            self.computed_with.setdefault(self._names[id(origin[0])], self.here())

    def nobody(self, out: Any) -> list[Tensor]:
        """The neurons of results that hold nobody's value."""
        return [torch.zeros(x.shape, dtype=torch.int64, device=x.device) for x in tensors_in(out)]

    def leave(self, given: Any, out: Any, why: str, cure: str) -> list[Tensor]:
        """Hold what was given to the operation that is running, if the user said to ignore it; else refuse.

        given, out  tensors, nested;  why, cure  of the sentence "it <why>: <cure>, or leave .. whole"
        Returns the neurons of the results, nobody's.
        """
        tensors = list(tensors_in(given))
        neurons = [self.neurons(x) for x in tensors if self._origin(x) is None]
        ours = {self.populations[self.population(n)].name for ids in neurons for n in ids[ids > 0].unique()}
        held = any(self.is_parameter(x) for x in tensors)
        running = self._path[-1] if self._path else ""
        ignored = is_within(running, self.ignore) or ours and all(is_within(n, self.ignore) for n in ours)
        if (ours or held) and not ignored:
            names = [running] if held and running else sorted(ours) or [running]
            raise UserError(
                f"{self.here()} {why}: {cure}, or leave what it touches whole with ignore={names}"
            )
        for x in tensors:
            self.hold(x, why)
        return self.nobody(out)

    def name(self, tensor: Tensor) -> str | None:
        """The name of a parameter or buffer of the policy; None for any other tensor."""
        return self._names.get(id(tensor))

    def is_table(self, x: Tensor) -> bool:
        """Whether x is a parameter with several axes, unlike a bias or a scale."""
        return self.is_parameter(x) and sum(size > 1 for size in x.shape) > 1

    def is_named(self, x: Tensor) -> bool:
        """Whether x is a parameter or buffer of the policy, or a view of one."""
        return self._origin(x) is not None

    def is_parameter(self, x: Tensor) -> bool:
        """Whether x is one, or a view of one."""
        origin = self._origin(x)
        return origin is not None and isinstance(origin[0], nn.Parameter)

    def axis(self, x: Tensor, dim: int) -> tuple[str, int] | None:
        """The parameter or buffer, and which axis of it, that lies along an axis of x; None if none does."""
        parameter, axes = self._origin(x) or (x, ())
        axis = axes[dim] if axes else None
        return None if axis is None else (self._names[id(parameter)], axis)

    def here(self) -> str:
        """The operation that is running, and its module."""
        return f"`{self.operation}` in {self._path[-1] if self._path else type(self.policy).__name__}"

    # How a run is followed ----------------------------------------------------------------------------

    def run(self, method: str, inputs: tuple) -> Any:
        """Call a method of the policy, and record it.  -> its output"""
        for i, x in enumerate(tensors_in(inputs)):
            self.inputs = i + 1
            neurons = torch.full(x.shape, -1 - i, dtype=torch.int64, device=x.device)
            self._keep(x, Shadow(neurons, frozenset({INPUT}), x.dtype in (torch.uint8, torch.bool)))
        with ExitStack() as stack:
            for name, module in self.policy.named_modules():
                before = module.register_forward_pre_hook(lambda *_, name=name: self._path.append(name))
                after = module.register_forward_hook(lambda *_: self._path.pop() and None)
                stack.callback(before.remove), stack.callback(after.remove)
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            return getattr(self.policy, method)(*inputs)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.func, self.operation, self._written, self._viewing = func, operation_name(func), set(), False
        if self.operation in ("shape", "size"):
            return self._remembering(out, *args, **kwargs)
        given, results = list(tensors_in((args, kwargs))), list(tensors_in(out))
        sources = frozenset().union(*map(self.sources, given))
        if results or self.operation == "setitem":
            self.touched |= {name for x in given if (name := self.name(x))}
            self.macs = plus(self.macs, self._macs(given, out, args, kwargs))
            neurons = self._follow(given, out, args, kwargs)
            positive, raw = self._sign(given, args)
            for x, ids in zip(results, neurons, strict=True):
                if not self._viewing:
                    self._views.pop(id(x), None)  # written over
                    self._keep(x, Shadow(ids, sources | self._written, positive, raw))
            if self.operation in TAKES_SIZES:
                learn_sizes(args[1] if isinstance(args[1], (tuple, list)) else args[1:], neurons[0])
        elif self.operation in ASKS_A_VALUE and sources and not asked_by_torch():
            raise UserError(
                f"{self.here()} cannot be traced: the policy's course depends on a value, and one run shows "
                "one course only; make the choice before calling the policy, or name a method without it"
            )
        return out

    def _follow(self, given: list[Tensor], out: Any, args: tuple, kwargs: dict) -> list[Tensor]:
        """The neurons of an operation's results, by its rule; without one, only if nothing is lost."""
        rule = RULES.get(self.operation)
        keeps_scale = self.operation in HOMOGENEOUS | RECURRENT or self._adds_neurons(given, args)
        if rule and any(
            self.is_parameter(x) or self._origin(x) is None and self.neurons(x).any() for x in given
        ):
            told = {name: value for name, value in kwargs.items() if name != "out"}  # where to put it
            neurons = list(tensors_in(rule(self, out, *args, **told)))
        else:
            cure = f'register a rule for it with @pufferlib_kcore.rule("{self.operation}")'
            neurons = self.leave(given, out, "is unknown", cure)
        if not keeps_scale:
            self.bent += [self._shadows[id(x)][1].neurons for x in given if id(x) in self._shadows]
        return neurons

    def _macs(self, given: list[Tensor], out: Any, args: tuple, kwargs: dict) -> int | None:
        """An operation's multiply-accumulates; None for one of others' on what is not the input alone."""
        if self.operation in MACS:
            return MACS[self.operation](out, *args, **{k: v for k, v in kwargs.items() if k != "out"})
        rule = RULES.get(self.operation)
        ours = str(getattr(getattr(rule, "func", rule), "__module__", "")).startswith(f"{__package__}.")
        return 0 if ours or not any(self.is_named(x) or self.sources(x) - {INPUT} for x in given) else None

    def _sign(self, given: list[Tensor], args: tuple) -> tuple[bool, bool]:
        """Whether the results are known to be nowhere below 0, and whether they are as they were written."""
        parameters = {self._names[id(origin[0])] for x in given if (origin := self._origin(x))}
        read = [self._shadow(x) for x in given if not self.is_named(x)]
        positive, raw = all(x.positive for x in read), any(x.raw for x in read)
        if read and not positive:
            self.signed |= parameters
        if self.operation in RECTIFIERS:
            return True, False
        if self.operation not in VIEWS:
            self.bare += [x.neurons for x in read if x.raw]
            raw = bool(self._written)
        by = args[1] if self.operation in ("mul", "div", "truediv") and len(args) == 2 else None
        keeps = self.operation in KEEPS_SIGN or isinstance(by, (int, float)) and by > 0
        return positive and keeps and not parameters, raw

    def _adds_neurons(self, given: list[Tensor], args: tuple) -> bool:
        """Whether this is a sum of neurons and of nothing else."""
        return (
            self.operation in ("add", "iadd")
            and len(given) == len(args) == 2
            and not any(self.is_table(x) for x in given)
            and all(bool((self.neurons(x) > 0).all()) for x in given)
        )

    def _origin(self, x: Tensor) -> tuple[Tensor, Axes] | None:
        """The parameter or buffer that x is or is a view of, and which of its axes lie along those of x."""
        if self.name(x):
            return x, tuple(range(x.ndim))
        return self._views[id(x)][1:] if id(x) in self._views else None

    def _free_name(self, name: str | None, parameter: str, dim: int) -> str:
        """A name that no population has yet."""
        module, _, last = parameter.rpartition(".")
        of_module = module if module and last.startswith("weight") else parameter
        taken = {p.name for p in self.populations}
        return next(n for n in (name or of_module, parameter, f"{parameter}.{dim}") if n not in taken)

    def _shadow(self, x: Tensor) -> Shadow:
        if id(x) in self._views and id(x) not in self._shadows:
            _, parameter, axes = self._views[id(x)]
            shadow, there = self._shadow(parameter), [axis for axis in axes if axis is not None]
            gone = tuple(set(range(parameter.ndim)) - set(there))  # of size 1, before it was repeated
            neurons = shadow.neurons.permute(*there, *gone).reshape(
                [1 if axis is None else parameter.shape[axis] for axis in axes]
            )
            self._keep(x, Shadow(neurons.expand(x.shape), shadow.sources))
        elif id(x) not in self._shadows:
            name, long = self.name(x), [dim for dim, size in enumerate(x.shape) if size > 1]
            neurons = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
            sources = frozenset[int]()
            if isinstance(x, nn.Parameter) and name and len(long) == 1:  # it acts as a bias or a scale does
                neurons = self.spread(self.write((x, long[0]), kind="linear", name=name), x, long[0])
                sources = frozenset({len(self.populations) - 1})
            elif name:
                self.computed_with.setdefault(name, self.here())
            self._keep(x, Shadow(neurons, sources))
        return self._shadows[id(x)][1]

    def _keep(self, x: Tensor, shadow: Shadow) -> None:
        self._shadows[id(x)] = x, shadow

    def _use(self, parameter: Tensor, dim: int, role: str, neurons: Tensor) -> None:
        place = self.axis(parameter, dim)
        assert place is not None
        use = self.uses.setdefault(place, Use(role, neurons))
        if use.role == role:
            self.unite(use.neurons, neurons)
        else:
            self.protect(torch.cat([use.neurons, neurons]), f"{place[0]} is tied to it in two roles")

    def population(self, neuron: int) -> int:
        """The index of the population that a neuron belongs to."""
        return bisect_right(self.populations, int(neuron), key=lambda p: p.first) - 1

    def _remembering(self, out: Any, x: Tensor, dim: int | None = None) -> Any:
        """A shape, or one size of it, that remembers which neurons lie along its axes."""
        if self._origin(x):
            return out
        shape = tagged_shape(self.neurons(x))
        return shape if dim is None else shape[dim]


def operation_name(func: Callable) -> str:
    """A torch function's bare name: `__add__` and `add_` are "add", `Tensor.shape.__get__` is "shape"."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(func.__self__, "__name__", "")  # type: ignore[attr-defined]
    return name.strip("_")


def asked_by_torch() -> bool:
    """Whether torch itself asks for a value, as when a distribution checks its arguments."""
    return sys._getframe(2).f_globals.get("__name__", "").startswith("torch.")


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Whether a dotted name is one of these, or below one."""
    return any(name == module or name.startswith(module + ".") for module in modules)
