"""Operations: what the tracer knows of each by its name, all of it said where its rule is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from torch._ops import OpOverload, OpOverloadPacket

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import nearest

Rule = Callable  # rule(trace, out, *args, **kwargs) -> neurons of out


@dataclass(frozen=True)
class Operation:
    """A rule, and the traits of the operation f that it is for. What is not said is not taken for granted.

    x stands for all tensors that it is given, its weights W aside; g for any number above 0.
    """

    rule: Rule | None = None
    homogeneous: bool = False  # f(g x) = g f(x), its biases g times as large, too
    weighs: bool = False  # f(g x, W / g) = f(x, W): what it reads meets weights, which can undo a gain
    keeps_sign: bool = False  # f(x) >= 0 where x >= 0
    rectifies: bool = False  # f(x) >= 0, and f(x) = 0 where x <= 0
    selects: bool = False  # f(x) holds nothing but numbers of x; so it is homogeneous and keeps signs
    moves: bool = False  # and at places that do not depend on x, as a view, a copy and a concatenation do
    takes_sizes: bool = False  # numbers among its arguments are shapes, places and counts, and not values
    takes_shape: bool = False  # its second argument, or all from there on, is its result's shape
    uniform: bool = False  # its result holds one value all over
    random: bool = False  # it draws random numbers
    drops: bool = False  # it draws them to alter x entry by entry: x may stand in place of f(x)
    tells_if_finite: bool = False  # f(x) is the same for all finite x

    def __post_init__(self) -> None:
        for trait, implied in IMPLIES:
            if getattr(self, trait):
                object.__setattr__(self, implied, True)


IMPLIES = (
    ("moves", "selects"),
    ("selects", "homogeneous"),
    ("selects", "keeps_sign"),
    ("takes_shape", "takes_sizes"),
)
TRAITS = tuple(field.name for field in fields(Operation) if field.name != "rule")
OPERATIONS: dict[str, Operation] = {}


def rule(*operations: str, **traits: bool) -> Callable[[Rule], Rule]:
    """Teach the tracer operations by name: "relu" stands for F.relu, Tensor.relu and Tensor.relu_.

    The rule gets the trace, the operation's result and its arguments. It declares which axes of which
    parameters write or read neurons, and returns the neurons of the result's elements, in the result's
    shape (a tuple of such for several results):

        @rule("linear", homogeneous=True, weighs=True)
        def linear(trace, out, x, weight, bias=None):
            trace.read(weight, 1, trace.along(x, -1))
            units = trace.write((weight, 0), (bias, 0), kind="linear")
            return trace.spread(units, out, -1)

    traits  what else is known of them: fields of `Operation`
    Raises UserError for a trait that there is not.
    """

    def register(function: Rule) -> Rule:
        describe(*operations, rule=function, **traits)
        return function

    return register


def describe(*operations: str, rule: Rule | None = None, **traits: bool) -> None:
    """Say what is known of operations that need no rule, such as those that make tensors of no others."""
    for trait in traits.keys() - set(TRAITS):
        meant = nearest(trait, TRAITS) or ", ".join(TRAITS)
        raise UserError(f"'{trait}' of {operations[0]} is no trait of operations: did you mean {meant}?")
    OPERATIONS.update(dict.fromkeys(operations, Operation(rule, **traits)))


def operation(name: str) -> Operation:
    """What is known of an operation; where torch says that it is pointwise, the rule of such operations."""
    found = OPERATIONS.get(name, Operation())
    if found.rule is None and is_pointwise(name):
        return replace(found, rule=OPERATIONS["where"].rule)
    return found


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
