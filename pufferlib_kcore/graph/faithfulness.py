"""Faithfulness: how far a collapsed policy's actions and values are from the original's, state by state."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.distributions import ActionDistribution
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.finite import finite, finite_policy
from pufferlib_kcore.fibration.quotient import Fibers
from pufferlib_kcore.graph.calibration import Inputs, smaller_inputs
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import arguments, tensors_in
from pufferlib_kcore.graph.network import Network, Outputs, at_path, value_of
from pufferlib_kcore.graph.running import aside


@dataclass(frozen=True)
class Divergence:
    """Means over all states."""

    kl: float  # nats, of the original's action distributions to the smaller policy's
    value_error: float  # squared, in parts of the variance of the original's values; nan where there are none
    look: float  # nats, of the original's action distributions to their mean: how much it looks at its input

    def __str__(self) -> str:
        return f"kl={self.kl:.4g} value_error={self.value_error:.4g} look={self.look:.4g}"


@torch.no_grad()
def divergence(
    policy: nn.Module,
    smaller: nn.Module,
    inputs: Inputs,
    network: Network,
    fibers: Fibers,
    *,
    method: str = "forward",
    value: str | int | None = None,
    actions: str | int = 0,
    outputs: Outputs = None,
) -> Divergence:
    """Compare a policy with its collapse on recorded inputs, each carrying its own recurrent state.

    network, fibers  of the collapse, from which the smaller policy's state at the start follows
    value            path of the value in the output; None: the second of two or three
    actions          path of the actions: logits (.., n), a list of such, or a torch Distribution
    Raises UserError where the output has no such actions, and where actions or values are not finite.
    """
    for one in (policy, smaller):
        finite_policy(one, network.table)
    inputs = [arguments(one) for one in inputs]
    cut = smaller_inputs(policy, inputs, network, fibers, method, outputs)
    places = method, value, actions, outputs, network.state_outputs
    theirs = Answers(policy, inputs, *places)
    ours = Answers(smaller, cut, *places, "the collapsed policy")
    kl = theirs.actions.kl(ours.actions).mean()
    look = theirs.actions.kl(theirs.actions.mean()).mean()
    error = (theirs.values - ours.values).square().mean() / variance_of(theirs.values)
    return Divergence(float(kl), float(error), float(look))


class Answers:
    """What a policy answers: the distributions of its actions, and its values (states,), in float64."""

    def __init__(
        self,
        policy: nn.Module,
        inputs: Inputs,
        method: str,
        value: Any,
        actions: Any,
        outputs: Outputs = None,
        states: Collection[int] = (),
        whose: str = "the policy",
    ):
        with aside(policy):
            answers = [getattr(policy, method)(*copy_of(x)) for x in inputs]
        if outputs is not None:
            answers = [outputs(answer) for answer in answers]
        found = [a if isinstance(a, Tensor) else at_path(a, actions) for a in answers]
        for number, answer in enumerate(answers):
            for x in tensors_in([found[number], value_of(answer, value, states)]):
                x = x.masked_fill(x.isneginf(), 0)  # the logit of an action that is masked
                finite(x, f"what {whose} returns for inputs [{number}]", "its actions cannot be compared")
        values = [v.double().flatten() for a in answers for v in tensors_in(value_of(a, value, states))]
        self.has_values = bool(values)
        self.values = torch.cat(values) if values else torch.full((2,), torch.nan)
        self.actions = distributions.cat([_actions(one) for one in found])


def variance_of(values: Tensor) -> Tensor:
    """Above 0, where values hardly vary, or are one."""
    least = (1e-8 * values.square().mean()).clamp_min(1e-12)
    return torch.maximum(values.var(correction=min(1, len(values) - 1)), least)


def _actions(found: Any) -> ActionDistribution:
    try:
        return distributions.of(found, torch.float64)
    except UserError as error:
        raise UserError(f"{error}; name their place in what it returns: actions=...") from None
