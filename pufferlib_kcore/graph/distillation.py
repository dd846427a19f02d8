"""Distillation: gradient steps that bring a collapsed policy's outputs to the original's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pufferlib_kcore.fibration.finite import finite, finite_policy
from pufferlib_kcore.graph.calibration import smaller_inputs
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.faithfulness import Answers, divergence, variance_of
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.nested import arguments
from pufferlib_kcore.graph.traced import Traced, traced_with

STEPS = 500
LEARNING_RATE = 3e-3
MAX_NORM = 1.0  # of the gradient
CHECKS = 10  # times that the policy is measured on the way


def distill(
    policy: nn.Module | Traced,
    collapse: Collapse,
    inputs: Inputs,
    held_out: Inputs,
    steps: int = STEPS,
    *,
    actions: str | int = 0,
    watch: Callable[[float], None] = lambda part: None,
    **how: Any,
) -> Collapse:
    """The same collapse, its policy taught the original's action distributions and values.

    policy    the original; or a Traced of it
    inputs    recorded, the original's; one call of them a step
    held_out  others; of the policies on the way, the first included, that with the least KL on these is taken
    steps     of Adam, the learning rate falling to 0
    actions   their path in the output, as of `divergence`
    watch     called before each with the part of them that is done
    how       keywords of `trace`, where the policy is to be called otherwise than it was traced

    Raises UserError for NaN or infinity in a policy, in what it answers, and in a gradient.

    No environment and no rewards: the loss is the KL of the actions, plus half the squared error of the
    values in parts of their variance (Rusu et al., 2016, "Policy distillation").
    """
    traced = traced_with(policy, None if isinstance(policy, Traced) else collapse.network, how)
    inputs, held_out = ([arguments(one) for one in some] for some in (inputs, held_out))
    for one in (traced.policy, collapse.policy):
        finite_policy(one, collapse.network.table)
    policy, network, smaller = copy_of(traced.policy), traced.network, copy_of(collapse.policy)
    with torch.no_grad():
        theirs = [Answers(policy, [x], network, actions) for x in inputs]
    ours = smaller_inputs(policy, network, inputs, collapse.merges)
    variance = variance_of(torch.cat([t.values for t in theirs]))
    optimizer = torch.optim.Adam(smaller.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    best, kept = torch.inf, collapse.policy
    for done in range(steps + 1):
        watch(done / (steps + 1))
        if done % max(1, steps // CHECKS) == 0 or done == steps:
            kl = divergence(traced, smaller, held_out, fibers=collapse.merges, actions=actions).kl
            if kl < best:
                best, kept = kl, copy_of(smaller)
        target, x = theirs[done % len(inputs)], ours[done % len(inputs)]
        answers = Answers(smaller, [x], network, actions)
        loss = target.actions.kl(answers.actions).mean()
        if target.has_values:
            loss = loss + (answers.values - target.values).square().mean() / variance / 2
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in smaller.named_parameters():
            finite(parameter.grad, f"the gradient of {name} in step {done} of distillation")
        nn.utils.clip_grad_norm_(smaller.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
    return replace(collapse, policy=kept)
