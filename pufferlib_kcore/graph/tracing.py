"""Traces: what one run of a policy shows, its neurons, and which parameters write, read and join them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.recurrent import Step, plain_step
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.neurons import FIRST_INPUT, FREE, axis_of, free, uneven, varies
from pufferlib_kcore.graph.operations import operation_name
from pufferlib_kcore.graph.shadows import Shadow, Shadows
from pufferlib_kcore.graph.sizes import Attribute, Origin, sizes_in

Axes = tuple[int | None, ...]  # of a parameter, in the order of a view's; None where it only repeats
INPUT = -1  # among the sources of a tensor: the policy's inputs, or chance


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


class Trace:
    """The record of one run: which parameters write which neurons, which read them, which must agree."""

    def __init__(self, policy: nn.Module, ignore: Sequence[str] = ()):
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
        self.initial_states: list[tuple[Tensor, Tensor]] = []  # elements of inputs, and units they start
        # Elements of inputs, neurons that met them, and where
        self.met_inputs: list[tuple[Tensor, Tensor, str]] = []
        self.takes_more = False  # whether the method takes something more, such as a state to go on from
        self.stored: set[int] = set()  # populations that buffers write
        self.ledger: list[Origin] = []  # sizes that the policy computes with
        self.branches: dict[str, None] = {}  # where the values of inputs decided what the policy does
        self.hidden: set[str] = set()  # parameters of code that tracing cannot look into
        self.foreign: dict[int, Tensor] = {}  # parameters that are none of the policy's
        self.computed_with: dict[str, str] = {}  # parameters that operations other than layers use
        self.sliced: dict[tuple[str, int], str] = {}  # axes of which the policy takes parts, and where
        self.touched: set[str] = set()  # parameters that took part
        self.macs: int | None = 0  # multiply-accumulates so far; None where some cannot be counted
        self.shadows = Shadows()  # what is known of tensors
        self.path: list[str] = []  # the modules that are running
        self.func: Callable = lambda: None  # the operation that is running
        self.operation = ""  # its name
        self.written: set[int] = set()  # populations that it wrote
        self.viewing = False  # whether it makes a view of a parameter
        self._names = {id(tensor): name for name, tensor in self.tensors.items()}
        self._views: dict[int, tuple[Tensor, Tensor, Axes]] = {}  # views of parameters, and of which
        self._free: list[list[Attribute]] = [[]]  # of each kind of free neurons: numbers in their shape
        self._shapes: list[list[Tensor]] = [[]]  # and neurons that gave them their shape, along one axis
        self._handed_on: set[int] = set()  # ids of results that are recurrent state
        self._indices: dict[int, tuple[Tensor, Tensor]] = {}  # results that are indices, and of which neurons

    # What a rule may ask and declare ------------------------------------------------------------------

    def sources(self, x: Tensor) -> frozenset[int]:
        """The indices of the populations that a tensor was computed from."""
        return self.shadow(x).sources if x in self.shadows else frozenset()

    def neurons(self, x: Tensor) -> Tensor:
        """The neurons of a tensor's elements.  int64, the shape of x"""
        return self.shadow(x).neurons

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
        """A total over one value all over tells how many there are: what gave it its shape keeps it."""
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
        self.written.add(self.population(int(neurons[0])))
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
            self.sliced.update({(name, axis): self.here() for axis in gone if axis is not None})
            self.viewing = True
            if out is not x:  # as x.to(its own dtype) is
                self._views[id(out)] = out, parameter, axes
        return origin is not None

    def unite(self, a: Tensor, b: Tensor) -> None:
        """These neurons, pair by pair, can only be merged alike; what meets none of ours is protected."""
        self.united.append((a, b))
        for ours, others in ((a, b), (b, a)):
            fits = free(others)
            alone = (ours > 0) & (others <= 0) & (~fits | uneven(others, varies(ours)))
            given = alone & (others <= FIRST_INPUT)
            reason = f"{self.here()} joins it with what cannot be merged"
            self.protect(ours[alone & ~given], reason)
            if given.any():  # it may be recurrent state: see `returned_as`
                self.met_inputs.append((others[given], ours[given], reason))
            if fits.any():
                self._learn_shape(others, ours)

    def start(self, h: Tensor, units: Tensor) -> None:
        """Recurrent units start from h: a state that was given, neurons of ours, or one value all over."""
        neurons, units = torch.broadcast_tensors(self.neurons(h), units)
        given = neurons <= FIRST_INPUT
        if given.any():
            self.initial_states.append((neurons[given], units[given]))
        self.unite(torch.where(given, FREE, neurons), units)

    def returned_as(self, results: Sequence[Tensor]) -> list[Tensor]:
        """Inputs that neurons met one by one, and that return as one of these results, are state.

        What is given in place of a unit's last value is that unit's, and is what returns in its place: they
        merge alike. Inputs of which no result has the shape, or that no neurons met all over, are not state,
        and what they met is protected.  -> the results that are state
        """
        elements = torch.cat([torch.zeros(0, dtype=torch.int64), *(e for e, _, _ in self.met_inputs)])
        found: list[Tensor] = []
        for ids in self.inputs:
            if not len(elements) or not ids.numel() or not torch.isin(ids, elements).all():
                continue
            for x in results:
                if x.shape == ids.shape and (self.neurons(x) > 0).all() and not any(x is y for y in found):
                    found.append(x)
                    self.initial_states.append((ids.flatten(), self.neurons(x).flatten()))
                    break
        known = torch.cat([elements[:0], *(e for e, _ in self.initial_states)])
        for given, units, reason in self.met_inputs:
            is_state = torch.isin(given, known)
            self.initial_states.append((given[is_state], units[is_state]))
            self.protect(units[~is_state], reason)
        return found

    def hand_on(self, *states: Tensor) -> None:
        """These results are what recurrent units start from in the policy's next call."""
        self._handed_on |= {id(h) for h in states}

    def is_state(self, x: Tensor) -> bool:
        """Whether x is what recurrent units hand on, or a view of it."""
        return x in self.shadows and self.shadow(x).state

    def sources_of(self, neurons: Tensor) -> set[int]:
        """The populations that neurons belong to."""
        return {self.population(n) for n in neurons[neurons > 0].unique()}

    def mark_indices(self, x: Tensor, neurons: Tensor) -> None:
        """x holds indices into these neurons: they are protected if the policy uses it."""
        self._indices[id(x)] = x, neurons

    def protect(self, neurons: Tensor, reason: str) -> None:
        """These neurons are never merged."""
        self.protected.append((neurons[neurons > 0], reason))

    def keep_whole(self, x: Tensor, why: str) -> None:
        """The operation that is running needs every entry of x as it is: neurons, or a parameter."""
        name = self.parameter(x)
        if name is None:
            self.protect(self.neurons(x), f"{self.here()} {why}")
        else:
            self.computed_with.setdefault(name, self.here())

    def nobody(self, out: Any) -> list[Tensor]:
        """The neurons of results that hold nobody's value."""
        return [torch.zeros(x.shape, dtype=torch.int64) for x in tensors_in(out)]

    def refuse(self, given: Any, out: Any, why: str, cure: str) -> list[Tensor]:
        """Refuse the operation that is running; keep what it was given whole if the user said to ignore it.

        given, out  tensors, nested;  why, cure  of the sentence "it <why>: <cure>, or leave .. whole"
        Returns the neurons of the results, nobody's.
        """
        tensors = list(tensors_in(given))
        neurons = [self.neurons(x) for x in tensors if not self.is_named(x)]
        ours = {self.populations[self.population(n)].name for ids in neurons for n in ids[ids > 0].unique()}
        parameters = any(self.is_parameter(x) for x in tensors)
        running = self.path[-1] if self.path else ""
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

    def parameter(self, x: Tensor) -> str | None:
        """The name of the parameter or buffer that x is, or is a view of."""
        origin = self._origin(x)
        return None if origin is None else self._names[id(origin[0])]

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
        return f"`{self.operation}` in {self.path[-1] if self.path else type(self.policy).__name__}"

    # What the run tells ------------------------------------------------------------------------------

    def begin(self, func: Callable) -> str:
        """An operation is running.  -> its name"""
        self.func, self.operation, self.written, self.viewing = func, operation_name(func), set(), False
        return self.operation

    def is_handed_on(self, x: Tensor) -> bool:
        """Whether the operation that is running hands it on as recurrent state."""
        return id(x) in self._handed_on

    def use_indices(self, x: Tensor) -> None:
        """x is used: if it holds indices into neurons, these stay where they are."""
        if id(x) in self._indices:
            self.protect(self._indices.pop(id(x))[1], f"{self.here()} uses their places")

    def population(self, neuron: int | Tensor) -> int:
        """The index of the population that a neuron belongs to."""
        return bisect_right(self.populations, int(neuron), key=lambda p: p.first) - 1

    def shadow(self, x: Tensor) -> Shadow:
        """What is known of a tensor; of a parameter seen for the first time, its neurons."""
        if id(x) in self._views and x not in self.shadows:
            _, parameter, axes = self._views[id(x)]
            shadow, there = self.shadow(parameter), [axis for axis in axes if axis is not None]
            gone = tuple(set(range(parameter.ndim)) - set(there))  # of size 1, or cut into parts
            kept = [parameter.shape[axis] for axis in there]
            neurons = (
                shadow.neurons.permute(*there, *gone)
                .reshape(*kept, -1)[..., 0]
                .reshape([1 if axis is None else parameter.shape[axis] for axis in axes])
            )
            self.shadows.keep(x, Shadow(neurons.expand(x.shape), shadow.sources))
        elif x not in self.shadows:
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
            self.shadows.keep(x, Shadow(neurons, sources))
        return self.shadows[x]

    def overwrite(self, x: Tensor, shadow: Shadow, in_place: bool) -> None:
        """x is a result now, written in place or not, and no longer a view of a parameter."""
        self._views.pop(id(x), None)
        if in_place:
            self.shadows.write_through(x, shadow)
        self.shadows.keep(x, shadow)

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


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Whether a dotted name is one of these, or below one."""
    return any(name == module or name.startswith(module + ".") for module in modules)
