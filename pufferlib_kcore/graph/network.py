"""Networks: the spaces of a traced policy, and the table of its parameters' axes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
from pufferlib_kcore.graph import products  # noqa: F401  (with `rules`, fills the table of rules)
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.sizes import Attribute, tag_attributes
from pufferlib_kcore.graph.trace import Population, Trace, Use, is_within


@dataclass(frozen=True)
class Network:
    """What a policy is to the engine: spaces, and a table of axes. No layer types."""

    spaces: tuple[Space, ...]
    table: Table
    same_width: tuple[tuple[str, ...], ...]  # spaces that one module keeps at one width
    attributes: tuple[tuple[Attribute, Axis], ...]  # numbers that modules keep, and whose width they are
    inputs: int  # tensors in the inputs that it was traced on
    state_inputs: Mapping[int, str]  # which of them hold recurrent state, and of which space
    untouched: tuple[str, ...]  # parameters that the traced method does not use
    macs: int | None  # multiply-accumulates of the traced call; None where they cannot be counted

    def __getitem__(self, name: str) -> Space:
        return next(space for space in self.spaces if space.name == name)


def network_of(
    policy: nn.Module,
    example_inputs: tuple,
    method: str = "forward",
    value: str | int | None = None,
    ignore: Sequence[str] = (),
) -> Network:
    """Trace a policy once, and read off its spaces and table.

    example_inputs  positional arguments of the method; their sizes are the policy's own
    value           path of the value in the output ("1", "critic.value"); None: the second of two or three
    ignore          spaces or modules to leave whole
    Raises UserError where the policy cannot be traced or an argument names nothing.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in policy.modules()):
        raise UserError(
            f"{type(policy).__name__} holds TorchScript, which cannot be traced: pass it in Python"
        )
    copied = copy_of(policy)
    attributes = tag_attributes(copied)
    trace = Trace(copied, ignore)
    output = trace.run(method, copy.deepcopy(example_inputs))
    critic = _outputs(trace, output, value)
    network = _Reader(trace, critic).network(attributes)
    spaces = {space.name for space in network.spaces} | {p.name for p in trace.populations}
    for name in ignore:
        if name not in spaces and name not in dict(policy.named_modules()):
            raise UserError(f"ignore names '{name}', which is neither a module nor a space: {sorted(spaces)}")
    return network


def _outputs(trace: Trace, output: Any, value: str | int | None) -> set[int]:
    """Protect what leaves the policy.  -> the populations that only the value depends on"""
    tensors = list(tensors_in(output, strict=True))
    if not tensors:
        raise UserError(f"{type(trace.policy).__name__} returned no tensor: expected actions and a value")
    values = {id(x) for x in tensors_in(value_of(output, value))}
    read_by: dict[bool, set[int]] = {True: set(), False: set()}
    for x in tensors:
        read_by[id(x) in values] |= trace.sources(x)
        if id(x) not in trace.state_outputs:
            trace.protect(trace.neurons(x), "output")
    return read_by[True] - read_by[False]


