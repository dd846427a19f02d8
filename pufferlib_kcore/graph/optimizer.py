"""Optimizers: the state of a policy's optimizer, made to fit the collapsed policy."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.moments import check_known, collapse_moments, shape_in
from pufferlib_kcore.fibration.quotient import Axis, Segment
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.nested import tensors_in

Shape = tuple[int, ...]
CURE = (
    "pass the optimizer itself instead of its state_dict, build it over policy.named_parameters(), or give "
    "names=[...], those of its parameters in its order"
)


def collapse_optimizer(
    state_dict: Mapping[str, Any] | Optimizer,
    collapse: Collapse,
    policy: nn.Module,
    *,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The state_dict of an optimizer over collapse.policy's parameters, in the same order and groups.

    state_dict  an optimizer over all of the policy's parameters or some, in any order and groups, or its
                state_dict: of Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, SGD, RMSprop, Muon, Lion,
                or one that keeps no other state than these (`fibration.moments` says how each buffer maps)
    policy      the policy before its collapse
    names       the names in policy.named_parameters() of the optimizer's parameters, in its order, where
                they are known. The optimizer itself, and a state_dict whose groups hold `param_names`, tell
                them; a bare state_dict must tell them by shapes alone: those of its state belong to no two
                parameters of the policy, or to one row of neighbours, no two of them alike.
    Raises UserError, naming the parameter and the buffer, where it cannot be known which parameter state
    belongs to, or how it maps; where it is another policy's, or not finite.
    """
    shapes: dict[str, Shape] = {name: tuple(p.shape) for name, p in policy.named_parameters()}
    held = state_dict.state_dict() if isinstance(state_dict, Optimizer) else state_dict
    _check_layout(held, collapse, shapes, type(policy).__name__)
    groups = [list(group["params"]) for group in held["param_groups"]]
    indices = [index for group in groups for index in group]
    known = {index: shape_in(held["state"].get(index, {})) for index in indices}
    found: Sequence[str | None]
    if isinstance(state_dict, Optimizer):
        found = _by_identity(state_dict, policy)
    elif names is not None:
        found = _as_told([list(names)], [indices], known, shapes, policy)
    elif all("param_names" in group for group in held["param_groups"]):
        told = [list(group["param_names"]) for group in held["param_groups"]]
        found = _as_told(told, groups, known, shapes, policy)
    else:
        for index, buffers in held["state"].items():
            check_known(buffers, f"its parameter {index}")
        found = _by_shapes([known[index] for index in indices], shapes, policy)
    state = {}
    for index, name in zip(indices, found, strict=True):
        if index in held["state"]:
            axes = _axes_of(name, shapes, collapse) if name else ()  # it holds nothing but numbers
            parameter = name or f"its parameter {index}"
            state[index] = collapse_moments(held["state"][index], axes, collapse.merges, parameter)
    if more := sorted(map(str, held.keys() - {"state", "param_groups"})):
        raise UserError(f"the optimizer's state_dict holds '{more[0]}', which cannot be collapsed")
    return {"state": state, "param_groups": copy.deepcopy(list(held["param_groups"]))}


def _axes_of(name: str, shapes: Mapping[str, Shape], collapse: Collapse) -> tuple[Axis, ...]:
    whole: tuple[Axis, ...] = tuple((Segment(None, units=size),) for size in shapes[name])
    return collapse.network.table.get(name, whole)


def _check_layout(
    held: Mapping[str, Any], collapse: Collapse, shapes: Mapping[str, Shape], policy: str
) -> None:
    """Refuse what is no optimizer's state_dict, not this policy's, or holds more than parameters' state."""
    if not isinstance(held, Mapping) or not {"state", "param_groups"} <= held.keys():
        raise UserError("expected an optimizer or its state_dict, with 'state' and 'param_groups'")
    for name, axes in collapse.network.table.items():
        traced = tuple(sum(segment.length for segment in axis) for axis in axes)
        if shapes.get(name, traced) != traced:
            raise UserError(
                f"{name} of {policy} has shape {shapes[name]}, and had {traced} when it was collapsed: "
                "expected the policy before its collapse"
            )
    indices = {index for group in held["param_groups"] for index in group["params"]}
    if strangers := [index for index in held["state"] if index not in indices]:
        raise UserError(f"the optimizer holds state of '{strangers[0]}', which is in none of its groups")
    for index, buffers in held["state"].items():
        if not isinstance(buffers, Mapping):
            raise UserError(f"the optimizer's state of its parameter {index} is a {type(buffers).__name__}")
    for group in held["param_groups"]:
        for key, value in group.items():
            if key != "params" and any(x.numel() > 1 for x in tensors_in(value)):
                raise UserError(f"the optimizer's groups hold '{key}', a tensor that cannot be collapsed")


