"""Networks: the spaces of a traced policy, and the table of its parameters' axes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import Axis, Segment, Table
from pufferlib_kcore.fibration.recurrent import plain_step
from pufferlib_kcore.fibration.refinement import Producer, Space
from pufferlib_kcore.graph import rules  # noqa: F401  (they fill the table of operations)
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Example
from pufferlib_kcore.graph.following import Follower
from pufferlib_kcore.graph.nested import tensors_in, tensors_of
from pufferlib_kcore.graph.neurons import FIRST_INPUT, FREE, axis_of
from pufferlib_kcore.graph.sizes import Attribute, tag_attributes
from pufferlib_kcore.graph.states import State
from pufferlib_kcore.graph.tracing import Population, Trace, Use, is_within


@dataclass(frozen=True)
class Network:
    """What a policy is to the engine: spaces, and a table of axes. No layer types."""

    spaces: tuple[Space, ...]
    table: Table
    same_width: tuple[tuple[str, ...], ...]  # spaces that one module keeps at one width
    attributes: tuple[tuple[Attribute, Axis], ...]  # numbers that modules keep, and whose width they are
    example: Example  # the call that was traced
    state_inputs: Mapping[int, State]  # which of the tensors in its inputs hold recurrent state
    state_outputs: Mapping[int, State]  # and which of those that it returns
    untouched: tuple[str, ...]  # parameters that the traced method does not use
    branches: tuple[str, ...]  # where the values of inputs, or chance, decided what the policy does
    notes: tuple[str, ...]  # what else is to be said of the run
    macs: int | None  # multiply-accumulates of the traced call; None where they cannot be counted

    def __getitem__(self, name: str) -> Space:
        return next(space for space in self.spaces if space.name == name)


def network_of(policy: nn.Module, example: Example) -> Network:
    """Trace a policy once, and read off its spaces and table.

    Raises UserError where the policy cannot be traced or an argument names nothing.
    """
    inputs = copy_of(example.inputs)
    for name, x in [*tensors_of(policy).items(), *(("of its inputs", x) for x in tensors_in(inputs))]:
        if x.is_meta:
            raise UserError(
                f"tensor {name} is on the meta device, without values: load the policy on a CPU or GPU first"
            )
    if (given := list(tensors_in(inputs))) and not any(x.numel() for x in given):
        raise UserError("the example inputs are empty: give at least one row of observations")
    copied = copy_of(policy)
    trace = Trace(copied, example.ignore)
    attributes = tag_attributes(copied, trace.ledger)
    output = Follower(trace, originals=dict(policy.named_parameters())).run(example.method, inputs)
    output = output if example.outputs is None else example.outputs(output)
    critic, states = _outputs(trace, output, example.value)
    _protect_numbers(trace)
    if not trace.populations and not trace.hidden:
        raise UserError(
            f"tracing saw no layer of {type(policy).__name__}.{example.method}: it has none, or keeps its "
            "weights where they cannot be reached, as quantized modules do"
        )
    network = _Reader(trace, critic).network(example, attributes, states)
    spaces = {space.name for space in network.spaces} | {p.name for p in trace.populations}
    for name in example.ignore:
        if name not in spaces and name not in dict(policy.named_modules()):
            raise UserError(f"ignore names '{name}', which is neither a module nor a space: {sorted(spaces)}")
    return network


def _outputs(trace: Trace, output: Any, value: str | int | None) -> tuple[set[int], dict[int, Tensor]]:
    """Protect what leaves the policy.  -> populations that only the value depends on; states that it returns

    A state that the policy was or may be given again leaves at whatever width its units get.
    """
    tensors = list(tensors_in(output, strict=True))
    if not tensors:
        raise UserError(f"{type(trace.policy).__name__} returned no tensor: expected actions and a value")
    first = value_of(output, value)
    others = [x for x in tensors[1:] if not any(x is y for y in tensors_in(first))]
    returned = trace.returned_as(others)
    started = {trace.population(n) for _, units in trace.initial_states for n in units.unique()}
    states = {}
    for i, x in enumerate(tensors):
        trace.use_indices(x)
        neurons = trace.neurons(x)
        if (
            any(x is y for y in returned)
            or trace.is_state(x)
            and (trace.takes_more or trace.sources_of(neurons) <= started)
        ):
            states[i] = neurons
        else:
            trace.protect(neurons, "output")
    values = {id(x) for x in tensors_in(value_of(output, value, states))}
    read_by: dict[bool, set[int]] = {True: set(), False: set()}
    for x in tensors:
        read_by[id(x) in values] |= trace.sources(x)
    return read_by[True] - read_by[False], states


def _protect_numbers(trace: Trace) -> None:
    """Spaces whose width the policy computes with stay as wide as they are."""
    for origin in trace.ledger:
        place = origin.known if isinstance(origin, Attribute) else origin
        neurons = origin.neurons if isinstance(origin, Attribute) else None
        if isinstance(place, Tensor):
            neurons = place
        elif place in trace.uses:
            neurons = trace.uses[place].neurons
        if neurons is not None:
            trace.protect(neurons, "the policy computes with its width")


def value_of(output: Any, path: str | int | None, states: Collection[int] = ()) -> Any:
    """The value in a policy's output: at this path, else the second of two or three, else None.

    states  which of the output's tensors are recurrent state, and so no value
    """
    if path is not None:
        return at_path(output, path, "value")
    second = output[1] if isinstance(output, (tuple, list)) and len(output) in (2, 3) else None
    places = [i for i, x in enumerate(tensors_in(output)) if x is second]
    return second if places and places[0] not in states else None


def at_path(output: Any, path: str | int, what: str = "actions") -> Any:
    """What lies at a dotted path of keys, places and attributes.  Raises UserError"""
    found = output
    for key in str(path).split("."):
        try:
            found = found[int(key)] if isinstance(found, (tuple, list)) else _item(found, key)
        except (LookupError, AttributeError, ValueError):
            raise UserError(f"{what}='{path}' leads nowhere in the policy's output: no '{key}'") from None
    return found


def _item(value: Any, key: str) -> Any:
    return value[key] if isinstance(value, Mapping) else getattr(value, key)


class _Reader:
    """Makes spaces of a trace: neurons that must merge alike are a unit, units that serve alike a space."""

    def __init__(self, trace: Trace, critic: set[int]):
        self.trace, self.critic = trace, critic
        self.started = self._started()
        self.unit_of = self._units()
        self.groups = self._groups()
        self.group_of = np.full(trace.count, -1)  # unit -> the index of its group, -1 for nobody's
        self.place_of = np.zeros(trace.count, int)  # unit -> its place there
        for index, units in enumerate(self.groups):
            self.group_of[units] = index
            self.place_of[units] = np.arange(len(units))
        self.names = self._names()
        self.nonhomogeneous, self.unrectified = (
            np.unique(np.concatenate([np.zeros(1, int), *map(self._units_in, neurons)]))
            for neurons in (trace.nonhomogeneous, trace.unrectified)
        )

    def network(
        self, example: Example, attributes: Sequence[Attribute], states: Mapping[int, Tensor]
    ) -> Network:
        trace = self.trace
        given = {
            i: state for i, ids in enumerate(trace.inputs) if (state := self._state(self._resolved(ids)))
        }
        returned = {i: state for i, x in states.items() if (state := self._state(_array(x, flat=False)))}
        for i, ids in enumerate(trace.inputs):
            if i not in given:
                trace.protect(torch.as_tensor(self._resolved(ids)), "its state is laid out irregularly")
        for i, ids in states.items():
            if i not in returned:
                trace.protect(ids, "output")
        whole = self._reasons()
        table = {
            name: tuple(
                self._axis(use) if (use := trace.uses.get((name, dim))) else (Segment(None, units=size),)
                for dim, size in enumerate(trace.tensors[name].shape)
            )
            for name in dict.fromkeys(name for name, _ in trace.uses)
        }
        return Network(
            spaces=tuple(self._space(index, whole.get(index)) for index in range(len(self.groups))),
            table=table,
            same_width=self._same_width([*given.values(), *returned.values()], attributes),
            attributes=tuple(
                (a, self._axis(Use("", a.neurons)))
                for a in attributes
                if a.neurons is not None and a.known is None
            ),
            example=example,
            state_inputs=given,
            state_outputs=returned,
            untouched=tuple(name for name in trace.tensors if name not in trace.touched),
            branches=tuple(trace.branches),
            notes=self._notes(table),
            macs=trace.macs,
        )

    def _same_width(
        self, states: Sequence[State], attributes: Sequence[Attribute]
    ) -> tuple[tuple[str, ...], ...]:
        """Layers of one module, or that one number or shape is for; and equal cores in one state, which code
        cuts into equal parts."""
        sizes = {name: len(units) for name, units in zip(self.names, self.groups, strict=True)}
        together = [*self.trace.same_width]
        together += [[a.neurons, *a.others] for a in attributes if a.neurons is not None and a.others]
        tied = [
            [self._name(units) for units in layers if (units > 0).all() and len(units)] for layers in together
        ]
        tied = [names for names in tied if len({sizes[name] for name in names}) == 1]
        for state in states:
            cores = {s.space: s.units for axis in state.axes for s in axis if s.space}
            tied.append(list(cores) if len(set(cores.values())) == 1 else [])
        groups: list[dict[str, None]] = []
        for names in filter(None, tied):
            own = dict.fromkeys(names)
            for other in [group for group in groups if group.keys() & own.keys()]:
                groups.remove(other)
                own = other | own
            groups.append(own)
        return tuple(map(tuple, groups))

    def _notes(self, table: Table) -> tuple[str, ...]:
        trace, notes = self.trace, []
        for where in trace.branches:
            notes.append(f"one course was followed, that which the example inputs, or chance, chose: {where}")
        if trace.hidden:
            notes.append(
                "left as they were, in code that tracing cannot look into (TorchScript, vmap, an extension): "
                + ", ".join(sorted(trace.hidden))
            )
        if trace.foreign:
            notes.append(
                f"used as they are, since the policy does not register them: {len(trace.foreign)} parameters"
            )
        used = {name: where for (name, _), where in trace.sliced.items()} | trace.computed_with
        merging = {name for name, axes in table.items() if any(s.space for axis in axes for s in axis)}
        whole = [n for n in used if n not in merging and n not in trace.hidden]
        if parameters := [n for n in whole if isinstance(trace.tensors[n], nn.Parameter)]:
            notes.append(
                "left as they were, since the policy computes with them: "
                + ", ".join(f"{n} ({used[n]})" for n in parameters)
            )
        return tuple(notes)

    def _started(self) -> np.ndarray:
        """Element of the inputs -> the neuron that it starts, 0 for none; units that share one are united."""
        count = sum(ids.numel() for ids in self.trace.inputs)
        started = np.zeros(count, int)
        for elements, units in self.trace.initial_states:
            place, now = FIRST_INPUT - _array(elements), _array(units)
            both = started[place] > 0
            self.trace.united.append((torch.as_tensor(started[place][both]), torch.as_tensor(now[both])))
            started[place] = np.where(both, started[place], now)
        return started

    def _resolved(self, neurons: Tensor) -> np.ndarray:
        """Neurons, those among the elements of inputs that start one included; 0 for others.  Same shape"""
        ids = _array(neurons, flat=False)
        if not self.started.any():
            return np.maximum(ids, 0)
        place = FIRST_INPUT - np.minimum(ids, FIRST_INPUT)
        return np.where(ids <= FIRST_INPUT, self.started[place], np.maximum(ids, 0))

    def _state(self, neurons: np.ndarray) -> State | None:
        """How a tensor that holds recurrent units is laid out; None if it holds none, or otherwise."""
        ids = torch.as_tensor(neurons)
        if not (ids > 0).any():
            return None
        ids = torch.where(ids > 0, ids, FREE)  # whatever lies there, such as rows that are started anew
        dims = list(reversed(range(ids.ndim)))
        for layers, dim in [(None, d) for d in dims] + [(n, d) for d in dims for n in dims if n != d]:
            rows = [axis_of(row, dim) for row in ([ids] if layers is None else ids.split(1, layers))]
            found = [row for row in rows if row is not None]
            if len(found) == len(rows):
                axes = tuple(self._axis(Use("out", row)) for row in found)
                return State(dim - ids.ndim, axes, None if layers is None else layers - ids.ndim)
        return None

    def _units(self) -> np.ndarray:
        """Neuron -> its unit, the first of all neurons that it is united with.  (count,)"""
        united = [np.stack([_array(a), _array(b)]) for a, b in self.trace.united]
        pairs = np.hstack([np.zeros((2, 0), int), *united])
        a, b = pairs[:, (pairs > 0).all(axis=0)]
        edges = coo_array((np.ones(len(a)), (a, b)), shape=(self.trace.count, self.trace.count))
        _, component = connected_components(edges, directed=False)
        _, first = np.unique(component, return_index=True)
        return first[component]

    def _units_in(self, neurons: Tensor) -> np.ndarray:
        return self.unit_of[self._resolved(neurons).ravel()]

    def _groups(self) -> list[np.ndarray]:
        """Units that lie on the same axes of parameters and went the same ways, in order of their numbers."""
        seen_in: dict[int, list[int]] = defaultdict(list)
        seen = [use.neurons for use in self.trace.uses.values()] + self.trace.selections
        for index, neurons in enumerate(seen):
            for unit in np.unique(self._units_in(neurons)):
                seen_in[int(unit)].append(index)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for unit in sorted(seen_in.keys() - {0}):
            groups[tuple(seen_in[unit])].append(unit)
        return [np.array(units) for units in groups.values()]

    def _names(self) -> list[str]:
        """Each group's first population, and which stretch of it where it fell into several groups."""
        names = []
        first = [self._populations(index)[0] for index in range(len(self.groups))]
        for p, units in zip(first, self.groups, strict=True):
            places = np.flatnonzero(np.isin(self.unit_of[p.first : p.first + p.units], units))
            names.append(p.name + (f"[{places[0]}:{places[-1] + 1}]" if first.count(p) > 1 else ""))
        return names

    def _name(self, neurons: Tensor) -> str:
        return self.names[self.group_of[self.unit_of[int(neurons.flatten()[0])]]]

    def _reasons(self) -> dict[int, str]:
        """Group -> why it stays whole: protected, ignored, or not laid out as a quotient needs it."""
        trace, reasons = self.trace, dict[int, str]()
        for neurons, reason in trace.protected:
            for group in np.unique(self.group_of[self._units_in(neurons)]):
                reasons.setdefault(int(group), reason)
        for index in range(len(self.groups)):
            if any(is_within(p.name, trace.ignore) for p in self._populations(index)):
                reasons[index] = "ignored"
        for (name, dim), use in trace.uses.items():
            stretches = list(self._stretches(use.neurons))
            for group, _, segment in stretches:
                if group >= 0 and (name, dim) in trace.sliced:
                    reasons.setdefault(group, f"{trace.sliced[name, dim]} takes parts of {name}")
                elif group >= 0 and name in trace.computed_with:
                    reasons.setdefault(group, f"{trace.computed_with[name]} computes with {name}")
                elif group >= 0 and segment is None:
                    reasons.setdefault(group, f"{name} has it in parts or out of order")
                elif group >= 0 and use.role == "out" and len(stretches) > 1:
                    reasons.setdefault(group, f"cut out of {name} at a fixed place")
        for group in set(range(len(self.groups))) - self._read():
            reasons.setdefault(group, "no layer reads it, and it is not returned as it is")
        return reasons

    def _read(self) -> set[int]:
        """The groups that parameters read which do not write them themselves."""
        roles: dict[str, dict[str, set[int]]] = defaultdict(lambda: {"out": set(), "in": set()})
        for (name, _), use in self.trace.uses.items():
            roles[name][use.role] |= set(self.group_of[self._units_in(use.neurons)].tolist())
        compared = (set(self.group_of[self._units_in(neurons)].tolist()) for neurons in self.trace.compared)
        return set().union(*compared, *(role["in"] - role["out"] for role in roles.values()))

    def _stretches(self, neurons: Tensor) -> Iterator[tuple[int, int, Segment | None]]:
        """Runs of one group along an axis: (group, length, how its units lie there; None if irregularly)."""
        units = self._units_in(neurons)
        groups = self.group_of[units]
        for run in np.split(np.arange(len(units)), np.flatnonzero(np.diff(groups)) + 1):
            group, places = int(groups[run[0]]), self.place_of[units[run]]
            count = len(self.groups[group])
            if count == 1:  # neighbours are places of one channel, or gates and states of one recurrent unit
                inner = 1 if self._is_recurrent(group) else len(run)
            else:
                inner = int(np.argmax(places != places[0]))
            outer = len(run) // max(count * inner, 1)
            regular = np.array_equal(places, np.tile(np.repeat(np.arange(count), inner), outer))
            yield group, len(run), Segment(self.names[group], "", outer, count, inner) if regular else None

    def _axis(self, use: Use) -> Axis:
        return tuple(
            Segment(None, units=length) if group < 0 or segment is None else replace(segment, role=use.role)
            for group, length, segment in self._stretches(use.neurons)
        )

    def _populations(self, index: int) -> list[Population]:
        """The populations that make up a group, those of layers before those of scales, shifts and starts."""
        neurons = np.flatnonzero(np.isin(self.unit_of, self.groups[index]))
        found = [self.trace.populations[p] for p in dict.fromkeys(self.trace.population(n) for n in neurons)]
        return sorted(found, key=lambda p: not self._is_layer(p))

    def _is_recurrent(self, group: int) -> bool:
        return group >= 0 and any(p.kind == "lstm" for p in self._populations(group))

    def _is_layer(self, p: Population) -> bool:
        return any(
            self.trace.tensors[name].ndim > 1 and p.name != name for c in p.columns for name in c.names
        )

    def _space(self, index: int, whole: str | None) -> Space:
        populations = self._populations(index)
        plain = [p for p in populations if p.gates == 1 and p.step is plain_step]
        producers = [Producer(p.columns, p.gates, p.step) for p in populations if p not in plain]
        if plain:  # producers that add into one space: columns side by side
            producers.insert(0, Producer(tuple(c for p in plain for c in p.columns)))
        kind = populations[0].kind
        if kind == "linear" and all(self.trace.populations.index(p) in self.critic for p in populations):
            kind = "critic"
        units = self.groups[index]
        signed = any(n in self.trace.signed for p in producers for c in p.columns for n in c.names)
        return Space(
            name=self.names[index],
            units=len(units),
            kind=kind,
            producers=tuple(producers),
            whole=whole,
            scales=not np.isin(units, self.nonhomogeneous).any(),
            rectified=not (np.isin(units, self.unrectified).any() or signed),
        )


def _array(neurons: Tensor, flat: bool = True) -> np.ndarray:
    return (neurons.flatten() if flat else neurons).cpu().numpy()