def value_of(output: Any, path: str | int | None) -> Any:
    """The value in a policy's output: at this path, else the second of two or three, else None."""
    if path is None:
        return output[1] if isinstance(output, (tuple, list)) and len(output) in (2, 3) else None
    return at_path(output, path, "value")


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
        self.unit_of = self._units()
        self.groups = self._groups()
        self.group_of = np.full(trace.count, -1)  # unit -> the index of its group, -1 for nobody's
        self.place_of = np.zeros(trace.count, int)  # unit -> its place there
        for index, units in enumerate(self.groups):
            self.group_of[units] = index
            self.place_of[units] = np.arange(len(units))
        self.names = self._names()
        self.bent, self.bare = (
            np.unique(np.concatenate([np.zeros(1, int), *map(self._units_in, neurons)]))
            for neurons in (trace.bent, trace.bare)
        )

    def network(self, attributes: Sequence[Attribute]) -> Network:
        trace = self.trace
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
            same_width=tuple(tuple(self._name(units) for units in layers) for layers in trace.same_width),
            attributes=tuple(
                (a, self._axis(Use("", a.neurons))) for a in attributes if a.neurons is not None
            ),
            inputs=trace.inputs,
            state_inputs={i: self._name(neurons) for i, neurons in trace.state_inputs.items()},
            untouched=tuple(name for name in trace.tensors if name not in trace.touched),
            macs=trace.macs,
        )

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
        return self.unit_of[np.maximum(_array(neurons), 0)]

    def _groups(self) -> list[np.ndarray]:
        """Units that lie on the same axes of parameters and went the same ways, in order of their numbers."""
        seen_in: dict[int, list[int]] = defaultdict(list)
        seen = [use.neurons for use in self.trace.uses.values()] + self.trace.taken
        for index, neurons in enumerate(seen):
            for unit in np.unique(self._units_in(neurons)):
                seen_in[int(unit)].append(index)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for unit in sorted(seen_in.keys() - {0}):
            groups[tuple(seen_in[unit])].append(unit)
        return [np.array(units) for units in groups.values()]

    def _names(self) -> list[str]:
        """Each group's first population, and which stretch of it where it fell into several groups."""
        trace, names = self.trace, []
        first = [trace.populations[trace.population(units[0])] for units in self.groups]
        for p, units in zip(first, self.groups, strict=True):
            stretch = f"[{units[0] - p.first}:{units[-1] - p.first + 1}]"
            names.append(p.name + (stretch if first.count(p) > 1 else ""))
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
        for (name, _), use in trace.uses.items():
            stretches = list(self._stretches(use.neurons))
            for group, _, segment in stretches:
                if group >= 0 and name in trace.computed_with:
                    reasons.setdefault(group, f"{trace.computed_with[name]} computes with {name}")
                elif group >= 0 and segment is None:
                    reasons.setdefault(group, f"{name} has it in parts or out of order")
                elif group >= 0 and use.role == "out" and len(stretches) > 1:
                    reasons.setdefault(group, f"cut out of {name} at a fixed place")
        return reasons

    def _stretches(self, neurons: Tensor) -> Iterator[tuple[int, int, Segment | None]]:
        """Runs of one group along an axis: (group, length, how its units lie there; None if irregularly)."""
        units = self._units_in(neurons)
        groups = self.group_of[units]
        for run in np.split(np.arange(len(units)), np.flatnonzero(np.diff(groups)) + 1):
            group, places = int(groups[run[0]]), self.place_of[units[run]]
            count = len(self.groups[group])
            inner = len(run) if count == 1 else int(np.argmax(places != places[0]))
            outer = len(run) // max(count * inner, 1)
            regular = np.array_equal(places, np.tile(np.repeat(np.arange(count), inner), outer))
            yield group, len(run), Segment(self.names[group], "", outer, count, inner) if regular else None

    def _axis(self, use: Use) -> Axis:
        return tuple(
            Segment(None, units=length) if group < 0 or segment is None else replace(segment, role=use.role)
            for group, length, segment in self._stretches(use.neurons)
        )

    def _populations(self, index: int) -> list[Population]:
        """The populations that make up a group."""
        neurons = np.flatnonzero(np.isin(self.unit_of, self.groups[index]))
        return [self.trace.populations[p] for p in dict.fromkeys(self.trace.population(n) for n in neurons)]

    def _space(self, index: int, whole: str | None) -> Space:
        populations = self._populations(index)
        plain = [p for p in populations if p.gates == 1 and p.step is plain_step]
        producers = [Producer(p.columns, p.gates, p.step) for p in populations if p not in plain]
        if plain:  # producers that add into one space: columns side by side
            producers.insert(0, Producer(tuple(c for p in plain for c in p.columns)))
        kind = populations[0].kind
        if kind == "linear" and all(self.trace.populations.index(p) in self.critic for p in populations):
            kind = "critic"
        bent, bare = (bool(np.isin(self.groups[index], some).any()) for some in (self.bent, self.bare))
        signed = any(n in self.trace.signed for p in producers for c in p.columns for n in c.names)
        return Space(
            name=self.names[index],
            units=len(self.groups[index]),
            kind=kind,
            producers=tuple(producers),
            whole=whole,
            scales=not bent,
            rectified=not bare and not signed,
        )


def _array(neurons: Tensor) -> np.ndarray:
    return neurons.flatten().cpu().numpy()
