"""Tracing: one run of a policy, unedited, in which every number computed carries its neuron's name."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.recurrent import Step, plain_step
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.macs import MACS, plus
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import FIRST_INPUT, FREE, axis_of, free, numbered_inputs, uneven, varies
from pufferlib_kcore.graph.running import (
    caller,
    chance_kept,
    is_script,
    is_torchs,
    line_of,
    place_of,
    uncompiled,
)
from pufferlib_kcore.graph.sizes import Attribute, Origin, Size, learn_sizes, sizes_in, tagged_shape

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
MOVES = set(
    """
    view reshape flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes movedim t T contiguous
    clone detach chunk split unbind select narrow getitem cat concat concatenate stack hstack vstack
    float double half bfloat16 to type cpu cuda alias data
    """.split()
)  # what hands on a recurrent state as it is
UNIFORM = set(
    """
    zeros ones full empty new_zeros new_ones new_full new_empty new zeros_like ones_like full_like empty_like
    zero fill scalar_tensor
    """.split()
)  # what makes a tensor of one value all over
TAKES_SHAPE = {"view", "reshape", "expand", "broadcast_to"}
TAKES_SIZES = (UNIFORM - {"fill", "scalar_tensor"}) | set(
    """
    view reshape view_as reshape_as expand expand_as broadcast_to unflatten flatten repeat tile
    repeat_interleave split split_with_sizes tensor_split chunk narrow getitem setitem select index_select
    unfold fold pad roll rand randn randint arange linspace eye one_hot resize as_strided
    permute transpose movedim squeeze unsqueeze interpolate layer_norm rms_norm group_norm normalize topk
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """.split()
)  # whose numbers are shapes, places and counts, and not values
CHANCE = set(
    """
    rand randn randint randperm rand_like randn_like randint_like normal uniform exponential bernoulli
    multinomial poisson geometric cauchy log_normal random
    """.split()
)  # what draws random numbers
ASKS_A_VALUE = set("item tolist numpy array bool int float index complex equal allclose is_nonzero".split())
ASKS_IF_FINITE = {"isnan", "isinf", "isfinite", "isposinf", "isneginf"}
HIDDEN = "runs where tracing cannot look (TorchScript, vmap or an extension)"
Axes = tuple[int | None, ...]  # of a parameter, in the order of a view's; None where it only repeats
INPUT = -1  # among the sources of a tensor: the policy's inputs, or chance


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

    neurons: Tensor  # int64, the tensor's shape: see `neurons`
    sources: frozenset[int] = frozenset()  # the populations it was computed from
    positive: bool = False  # known to be nowhere below 0
    preactivation: bool = False  # as layers wrote it: nothing but views since
    state: bool = False  # what recurrent units hand on to their next call


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

    def __init__(self, policy: nn.Module, ignore: Sequence[str] = (), originals: Mapping[str, Tensor] = {}):
        """originals  parameters of the policy that this one is a copy of, which a run must not use"""
        super().__init__()
        self._originals = {id(x): name for name, x in originals.items()}
        self._foreign: dict[int, Tensor] = {}  # parameters that are none of the policy's
        self.policy, self.ignore = policy, tuple(ignore)
        self.tensors: dict[str, Tensor] = dict([*policy.named_parameters(), *policy.named_buffers()])
        self.count = 1  # neurons so far, and one more: number 0 is nobody
        self.populations: list[Population] = []
        self.uses: dict[tuple[str, int], Use] = {}  # (parameter, axis) -> what it does
        self.united: list[tuple[Tensor, Tensor]] = []
        self.selections: list[Tensor] = []  # neurons moved together, maybe without the rest of their layer
        self.protected: list[tuple[Tensor, str]] = []  # and why
        self.nonhomogeneous: list[Tensor] = []  # neurons that something reads which is not homogeneous
        self.unrectified: list[Tensor] = []  # neurons that something else than a rectifier reads first
        self.signed: set[str] = set()  # parameters that read what may be below 0
        self.compared: list[Tensor] = []  # neurons of which the largest one, or the like, goes on
        self.same_width: list[list[Tensor]] = []  # populations that one module keeps at one width
        self.inputs: list[Tensor] = []  # the numbers of the elements of each tensor that the method was given
        self.given: list[tuple[Tensor, Tensor]] = []  # elements of these, and recurrent units that they start
        self.may_be_given = False  # whether the method takes something more, such as a state to go on from
        self.stored: set[int] = set()  # populations that buffers write
        self.ledger: list[Origin] = []  # sizes that the policy computes with
        self.courses: dict[str, None] = {}  # where the values of inputs decided what the policy does
        self.hidden: set[str] = set()  # parameters of code that tracing cannot look into
        self.computed_with: dict[str, str] = {}  # parameters that operations other than layers use
        self.parted: dict[
            tuple[str, int], str
        ] = {}  # axes of parameters of which parts were taken, and where
        self.touched: set[str] = set()  # parameters that took part
        self.macs: int | None = 0  # multiply-accumulates so far; None where some cannot be counted
        self._names = {id(tensor): name for name, tensor in self.tensors.items()}
        self._shadows: dict[int, tuple[Tensor, Shadow]] = {}  # tensors are kept, so that ids stay theirs
        self._views: dict[int, tuple[Tensor, Tensor, Axes]] = {}  # views of parameters, and of which
        self._free: list[list[Attribute]] = [[]]  # of each kind of free neurons: numbers in their shape
        self._shapes: list[list[Tensor]] = [[]]  # and neurons that gave them their shape, along one axis
        self._handed_on: set[int] = set()  # ids of results that are recurrent state
        self._placed: dict[int, tuple[Tensor, Tensor]] = {}  # results that tell places, and of which neurons
        self._path: list[str] = []  # the modules that are running
        self._written: set[int] = set()  # populations of the operation that is running
        self._viewing = False  # whether it makes a view of a parameter
        self._busy = False  # whether an operation is running that is being followed

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
            return torch.zeros(x.shape[dim], dtype=torch.int64)
        return neurons

    def spread(self, units: Tensor, out: Tensor, dim: int) -> Tensor:
        """These neurons along one axis of `out`, the same at every other index.  (size,) -> shape of out"""
        return units.reshape([-1 if d == dim % out.ndim else 1 for d in range(out.ndim)]).expand(out.shape)

    def uniform(self, out: Tensor, *arguments: Any) -> Tensor:
        """The neurons of a new tensor of one value all over: it fits any neurons.  -> shape of out

        arguments  what it was made with: its shape may be a module's number, whose meaning is then learned
        """
        sizes = list(sizes_in(arguments))
        self._free.append([size.attribute for size in sizes if size.attribute is not None])
        shapes = [o for size in sizes for o in size.origins if isinstance(o, Tensor)]
        shapes += [self.neurons(x) for x in tensors_in(arguments) if not self.is_named(x)]  # zeros_like(x)
        self._shapes.append([axis for x in shapes for d in varies(x) if (axis := axis_of(x, d)) is not None])
        return torch.full(out.shape, -len(self._free), dtype=torch.int64)

    def count_free(self, made: Tensor, dims: Iterable[int]) -> None:
        """A total over one value all over tells how many there are: what gave it its shape is held."""
        lengths = {made.shape[dim] for dim in dims} if made.ndim else set()
        for kind in made[free(made)].unique():
            for units in self._shapes[-int(kind) - 1]:
                if len(units) in lengths:
                    self.protect(units, f"{self.here()} counts it")

    def read(self, parameter: Tensor, dim: int, neurons: Tensor) -> None:
        """An axis of a parameter, or of a view of one, is summed over these neurons."""
        if self.axis(parameter, dim) is None:
            self.keep_whole(parameter, "reads with it")
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
            return torch.zeros(units, dtype=torch.int64)
        use = self.uses.get(places[0])
        if use is not None and use.role == "out":  # a module that runs again writes the same neurons
            neurons = use.neurons[:units]
        else:
            neurons = torch.arange(self.count, self.count + units)
            columns = columns or [Columns((name,)) for name, _ in places.values()]
            name = self._free_name(name, *places[0])
            self.populations.append(Population(name, kind, self.count, units, tuple(columns), gates, step))
            self.count += units
        if kind == "lstm":
            self.nonhomogeneous.append(neurons)
        for i, (parameter, dim) in enumerate(written):
            if i in places:
                self._use(parameter, dim, "out", neurons.repeat(gates))
            else:
                self.unite(neurons.repeat(gates), self.along(parameter, dim))
        self._written.add(self.population(int(neurons[0])))
        return neurons

    def view(self, x: Tensor, out: Tensor, dims: Sequence[int | None]) -> bool:
        """Whether x is a parameter, or a view of one: then `out` is another, and rules may name its axes.

        dims  for each axis of out that of x; None where out repeats x along it, or has but parts of it
        """
        origin = self._origin(x)
        if origin is not None:
            parameter, before = origin
            axes = tuple(None if dim is None else before[dim] for dim in dims)
            gone = [before[dim] for dim, size in enumerate(x.shape) if size > 1 and dim not in dims]
            name = self._names[id(parameter)]
            self.parted.update({(name, axis): self.here() for axis in gone if axis is not None})
            self._viewing = True
            if out is not x:  # as x.to(its own dtype) is
                self._views[id(out)] = out, parameter, axes
        return origin is not None

    def unite(self, a: Tensor, b: Tensor) -> None:
        """These neurons, pair by pair, can only be merged alike; what meets none of ours is protected."""
        self.united.append((a, b))
        for ours, others in ((a, b), (b, a)):
            fits = free(others)
            alone = (ours > 0) & (others <= 0) & (~fits | uneven(others, varies(ours)))
            self.protect(ours[alone], f"{self.here()} joins it with what cannot be merged")
            if fits.any():
                self._learn_shape(others, ours)

    def start(self, h: Tensor, units: Tensor) -> None:
        """Recurrent units start from h: a state that was given, neurons of ours, or one value all over."""
        neurons, units = torch.broadcast_tensors(self.neurons(h), units)
        given = neurons <= FIRST_INPUT
        if given.any():
            self.given.append((neurons[given], units[given]))
        self.unite(torch.where(given, FREE, neurons), units)

    def hand_on(self, *states: Tensor) -> None:
        """These results are what recurrent units start from in the policy's next call."""
        self._handed_on |= {id(h) for h in states}

    def is_state(self, x: Tensor) -> bool:
        """Whether x is what recurrent units hand on."""
        return self._shadow(x).state

    def sources_of(self, neurons: Tensor) -> set[int]:
        """The populations that neurons belong to."""
        return {self.population(n) for n in neurons[neurons > 0].unique()}

    def tell_places(self, x: Tensor, neurons: Tensor) -> None:
        """x holds places among these neurons: they are protected if the policy uses it."""
        self._placed[id(x)] = x, neurons

    def protect(self, neurons: Tensor, reason: str) -> None:
        """These neurons are never merged."""
        self.protected.append((neurons[neurons > 0], reason))

    def keep_whole(self, x: Tensor, why: str) -> None:
        """The operation that is running needs every entry of x as it is: neurons, or a parameter."""
        origin = self._origin(x)
        if origin is None:
            self.protect(self.neurons(x), f"{self.here()} {why}")
        else:
            self.computed_with.setdefault(self._names[id(origin[0])], self.here())

    def nobody(self, out: Any) -> list[Tensor]:
        """The neurons of results that hold nobody's value."""
        return [torch.zeros(x.shape, dtype=torch.int64) for x in tensors_in(out)]

    def refuse(self, given: Any, out: Any, why: str, cure: str) -> list[Tensor]:
        """Refuse the operation that is running; keep what it was given whole if the user said to ignore it.

        given, out  tensors, nested;  why, cure  of the sentence "it <why>: <cure>, or leave .. whole"
        Returns the neurons of the results, nobody's.
        """
        tensors = list(tensors_in(given))
        neurons = [self.neurons(x) for x in tensors if self._origin(x) is None]
        ours = {self.populations[self.population(n)].name for ids in neurons for n in ids[ids > 0].unique()}
        parameters = any(self.is_parameter(x) for x in tensors)
        running = self._path[-1] if self._path else ""
        ignored = is_within(running, self.ignore) or ours and all(is_within(n, self.ignore) for n in ours)
        if (ours or parameters) and not ignored:
            names = [running] if parameters and running else sorted(ours) or [running]
            raise UserError(
                f"{self.here()} {why}: {cure}, or leave what it touches whole with ignore={names}"
            )
        for x in tensors:
            self.keep_whole(x, why)
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
        """Call a method of the policy, and record it.  -> its output

        Raises UserError where the policy does not run.
        """
        numbered = 0
        for x in tensors_in(inputs):
            self.inputs.append(numbered_inputs(x, numbered))
            self._keep(x, Shadow(self.inputs[-1], frozenset({INPUT}), x.dtype in (torch.uint8, torch.bool)))
            numbered += x.numel()
        function = getattr(self.policy, method)
        self.may_be_given = takes_more(function, inputs)
        with ExitStack() as stack:
            for name, module in self.policy.named_modules():
                if is_script(module):
                    continue
                before = module.register_forward_pre_hook(lambda *_, name=name: self._path.append(name))
                after = module.register_forward_hook(lambda *_: (self._path.pop(), None)[1])
                stack.callback(before.remove), stack.callback(after.remove)
            stack.enter_context(chance_kept(self.policy))
            stack.enter_context(uncompiled())
            stack.enter_context(torch.no_grad())
            stack.enter_context(self)
            stack.enter_context(_Unfollowed(self))
            try:
                return function(*inputs)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"{type(self.policy).__name__}.{method} does not run on the example inputs "
                    f"({type(error).__name__}: {error}) at {line_of(error) or 'no line of its own'}"
                ) from error

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        busy, self._busy = self._busy, True
        try:
            return self._operation(func, args, kwargs or {})
        finally:
            self._busy = busy

    def _operation(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """Run an operation, and follow it."""
        out = func(*args, **kwargs)
        self.func, self.operation, self._written, self._viewing = func, operation_name(func), set(), False
        if self.operation in ("shape", "size"):
            return self._remembering(out, *args, **kwargs)
        given, results = list(tensors_in((args, kwargs))), list(tensors_in(out))
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, [*given, *results])):
            self.unfollowed(map(unwrapped, given), map(unwrapped, results))
            return out
        if self.operation in ("numel", "nelement", "len"):
            return self._counted(out, *given)
        for x in given:
            self.look_up(x)
            if isinstance(x, nn.Parameter) and not self.name(x):
                self._use_foreign(x)
        self._use_numbers(args, kwargs)
        if self.operation == "setitem":
            results = [args[0]]
        if results:
            self._record(given, results, out, args, kwargs)
        elif self.operation in ASKS_A_VALUE:
            self._ask(given)
        return out

    def _use_foreign(self, x: Tensor) -> None:
        """A parameter that the policy, as it was copied, does not hold: a number like any other."""
        if id(x) in self._originals:
            raise UserError(
                f"{self.here()} uses {self._originals[id(x)]} through a method that was bound before the "
                "policy was copied, as torch.compile(self.method) binds it: compile the whole module instead"
            )
        self._foreign[id(x)] = x

    @property
    def foreign(self) -> int:
        """How many parameters were used that are none of the policy's."""
        return len(self._foreign)

    def _record(
        self, given: list[Tensor], results: list[Tensor], out: Any, args: tuple, kwargs: dict
    ) -> None:
        """Keep what an operation makes of neurons."""
        sources = frozenset().union(*map(self.sources, given))
        if self.operation in CHANCE:
            sources |= {INPUT}
        if self.operation in ASKS_IF_FINITE:  # which neurons there are does not matter to the answer
            sources &= {INPUT}
        self.touched |= {name for x in given if (name := self.name(x))}
        self.macs = plus(self.macs, self._macs(given, out, args, kwargs))
        neurons = self._follow(given, out, args, kwargs)
        positive, preactivation = self._sign(given, args)
        moved = list(tensors_in(args[:1])) if self.operation in MOVES else []
        state = bool(moved) and all(id(x) in self._shadows and self._shadows[id(x)][1].state for x in moved)
        for x, ids in zip(results, neurons, strict=True):
            if not self._viewing:
                self._views.pop(id(x), None)  # written over
                handed_on = state or id(x) in self._handed_on
                shadow = Shadow(ids, sources | self._written, positive, preactivation, handed_on)
                if any(x is y for y in given):
                    self._write_through(x, shadow)
                self._keep(x, shadow)
        if self.operation in TAKES_SHAPE and len(args) > 1:
            learn_sizes(args[1] if isinstance(args[1], (tuple, list)) else args[1:], neurons[0])

    def _write_through(self, x: Tensor, shadow: Shadow) -> None:
        """x was written in place: other tensors that lie in the same memory hold the same neurons now."""
        memory = x.untyped_storage()
        shared = [
            (y, other)
            for y, other in self._shadows.values()
            if y is not x and y.dtype == x.dtype and y.untyped_storage().data_ptr() == memory.data_ptr()
        ]
        if not shared or not memory.nbytes():
            return
        absent = torch.iinfo(torch.int64).min
        flat = torch.full((memory.nbytes() // x.element_size(),), absent)
        flat.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(shadow.neurons)
        for y, other in shared:
            now = flat.as_strided(y.shape, y.stride(), y.storage_offset())
            if (now != absent).any():
                neurons = torch.where(now == absent, other.neurons, now)
                positive = other.positive and shadow.positive
                sources = other.sources | shadow.sources
                self._keep(y, Shadow(neurons, sources, positive, state=other.state and shadow.state))

    def _ask(self, given: list[Tensor]) -> None:
        """The policy asks for a value: the inputs' is no neuron's, and it goes on as it would."""
        sources = frozenset().union(*map(self.sources, given))
        frame = caller()
        if is_torchs(frame):
            return
        if sources - {INPUT} - self.stored:
            raise UserError(
                f"{self.here()} cannot be traced: the policy's course depends on a value at "
                f"{place_of(frame)}, and one run shows one course only; make the choice before calling the "
                "policy, or name a method without it"
            )
        if sources:
            self.courses[f"{self.here()} at {place_of(frame)}"] = None

    def _counted(self, count: int, x: Tensor) -> int:
        """The number of all elements, or of those along the first axis, which Python hands on as it is."""
        if self.operation == "len":
            if self._origin(x) is None and (axis := axis_of(self.neurons(x), 0)) is not None and varies(axis):
                self.protect(axis, f"{self.here()} counts it")
            return count
        sizes = self._remembering(x.shape, x)
        origins = [origin for size in sizes if isinstance(size, Size) for origin in size.origins]
        return Size.computed(count, origins, self.ledger) if origins else count

    def _use_numbers(self, args: tuple, kwargs: dict) -> None:
        """Sizes among the arguments that are values, and not shapes or places."""
        values: Any = (args, kwargs)
        if self.operation in ("full", "new_full"):
            values = (args[2 if self.operation == "new_full" else 1 :], kwargs.get("fill_value"))
        elif self.operation in TAKES_SIZES | RECURRENT:
            return
        for size in sizes_in(values):
            size.use_as_a_number()

    def look_up(self, x: Tensor) -> None:
        """x is used: if it tells places among neurons, these stay where they are."""
        if id(x) in self._placed:
            self.protect(self._placed.pop(id(x))[1], f"{self.here()} uses their places")

    def unfollowed(self, given: Iterable[Tensor], results: Iterable[Tensor]) -> None:
        """Something ran that tracing cannot look into: what it read stays whole, what it made is nobody's."""
        given, self.macs = list(given), None
        for x in given:
            self.look_up(x)
            self.keep_whole(x, HIDDEN)
        named = {self._names[id(origin[0])] for x in given if (origin := self._origin(x))}
        self.hidden |= named
        self.touched |= named
        sources = frozenset().union(*map(self.sources, given))
        for x in results:
            shadow = Shadow(torch.zeros(x.shape, dtype=torch.int64), sources)
            if any(x is y for y in given):
                self._write_through(x, shadow)
            self._keep(x, shadow)

    def _follow(self, given: list[Tensor], out: Any, args: tuple, kwargs: dict) -> list[Tensor]:
        """The neurons of an operation's results, by its rule; without one, only if nothing is lost."""
        rule = rule_of(self.operation)
        keeps_scale = self.operation in HOMOGENEOUS | RECURRENT or self._adds_neurons(given, args)
        ours = any(self.is_named(x) or (self.neurons(x) > 0).any() for x in given)
        if rule and (ours or self.operation in UNIFORM or any(self.neurons(x).any() for x in given)):
            told = {name: value for name, value in kwargs.items() if name != "out"}  # where to put it
            try:
                neurons = list(tensors_in(rule(self, out, *args, **told)))
            except UserError:
                raise
            except Exception as error:
                if ours:
                    cure = "register one of yours with @pufferlib_kcore.rule"
                    why = (
                        f"is called in a way that its rule does not follow ({type(error).__name__}: {error})"
                    )
                    neurons = self.refuse(given, out, why, cure)
                else:
                    neurons = self.nobody(out)
        else:
            why, cure = "is unknown", f'register a rule for it with @pufferlib_kcore.rule("{self.operation}")'
            if given and all(self.is_named(x) or not self.sources(x) for x in given):  # weights are computed
                for x in given:
                    self.keep_whole(x, why)
                neurons = self.nobody(out)
            else:
                neurons = self.refuse(given, out, why, cure)
        if not keeps_scale:
            self.nonhomogeneous += [self._shadows[id(x)][1].neurons for x in given if id(x) in self._shadows]
        return neurons

    def _macs(self, given: list[Tensor], out: Any, args: tuple, kwargs: dict) -> int | None:
        """An operation's multiply-accumulates; None for one of others' on what is not the input alone."""
        if self.operation in MACS:
            return MACS[self.operation](out, *args, **{k: v for k, v in kwargs.items() if k != "out"})
        rule = rule_of(self.operation)
        ours = str(getattr(getattr(rule, "func", rule), "__module__", "")).startswith(f"{__package__}.")
        return 0 if ours or not any(self.is_named(x) or self.sources(x) - {INPUT} for x in given) else None

    def _sign(self, given: list[Tensor], args: tuple) -> tuple[bool, bool]:
        """Whether the results are known to be nowhere below 0, and whether they are as they were written."""
        parameters = {self._names[id(origin[0])] for x in given if (origin := self._origin(x))}
        read = [self._shadow(x) for x in given if not self.is_named(x)]
        positive, preactivation = all(x.positive for x in read), any(x.preactivation for x in read)
        if read and not positive:
            self.signed |= parameters
        if self.operation in RECTIFIERS:
            return True, False
        if self.operation not in VIEWS:
            self.unrectified += [x.neurons for x in read if x.preactivation]
            preactivation = bool(self._written)
        by = args[1] if self.operation in ("mul", "div", "truediv") and len(args) == 2 else None
        keeps = self.operation in KEEPS_SIGN or isinstance(by, (int, float)) and by > 0
        return positive and keeps and not parameters, preactivation

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
        used = {p.name for p in self.populations}
        numbered = (f"{parameter}.{dim}.{i}" for i in count())
        names = chain((name or of_module, parameter, f"{parameter}.{dim}"), numbered)
        return next(n for n in names if n not in used)

    def _shadow(self, x: Tensor) -> Shadow:
        if id(x) in self._views and id(x) not in self._shadows:
            _, parameter, axes = self._views[id(x)]
            shadow, there = self._shadow(parameter), [axis for axis in axes if axis is not None]
            gone = tuple(set(range(parameter.ndim)) - set(there))  # of size 1, or cut into parts
            kept = [parameter.shape[axis] for axis in there]
            neurons = (
                shadow.neurons.permute(*there, *gone)
                .reshape(*kept, -1)[..., 0]
                .reshape([1 if axis is None else parameter.shape[axis] for axis in axes])
            )
            self._keep(x, Shadow(neurons.expand(x.shape), shadow.sources))
        elif id(x) not in self._shadows:
            name, long = self.name(x), [dim for dim, size in enumerate(x.shape) if size > 1]
            neurons = torch.zeros(x.shape, dtype=torch.int64)
            sources = frozenset[int]()
            if name and x.is_floating_point() and len(long) == 1:  # it acts as a bias or a scale does
                neurons = self.spread(self.write((x, long[0]), kind="linear", name=name), x, long[0])
                sources = frozenset({len(self.populations) - 1})
                if not isinstance(x, nn.Parameter):
                    self.stored |= sources
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
            if (fits := free(use.neurons)).any():
                self.uses[place] = Use(role, torch.where(fits, neurons, use.neurons))
        else:
            self.protect(torch.cat([use.neurons, neurons]), f"{place[0]} is tied to it in two roles")

    def population(self, neuron: int | Tensor) -> int:
        """The index of the population that a neuron belongs to."""
        return bisect_right(self.populations, int(neuron), key=lambda p: p.first) - 1

    def _remembering(self, out: Any, x: Tensor, dim: int | None = None) -> Any:
        """A shape, or one size of it, that remembers which neurons lie along its axes."""
        if self._origin(x):
            places = [self.axis(x, d) for d in range(x.ndim)]
            shape = torch.Size(
                Size(size, [place], self.ledger) if place else size
                for size, place in zip(x.shape, places, strict=True)
            )
        else:
            shape = tagged_shape(self.neurons(x), self.ledger)
        return shape if dim is None else shape[dim]

    def _learn_shape(self, made: Tensor, met: Tensor) -> None:
        """Free neurons met neurons of ours: a module's number in their shape may be the width of an axis."""
        made, met = torch.broadcast_tensors(made, met)
        for kind in made[free(made)].unique():
            for attribute in self._free[-int(kind) - 1]:
                for dim in varies(met):
                    there = made.movedim(dim, -1).reshape(-1, met.shape[dim])[0] == kind
                    units = met.movedim(dim, -1).reshape(-1, met.shape[dim])[0][there]
                    if len(units) == attribute.value and self.population(units[0]) == self.population(
                        units[-1]
                    ):
                        attribute.learn(units)
            for units in self._shapes[-int(kind) - 1]:
                for dim in varies(met):
                    here = met.movedim(dim, -1).reshape(-1, met.shape[dim])[0]
                    if len(units) == len(here) and (units > 0).all() and (here > 0).all():
                        self.same_width.append([units, here])


class _Unfollowed(TorchDispatchMode):
    """Sees what runs below the operations that a trace follows, as scripted functions do."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler on the first operation, seconds for nothing

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            out = func(*args, **(kwargs or {}))
            if not self.trace._busy:
                self.trace.operation = operation_name(func)
                self.trace.unfollowed(tensors_in((args, kwargs)), tensors_in(out))
        return out


def rule_of(operation: str) -> Callable | None:
    """The rule of an operation; where torch says that it is pointwise, that of such operations."""
    if operation not in RULES and is_pointwise(operation):
        return RULES["where"]
    return RULES.get(operation)


@cache
def is_pointwise(operation: str) -> bool:
    """Whether torch's own list has this operation as one that works element by element."""
    for name in (operation, operation.removeprefix("special_")):
        packet = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
        if packet is not None and any(
            torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
        ):
            return True
    return False


def unwrapped(x: Tensor) -> Tensor:
    """The tensor itself, out of what vmap and its like wrap it in."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def takes_more(function: Callable, inputs: tuple) -> bool:
    """Whether a method takes arguments that it was not given, such as a state to go on from."""

    def missing(value: Any) -> bool:
        if isinstance(value, dict):
            value = list(value.values())
        return value is None or isinstance(value, (tuple, list)) and any(map(missing, value))

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a function of C
        return False
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return missing(inputs) or len(named) > len(inputs) or any(p.kind == p.KEYWORD_ONLY for p in parameters)


def operation_name(func: Callable) -> str:
    """A torch function's bare name: `__add__` and `add_` are "add", `Tensor.shape.__get__` is "shape"."""
    if isinstance(func, (OpOverload, OpOverloadPacket)):  # torch.ops.namespace.name.overload
        packet = func.overloadpacket if isinstance(func, OpOverload) else func
        namespace, _, name = packet._qualified_op_name.partition("::")
        return name.strip("_") if namespace == "aten" else f"{namespace}.{name}"
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(func.__self__, "__name__", "")  # type: ignore[attr-defined]
    return name.strip("_")


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Whether a dotted name is one of these, or below one."""
    return any(name == module or name.startswith(module + ".") for module in modules)
