"""Collapse: a policy's base, of the same class, computed from its weights alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.finite import finite_policy
from pufferlib_kcore.fibration.partition import split_to
from pufferlib_kcore.fibration.quotient import Merge
from pufferlib_kcore.fibration.refinement import Space, color_spaces
from pufferlib_kcore.fibration.selection import gather, ranked
from pufferlib_kcore.graph.calibration import Inputs, Targets, readers_of, refit
from pufferlib_kcore.graph.nested import arguments
from pufferlib_kcore.graph.network import Network, Outputs, network_of
from pufferlib_kcore.graph.rebuild import rebuild
from pufferlib_kcore.graph.report import Report, make_report
from pufferlib_kcore.graph.states import alike, cut, cut_states
from pufferlib_kcore.graph.verification import answered_otherwise, narrowed, telling, used_otherwise
from pufferlib_kcore.settings.sections import KINDS, Colors

THRESHOLD = 0.3
COLORS = get_args(Colors)


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
    merges: dict[str, Merge]  # space -> how its neurons became one of each fiber

    @property
    def widths(self) -> dict[str, int]:
        """Space -> how many fibers."""
        return {name: int(labels.max()) + 1 for name, labels in self.fibers.items()}


def collapse(
    policy: nn.Module,
    example_inputs: Any,
    threshold: float | Mapping[str, float] = THRESHOLD,
    *,
    method: str = "forward",
    value: str | int | None = None,
    ignore: Sequence[str] = (),
    published: bool = False,
    calibrate: Inputs = (),
    colors: str = "weights",
    round_to: int = 1,
    outputs: Outputs = None,
) -> Collapse:
    """Merge neurons that compute (nearly) the same; the argument is untouched.

    example_inputs  positional arguments of `method`, such as (observations, None), or its one argument
    threshold       cosine distance in [0, 2] for all, or {kind or space: distance}, where "default" stands
                    for what is not named (0.3). 0 merges only what is identical, to the rounding of its
                    dtype; what is above counts as 1e-6 at least; 2 merges whole spaces.
    value           path of the value in the output where it is not the second of two or three
    ignore          spaces or modules to leave whole
    published       the published recipe: five rounds on a recurrent layer, without its biases
    calibrate       recorded inputs, tuples like example_inputs: what reads merged neurons is refitted by
                    least squares, so that on these inputs it computes what it did in the original
    colors          "weights"; "faithful", the same minding their size: where nothing but ReLUs and pools
                    stands between a space and its readers, scaled copies merge exactly, through gains,
                    elsewhere they are apart, and ReLUs that no input can wake go for free; or
                    "activations": a neuron joins a fiber where, on the inputs to calibrate on, its readers
                    can make it up from those kept, to the distance `threshold`
    round_to        widths are multiples of this, as hardware may like, or all units
    outputs         function of what `method` returns: the tensors in it, where that is an object
    Raises UserError for thresholds out of range, names that mean nothing, policies that cannot be traced, and
    NaN or infinity in weights or in what layers compute on the recorded inputs.
    """
    if colors not in COLORS or colors == "activations" and not calibrate:
        raise UserError(f"colors={colors!r}: expected {COLORS}, and for activations inputs to calibrate on")
    example_inputs, calibrate = arguments(example_inputs), [arguments(one) for one in calibrate]
    network = network_of(policy, example_inputs, method, value, ignore, outputs)
    thresholds = thresholds_of(threshold, network.spaces)
    finite_policy(policy, network.table)
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    by_weights = color_spaces(
        network.spaces, tensors, network.table, thresholds, published, colors == "faithful"
    )
    counts = {name: int(merge.labels.max()) + 1 for name, merge in by_weights.items()}
    readers = readers_of(policy, network, calibrate, method) if colors == "activations" else {}
    order = {name: ranked(seen, thresholds[name]) for name, seen in readers.items()}
    widths, notes = common_widths(network, counts | {name: k for name, (_, k) in order.items()}, round_to)
    merges = {n: Merge.mean(split_to(m.labels, widths[n]), m.gain) for n, m in by_weights.items()}
    merges |= {name: gather(readers[name], units[: widths[name]]) for name, (units, _) in order.items()}
    return finish(
        policy,
        example_inputs,
        network,
        merges,
        thresholds,
        notes,
        calibrate,
        method=method,
        ignore=ignore,
        outputs=outputs,
    )


def finish(
    policy: nn.Module,
    example_inputs: tuple,
    network: Network,
    merges: dict[str, Merge],
    thresholds: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
    calibrate: Inputs = (),
    *,
    maps: Mapping[str, quotient.Map] = quotient.COLLAPSE,
    method: str = "forward",
    ignore: Sequence[str] = (),
    outputs: Outputs = None,
) -> Collapse:
    """Merge as told: build the smaller policy, refit it, check and report it."""
    finite_policy(policy, network.table)
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    widths = {name: int(merge.labels.max()) + 1 for name, merge in merges.items()}
    merged = {name: merge for name, merge in merges.items() if widths[name] < len(merge.labels)}
    smaller_tensors = quotient.carry_all(tensors, network.table, merged, maps)
    smaller = rebuild(policy, network, smaller_tensors, widths)
    cure = "merged weights are beyond its dtype, so collapse it in float32"
    finite_policy(smaller, network.table, cure)
    found = check(policy, smaller, network, merged, example_inputs, method, ignore, outputs)
    if calibrate and merged:
        refit(smaller, network, merged, Targets(policy, calibrate, method))
        finite_policy(smaller, network.table, cure)
    reasons = {space.name: space.whole or (notes or {}).get(space.name) for space in network.spaces}
    report = make_report(network, policy, smaller, widths, reasons, found.macs)
    kinds = {space.name: space.kind for space in network.spaces}
    fibers = {name: merge.labels for name, merge in merges.items()}
    return Collapse(smaller, fibers, kinds, dict(thresholds or {}), reasons, report, network, merges)


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


def common_widths(
    network: Network, fibers: Mapping[str, int], round_to: int = 1
) -> tuple[dict[str, int], dict[str, str]]:
    """Widths that modules can have: layers of one recurrent module as wide as the widest, all rounded up.

    fibers    space -> how many it needs
    round_to  widths are multiples of this, or all units
    Returns widths, and {space: note} for those that got more than they need.
    """
    if round_to < 1:
        raise UserError(f"round_to is {round_to}: expected 1 or more units")
    widths, notes = dict(fibers), {}
    for space in network.spaces:
        if not space.whole:
            rounded = min(space.units, -(-widths[space.name] // round_to) * round_to)
            if rounded > widths[space.name]:
                notes[space.name] = (
                    f"{rounded - widths[space.name]} fibers more than needed, for round_to={round_to}"
                )
            widths[space.name] = rounded
    for layers in network.same_width:
        widest = max(layers, key=lambda name: widths[name])
        for name in layers:
            if (missing := widths[widest] - widths[name]) > 0:
                notes[name] = f"{missing} fibers more than needed, to be as wide as {widest}"
                widths[name] = widths[widest]
    return widths, notes


def check(
    policy: nn.Module,
    smaller: nn.Module,
    network: Network,
    merged: Mapping[str, Merge],
    example_inputs: tuple,
    method: str,
    ignore: Sequence[str],
    outputs: Outputs,
) -> Network:
    """The collapsed policy must run, use its parameters as the original does, and lift to the same function.

    Returns its network. Raises UserError naming the spaces, and the line, that keep it from that.
    """

    states, told = network.state_outputs, telling(example_inputs, network)

    def tried(made: nn.Module, merges: Mapping[str, Merge]) -> str | Network:
        table, fibers = narrowed(network.table, merges), {n: m.labels for n, m in merges.items()}
        given = cut_states(example_inputs, network.state_inputs, fibers)
        found = used_otherwise(made, table, given, method, ignore, outputs)
        if isinstance(found, str) or not merges:
            return found
        fault = answered_otherwise(
            made,
            lambda tensors: rebuild(policy, network, quotient.lift(tensors, table, fibers), {}),
            table,
            (
                cut_states(told, network.state_inputs, fibers),
                cut_states(told, network.state_inputs, fibers, alike),
            ),
            lambda i, x, lifted: (x, cut(lifted, states[i], fibers) if i in states else lifted),
            method,
            outputs,
        )
        return fault or found

    found = tried(smaller, merged)
    if isinstance(found, Network):
        return found
    culprits = []
    for name in merged if len(merged) > 1 else ():
        tied = {other for layers in network.same_width if name in layers for other in layers}
        one = {n: merge for n, merge in merged.items() if n == name or n in tied}
        if isinstance(tried(merged_alone(policy, network, one), one), str):
            culprits.append(name)
    raise UserError(
        f"the collapsed {type(smaller).__name__} {found}: leave what that concerns whole with "
        f"ignore={culprits or list(merged)}"
    )


def merged_alone(policy: nn.Module, network: Network, merged: Mapping[str, Merge]) -> nn.Module:
    """The policy with these spaces merged and no others."""
    tensors = dict([*policy.named_parameters(), *policy.named_buffers()])
    widths = {name: int(merge.labels.max()) + 1 for name, merge in merged.items()}
    return rebuild(policy, network, quotient.collapse(tensors, network.table, merged), widths)
