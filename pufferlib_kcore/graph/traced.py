"""Traced: a policy and its network, made once, to be colored and merged as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.fibration.finite import finite_policy
from pufferlib_kcore.fibration.partition import split_to
from pufferlib_kcore.fibration.quotient import Map, Merge
from pufferlib_kcore.fibration.refinement import color_spaces
from pufferlib_kcore.fibration.selection import gather, ranked
from pufferlib_kcore.graph.calibration import Targets, readers_of, refit
from pufferlib_kcore.graph.colorings import COLORS, THRESHOLD, Coloring, common_widths, thresholds_by_space
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Example, Inputs, Outputs
from pufferlib_kcore.graph.merging import Collapse, check
from pufferlib_kcore.graph.nested import arguments, tensors_of
from pufferlib_kcore.graph.network import Network, network_of
from pufferlib_kcore.graph.rebuild import rebuild, width
from pufferlib_kcore.graph.report import make_report


def trace(
    policy: nn.Module,
    example_inputs: Any,
    *,
    method: str = "forward",
    value: str | int | None = None,
    ignore: Sequence[str] = (),
    outputs: Outputs = None,
) -> Traced:
    """Run a policy once, unedited, to find its spaces and who writes and reads them; nothing is done to it.

    example_inputs  positional arguments of `method`, such as (observations, None), or its one argument
    method          which of the policy's to call
    value           path of the value in the output ("1", "critic.value") where it is not the second of two
                    or three
    ignore          spaces or modules to leave whole
    outputs         function of what `method` returns: the tensors in it, where that is an object
    Raises UserError where the policy cannot be traced or an argument names nothing.

    The other functions of this package take a Traced in place of a policy, and then neither example inputs
    nor the keywords that stand here; or a policy with these, which they trace.
    """
    inputs = copy_of(arguments(example_inputs))
    return Traced(policy, network_of(policy, Example(inputs, method, value, tuple(ignore), outputs)))


def traced_of(policy: nn.Module | Traced, example_inputs: Any, how: Mapping[str, Any]) -> Traced:
    """A Traced as it is; a policy traced.  how: the keywords of `trace`

    Raises UserError for a Traced with example inputs or keywords beside it, a policy without example inputs.
    """
    if isinstance(policy, Traced):
        return _alone(policy, example_inputs, how)
    if example_inputs is None:
        raise UserError(f"{type(policy).__name__} is not traced: give example inputs to trace it on")
    return trace(policy, example_inputs, **how)


def traced_with(policy: nn.Module | Traced, network: Network | None, how: Mapping[str, Any]) -> Traced:
    """A Traced as it is; a policy and its network, called as that was traced but for what `how` says.

    Raises UserError for a Traced with more beside it, a policy without its network.
    """
    if isinstance(policy, Traced):
        return _alone(policy, network, how)
    if network is None:
        raise UserError(f"{type(policy).__name__} is not traced: give the network of its collapse")
    return Traced(policy, replace(network, example=replace(network.example, **how)))


def _alone(policy: Traced, beside: Any, how: Mapping[str, Any]) -> Traced:
    if beside is not None or how:
        more = "its example inputs or network" if beside is not None else ", ".join(how)
        raise UserError(f"{type(policy.policy).__name__} is traced: leave out {more}, or give the policy")
    return policy


@dataclass(frozen=True)
class Traced:
    """A policy, and its network, in which `example` is the call that was traced.

    It holds the policy, not its weights: what is asked of it finds them as they are by then.
    """

    policy: nn.Module
    network: Network

    @property
    def example(self) -> Example:
        """The arguments that it was traced on, and what `trace` was told of them."""
        return self.network.example

    def tensors(self) -> dict[str, Tensor]:
        """The policy's parameters and buffers.

        Raises UserError for NaN and infinity, and where the policy has been resized since it was traced.
        """
        tensors = tensors_of(self.policy)
        for name, axes in self.network.table.items():
            shape = tuple(width(axis, {}) for axis in axes)
            if name not in tensors or tensors[name].shape != shape:
                now = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is gone"
                raise UserError(f"{name} {now}, and had {shape} when it was traced: trace the policy anew")
        finite_policy(self.policy, self.network.table)
        return tensors

    def color(
        self,
        threshold: float | Mapping[str, float] = THRESHOLD,
        *,
        colors: str = "weights",
        published: bool = False,
        calibrate: Inputs = (),
        round_to: int = 1,
    ) -> Coloring:
        """Which neurons compute (nearly) the same, in as many fibers as modules can have; nothing is rebuilt,
        and the policy runs on inputs to calibrate on alone.

        threshold  cosine distance in [0, 2] for all, or {kind or space: distance}, where "default" stands
                   for what is not named (0.3). 0 merges only what is identical, to the rounding of its dtype;
                   what is above counts as 1e-6 at least; 2 merges whole spaces.
        colors     "weights"; "faithful", the same minding their size: where nothing but ReLUs and pools
                   stands between a space and its readers, scaled copies merge exactly, through gains,
                   elsewhere they are apart, and ReLUs that no input can wake go for free; or "activations": a
                   neuron joins a fiber where, on the inputs to calibrate on, its readers can make it up from
                   those kept, to the distance `threshold`
        published  the published recipe: five rounds on a recurrent layer, without its biases
        calibrate  recorded inputs for activations, tuples like example_inputs
        round_to   widths are multiples of this, as hardware may like, or all units
        Raises UserError for thresholds out of range, names that mean nothing, and NaN or infinity in weights
        or in what layers compute on the recorded inputs.
        """
        if colors not in COLORS or colors == "activations" and not calibrate:
            raise UserError(
                f"colors={colors!r}: expected {COLORS}, and for activations inputs to calibrate on"
            )
        network, calibrate = self.network, [arguments(one) for one in calibrate]
        thresholds = thresholds_by_space(threshold, network.spaces)
        by_weights = color_spaces(
            network.spaces, self.tensors(), network.table, thresholds, published, colors == "faithful"
        )
        counts = {name: int(merge.labels.max()) + 1 for name, merge in by_weights.items()}
        readers = readers_of(self.policy, network, calibrate) if colors == "activations" else {}
        order = {name: ranked(seen, thresholds[name]) for name, seen in readers.items()}
        widths, notes = common_widths(network, counts | {name: k for name, (_, k) in order.items()}, round_to)
        merges = {n: Merge.mean(split_to(m.labels, widths[n]), m.gain) for n, m in by_weights.items()}
        merges |= {name: gather(readers[name], units[: widths[name]]) for name, (units, _) in order.items()}
        return Coloring.of(network, merges, thresholds, notes)

    def merge(
        self, coloring: Coloring, *, calibrate: Inputs = (), maps: Mapping[str, Map] = quotient.COLLAPSE
    ) -> Collapse:
        """A policy of the same class, of the coloring's widths, checked; the original is untouched.

        calibrate  recorded inputs, tuples like example_inputs: what reads merged neurons is refitted by least
                   squares, so that on these inputs it computes what it did in the original
        maps       how parameters are carried: W_base = E^T diag(pick) W diag(gain) E, where E (n, k) gives
                   each neuron its fiber: the mean of what writes a fiber, the sum of what reads it
        Raises UserError where the coloring is another network's, where the policy's code does not run at
        these widths or computes something else, and for NaN or infinity.
        """
        network, widths = self.network, coloring.widths
        units = {space.name: space.units for space in network.spaces}
        if {name: len(merge.labels) for name, merge in coloring.merges.items()} != units:
            raise UserError(f"this coloring is not of {type(self.policy).__name__}, whose spaces are {units}")
        tensors = quotient.carry_all(tensors_of(self.policy), network.table, coloring.merging, maps)
        smaller = rebuild(self.policy, network, tensors, widths)
        cure = "merged weights are beyond its dtype, so collapse it in float32"
        finite_policy(smaller, network.table, cure)
        found = check(self.policy, smaller, network, coloring.merging)
        if calibrate and coloring.merging:
            calibrate = [arguments(one) for one in calibrate]
            refit(smaller, coloring.merging, Targets(self.policy, network, calibrate))
            finite_policy(smaller, network.table, cure)
        report = make_report(network, self.policy, smaller, widths, coloring.reasons, found.macs)
        return Collapse(coloring.merges, coloring.thresholds, coloring.reasons, smaller, report, network)
