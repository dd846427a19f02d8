"""Optimizers: the state of a policy's optimizer, made to fit the collapsed policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.moments import collapse_moments
from pufferlib_kcore.fibration.quotient import Segment
from pufferlib_kcore.graph.collapsing import Collapse


def collapse_optimizer(
    state_dict: Mapping[str, Any], collapse: Collapse, policy: nn.Module
) -> dict[str, Any]:
    """The state_dict of an optimizer over collapse.policy.parameters(), in the same order and groups.

    state_dict  of Adam, AdamW, SGD or RMSprop over policy.parameters(), the policy before its collapse;
                where its groups hold `param_names`, the parameters may be in any order
    Raises UserError where the state is another policy's, or holds a buffer that it does not know.
    """
    groups = state_dict["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    named = dict(policy.named_parameters())
    names = [name for group in groups for name in group.get("param_names", ())] or list(named)
    cure = "expected the optimizer of this policy, over policy.parameters()"
    if len(names) != len(indices) or not set(names) <= named.keys():
        raise UserError(
            f"the optimizer holds {len(indices)} parameters and {type(policy).__name__} {len(named)}: {cure}"
        )
    state = {}
    for index, name in zip(indices, names, strict=True):
        buffers, shape = state_dict["state"].get(index), tuple(named[name].shape)
        for key, x in (buffers or {}).items():
            if getattr(x, "ndim", 0) and tuple(x.shape) != shape:
                raise UserError(
                    f"'{key}' of {name} has shape {tuple(x.shape)}, the parameter {shape}: {cure}"
                )
        if buffers is not None:
            axes = collapse.network.table.get(name) or tuple((Segment(None, units=n),) for n in shape)
            state[index] = collapse_moments(buffers, axes, collapse.merges)
    return {"state": state, "param_groups": [dict(group) for group in groups]}
