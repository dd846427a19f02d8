"""Optimizers: the state of a policy's optimizer, made to fit the collapsed policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.moments import collapse_moments
from pufferlib_kcore.fibration.quotient import Segment
from pufferlib_kcore.graph.collapsing import Collapse


def collapse_optimizer(state_dict: Mapping[str, Any], collapse: Collapse, policy: nn.Module) -> dict[str, Any]:
    """The state_dict of an optimizer over collapse.policy.parameters(), in the same order and groups.

    state_dict  of Adam, AdamW, SGD or RMSprop over policy.parameters(), the policy before its collapse;
                where its groups hold `param_names`, the parameters may be in any order
    Raises UserError where the state is another policy's, or holds a buffer that it does not know.
    """
    groups = state_dict["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    named = dict(policy.named_parameters())
    names = names or list(named)
    if len(names) != len(indices) or not set(names) <= named.keys():
        raise UserError(
            f"the optimizer holds {len(indices)} parameters and {type(policy).__name__} {len(named)}: "
            "expected the optimizer of this policy, over policy.parameters()"
        )
    state = {}
    for index, name in zip(indices, names, strict=True):
        shape = named[name].shape
        for key, value in state_dict["state"].get(index, {}).items():
            if getattr(value, "ndim", 0) and value.shape != shape:
                raise UserError(
                    f"optimizer state '{key}' of {name} has shape {tuple(value.shape)}, the parameter {tuple(shape)}: "
                    "expected the optimizer of this policy, over policy.parameters()"
                )
        axes = collapse.network.table.get(name) or tuple((Segment(None, units=size),) for size in shape)
        if index in state_dict["state"]:
            state[index] = collapse_moments(state_dict["state"][index], axes, collapse.fibers)
    return {"state": state, "param_groups": [dict(group) for group in groups]}