def _by_identity(optimizer: Optimizer, policy: nn.Module) -> list[str]:
    """The names of an optimizer's own parameters."""
    names = {id(p): name for name, p in policy.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        if id(p) not in names:
            raise UserError(
                f"the optimizer holds a parameter of shape {tuple(p.shape)} that is none of "
                f"{type(policy).__name__}: expected the optimizer of the policy before its collapse"
            )
    return [names[id(p)] for p in parameters]


def _as_told(
    told: Sequence[Sequence[str]],
    groups: Sequence[Sequence[Any]],
    known: Mapping[Any, Shape | None],
    shapes: Mapping[str, Shape],
    policy: nn.Module,
) -> list[str]:
    """The names given for each group's parameters. Those that are a part's own ("0.weight") are completed."""
    kind, found = type(policy).__name__, list[str]()
    for names, indices in zip(told, groups, strict=True):
        if len(names) != len(indices):
            raise UserError(
                f"{len(names)} names are given for {len(indices)} parameters of the optimizer: {CURE}"
            )
        strange = [name for name in names if name not in shapes]
        parts = [""]
        if strange:
            parts = [
                part
                for part, _ in policy.named_modules()
                if all(
                    f"{part}.{name}" in shapes and known[index] in (None, shapes[f"{part}.{name}"])
                    for name, index in zip(names, indices, strict=True)
                )
            ]
        if len(parts) != 1:
            which = f"which may be of {' or of '.join(parts)}" if parts else "which has none such"
            raise UserError(f"the optimizer names '{strange[0]}' as a parameter of {kind}, {which}: {CURE}")
        found += [f"{parts[0]}.{name}".removeprefix(".") for name in names]
    if twice := [name for name in shapes if found.count(name) > 1]:
        raise UserError(f"the optimizer names '{twice[0]}' twice: {CURE}")
    return found


def _by_shapes(
    wanted: Sequence[Shape | None], shapes: Mapping[str, Shape], policy: nn.Module
) -> list[str | None]:
    """The names of parameters of which the optimizer's state says no more than shapes; None has no state.

    Each shape is one parameter's alone; or else all lie in one stretch of the policy's parameters, or of
    those that train, in their order, there is but one such stretch, and each shape is there once.
    """
    kind = type(policy).__name__
    if len(wanted) > len(shapes):
        raise UserError(
            f"the optimizer holds {len(wanted)} parameters and {kind} {len(shapes)}: "
            "expected the optimizer of this policy"
        )
    having = {s: [name for name, shape in shapes.items() if shape == s] for s in wanted if s is not None}
    for shape, names in having.items():
        if len(names) < wanted.count(shape):
            raise UserError(
                f"the optimizer holds state of shape {shape} for {wanted.count(shape)} parameters, and "
                f"{kind} has {len(names)} of that shape: expected the optimizer of this policy"
            )
    if all(len(names) == 1 for names in having.values()):
        return [None if s is None else having[s][0] for s in wanted]
    training = [name for name, p in policy.named_parameters() if p.requires_grad]
    runs = {
        tuple(order[start : start + len(wanted)])
        for order in (list(shapes), training)
        for start in range(len(order) - len(wanted) + 1)
    }
    fitting = [run for run in runs if all(s in (None, shapes[n]) for n, s in zip(run, wanted, strict=True))]
    alike = next(names for names in having.values() if len(names) > 1)
    if len(fitting) == 1:
        (run,) = fitting
        there = [shapes[name] for name in run]
        if all(s is None or there.count(s) == 1 for s in wanted):
            return [None if s is None else name for name, s in zip(run, wanted, strict=True)]
    raise UserError(
        f"the optimizer's state does not say which parameters of {kind} it belongs to, as {alike[0]} and "
        f"{alike[1]} are of one shape: {CURE}"
    )
