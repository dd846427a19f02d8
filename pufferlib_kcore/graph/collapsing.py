"""Collapse: a policy's base, of the same class, computed from its weights alone; and back up, by lift."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.partition import split_to
from pufferlib_kcore.fibration.refinement import Space, color_spaces
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.network import Network, network_of
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.graph.report import Report, make_report

KINDS = ("linear", "cnn", "lstm", "critic")
THRESHOLD = 0.3


@dataclass(frozen=True)
class Collapse:
    """A collapsed policy, and what became of each space."""

    policy: nn.Module
    fibers: dict[str, np.ndarray]  # space -> int64 labels (units,), numbered by first member
    kinds: dict[str, str]  # space -> "linear", "cnn", "lstm" or "critic"
    thresholds: dict[str, float]  # space -> cosine distance
    reasons: dict[str, str | None]  # space -> why it was left whole, or padded
    report: Report
    network: Network  # of the original


def collapse(
    policy: nn.Module,
    example_inputs: tuple,
    threshold: float | Mapping[str, float] = THRESHOLD,
    *,
    method: str = "forward",
    value: str | int | None = None,
    ignore: Sequence[str] = (),
    published: bool = False,
) -> Collapse:
    """Merge neurons that compute (nearly) the same; the argument is untouched.

    example_inputs  positional arguments of `method`, such as (observations, None)
    threshold       cosine distance in [0, 2] for all, or {kind or space: distance}, where "default" stands
                    for what is not named (0.3). 0 merges only what is identical, 2 whole spaces.
    value           path of the value in the output where it is not the second of two or three
    ignore          spaces or modules to leave whole
    published       the published recipe: five rounds on a recurrent layer, without its biases
    Raises UserError for thresholds out of range, names that mean nothing, and policies that cannot be traced.
    """
    network = network_of(policy, example_inputs, method, value, ignore)
    thresholds = thresholds_of(threshold, network.spaces)
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    fibers = color_spaces(network.spaces, tensors, network.table, thresholds, published)
    fibers, padded = same_widths(network, fibers)
    widths = {name: int(labels.max()) + 1 for name, labels in fibers.items()}
    smaller = rebuild(policy, network, quotient.collapse(tensors, network.table, fibers), widths)
    check(smaller, network, widths, example_inputs, method, ignore)
    reasons = {space.name: space.whole or padded.get(space.name) for space in network.spaces}
    report = make_report(network, policy, smaller, widths, reasons)
    kinds = {space.name: space.kind for space in network.spaces}
    return Collapse(smaller, fibers, kinds, thresholds, reasons, report, network)


def lift(
    policy: nn.Module,
    example_inputs: tuple,
    fibers: Mapping[str, np.ndarray],
    *,
    method: str = "forward",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A larger policy of the same class that computes exactly what this one does; the argument is untouched.

    fibers     space -> for each neuron of the larger policy, the unit that it copies; others stay as they are
    generator  divide weights unevenly among copies, differently in every row; None divides them evenly
    Raises UserError for labels that do not cover a space or belong to none.
    """
    network = network_of(policy, example_inputs, method)
    units = {space.name: space.units for space in network.spaces if not space.whole}
    for name, labels in fibers.items():
        if name not in units:
            raise UserError(f"fibers name '{name}', which is not a space that can grow: {sorted(units)}")
        if set(np.unique(labels)) != set(range(units[name])):
            raise UserError(f"fibers of {name} must name each of its {units[name]} units, from 0 on")
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    lifted = quotient.lift(tensors, network.table, fibers, generator)
    return rebuild(policy, network, lifted, {name: len(labels) for name, labels in fibers.items()})


def thresholds_of(threshold: float | Mapping[str, float], spaces: Sequence[Space]) -> dict[str, float]:
    """Space -> threshold: by its name, else its kind, else the default."""
    given = dict(threshold) if isinstance(threshold, Mapping) else {"default": threshold}
    known = ["default", *KINDS, *(space.name for space in spaces)]
    for name, distance in given.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1) or [" or ".join(known[:5])]
            raise UserError(f"threshold for '{name}': no such kind or space; did you mean {nearest[0]}?")
        if not 0 <= distance <= 2:
            raise UserError(f"threshold for '{name}' is {distance}: expected a cosine distance from 0 to 2")
    default = given.get("default", THRESHOLD)
    return {space.name: float(given.get(space.name, given.get(space.kind, default))) for space in spaces}


def same_widths(
    network: Network, fibers: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Bring the layers of one recurrent module to the widest one's width.  -> fibers, {space: note}"""
    fibers, padded = dict(fibers), {}
    for layers in network.same_width:
        widest = max(layers, key=lambda name: fibers[name].max())
        for name in layers:
            if (missing := fibers[widest].max() - fibers[name].max()) > 0:
                padded[name] = f"{missing} fibers more than needed, to be as wide as {widest}"
                fibers[name] = split_to(fibers[name], int(fibers[widest].max()) + 1)
    return fibers, padded


def check(
    smaller: nn.Module,
    network: Network,
    widths: Mapping[str, int],
    example_inputs: tuple,
    method: str,
    ignore: Sequence[str],
) -> None:
    """Trace the collapsed policy: its axes must be the original's with fibers for units, or it is refused."""
    inputs = copy.deepcopy(example_inputs)
    for i, x in enumerate(tensors_in(inputs)):
        if i in network.state_inputs:
            x.data = x[..., : widths[network.state_inputs[i]]]
    cure = "its code fixes a size: leave the spaces that it concerns whole with ignore=[...]"
    try:
        found = network_of(smaller, inputs, method, ignore=ignore).table
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the collapsed {type(smaller).__name__} does not run ({error}); {cure}") from error
    for name, axes in network.table.items():
        for axis, now in zip(axes, found[name], strict=True):
            expected = tuple(replace(s, units=widths.get(s.space or "", s.units)) for s in axis)
            if now != expected and all(s.units > 1 for s in expected):  # one unit lies in any order
                raise UserError(f"the collapsed {type(smaller).__name__} uses {name} otherwise; {cure}")
