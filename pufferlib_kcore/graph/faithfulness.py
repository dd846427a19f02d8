"""Faithfulness: how far a collapsed policy's actions and values are from the original's, state by state."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.distributions import ActionDistribution, Discrete
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.finite import finite, finite_policy
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.graph.calibration import smaller_inputs
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.nested import arguments, tensors_in
from pufferlib_kcore.graph.network import Network, at_path, value_of
from pufferlib_kcore.graph.running import aside
from pufferlib_kcore.graph.traced import Traced, traced_with


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
    policy: nn.Module | Traced,
    smaller: nn.Module,
    inputs: Inputs,
    network: Network | None = None,
    fibers: Mapping[str, np.ndarray | Merge] = {},
    *,
    actions: str | int = 0,
    **how: Any,
) -> Divergence:
    """Compare a policy with its collapse on recorded inputs, each carrying its own recurrent state.

    policy, network  and its network, as its collapse has it; or a Traced alone
    fibers           of the collapse: its merges, from which the smaller policy's state at the start follows
    actions          path of the actions: logits (.., n), a list of such, or a torch Distribution
    how              keywords of `trace`, where the policy is to be called otherwise than it was traced
    Raises UserError where the output has no such actions, and where actions or values are not finite.
    """
    traced = traced_with(policy, network, how)
    policy, network = traced.policy, traced.network
    for one in (policy, smaller):
        finite_policy(one, network.table)
    inputs = [arguments(one) for one in inputs]
    cut = smaller_inputs(policy, network, inputs, fibers)
    theirs = Answers(policy, inputs, network, actions)
    ours = Answers(smaller, cut, network, actions, "the collapsed policy")
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
        network: Network,
        actions: str | int,
        whose: str = "the policy",
    ):
        example, value, states = network.example, network.example.value, network.state_outputs
        with aside(policy):
            answers = [example.at(copy_of(x)).answer(policy) for x in inputs]
        found = [a if isinstance(a, Tensor) else at_path(a, actions) for a in answers]
        for number, answer in enumerate(answers):
            for x in tensors_in([found[number], value_of(answer, value, states)]):
                x = x.masked_fill(x.isneginf(), 0)  # the logit of an action that is masked
                finite(x, f"what {whose} returns for inputs [{number}]", "its actions cannot be compared")
        values = [v.double().flatten() for a in answers for v in tensors_in(_value(a, value, states))]
        self.has_values = bool(values)
        self.values = torch.cat(values) if values else torch.full((2,), torch.nan)
        self.actions = distributions.cat([_actions(one) for one in found])

    def bound_by(self, max_kl: float | None) -> None:
        """Raise UserError where a bound on the KL would bound nothing."""
        one = isinstance(self.actions, Discrete) and self.actions.logits.shape[-1] == 1
        if max_kl is not None and one:
            raise UserError(
                f"max_kl is {max_kl}, and the policy returns one number in place of logits of actions, of "
                "which the KL is always 0: say where its actions are (actions=...), or leave max_kl out, as "
                "for a critic alone"
            )


def _value(answer: Any, path: str | int | None, states: Collection[int]) -> Any:
    """The value in a policy's output; one column alone is a critic's, which has no actions."""
    alone = path is None and isinstance(answer, Tensor) and answer.ndim > 0 and answer.shape[-1] == 1
    return answer if alone else value_of(answer, path, states)


def variance_of(values: Tensor) -> Tensor:
    """Above 0, where values hardly vary, or are one."""
    least = (1e-8 * values.square().mean()).clamp_min(1e-12)
    return torch.maximum(values.var(correction=min(1, len(values) - 1)), least)


def _actions(found: Any) -> ActionDistribution:
    try:
        return distributions.of(found, torch.float64)
    except UserError as error:
        raise UserError(f"{error}; name their place in what it returns: actions=...") from None
