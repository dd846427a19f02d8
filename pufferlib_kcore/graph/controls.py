"""Controls: policies of the same widths as a collapse that owe nothing to it, to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.quotient import PICK, Map, Merge, MergeTensors, Tensors, picked, wide
from pufferlib_kcore.graph.colorings import Coloring
from pufferlib_kcore.graph.merging import Collapse
from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.graph.traced import Traced, traced_of


def ablate(
    policy: nn.Module | Traced,
    example_inputs: Any = None,
    widths: Mapping[str, int] = {},
    *,
    by: str = "random",
    generator: torch.Generator | None = None,
    **how: Any,
) -> Collapse:
    """Keep so many units of each space as they are, and drop the others.

    policy, example_inputs, how  as `trace` has them; or a Traced alone
    widths  space -> units to keep, such as `Collapse.widths`; spaces that are not named stay whole
    by      "random", or "l1": those whose rows have the largest sum of absolute weights (Li et al., 2017,
            "Pruning filters for efficient ConvNets")
    Raises UserError for widths that a space cannot have.
    """
    traced = traced_of(policy, example_inputs, how)
    return traced.merge(_kept(traced, widths, by, generator), maps=PICK)


def reinitialize(
    fresh: nn.Module | Traced,
    example_inputs: Any = None,
    widths: Mapping[str, int] = {},
    *,
    generator: torch.Generator | None = None,
    **how: Any,
) -> Collapse:
    """The same widths from scratch.

    fresh  an untrained policy of full size: random units of it are kept, and what reads n units, now k, is
           scaled by sqrt(n / k), so that inputs to every unit vary as they do in `fresh`
    """
    traced = traced_of(fresh, example_inputs, how)
    maps: dict[str, Map] = {"out": picked, "in": _scaled}
    return traced.merge(_kept(traced, widths, "random", generator), maps=maps)


def _scaled(x: Tensor, merge: MergeTensors) -> Tensor:
    few = picked(x, merge)
    return few * (x.shape[1] / few.shape[1]) ** 0.5


def _kept(traced: Traced, widths: Mapping[str, int], by: str, generator: torch.Generator | None) -> Coloring:
    """One neuron for each unit that is kept; the others, which nobody reads, belong to the first."""
    network, tensors = traced.network, traced.tensors()
    _check_widths(network, widths)
    units = {space.name: space.units for space in network.spaces}
    chosen = {name: _units(tensors, network, name, width, by, generator) for name, width in widths.items()}
    return Coloring.of(network, {name: _only(kept, units[name]) for name, kept in chosen.items()})


def _only(kept: np.ndarray, units: int) -> Merge:
    labels = np.zeros(units, np.int64)
    labels[kept] = np.arange(len(kept))
    return Merge.onto(labels, kept)


def _check_widths(network: Network, widths: Mapping[str, int]) -> None:
    """Layers of one recurrent module are equally wide."""
    for layers in network.same_width:
        wanted = [widths.get(name, network[name].units) for name in layers]
        if len(set(wanted)) > 1:
            raise UserError(
                f"{', '.join(layers)} are layers of one module, which has one width, not {wanted}: "
                "give them all the same"
            )


def _units(
    tensors: Tensors, network: Network, name: str, width: int, by: str, generator: torch.Generator | None
) -> np.ndarray:
    found = [space for space in network.spaces if space.name == name]
    if not found:
        raise UserError(
            f"widths name '{name}', which is no space: {[space.name for space in network.spaces]}"
        )
    units = found[0].units
    if not 0 < width <= units or found[0].whole and width < units:
        raise UserError(
            f"{name} cannot have {width} of its {units} units"
            + (f": {found[0].whole}" if found[0].whole else "")
        )
    if by == "random":
        order = torch.randperm(units, generator=generator).numpy()
    elif by == "l1":
        order = np.argsort(-_row_sums(tensors, network, name, units), kind="stable")
    else:
        raise UserError(f"by={by!r}: expected 'random' or 'l1'")
    return np.sort(order[:width])


def _row_sums(tensors: Tensors, network: Network, name: str, units: int) -> np.ndarray:
    """The L1 norm of all that writes each unit.  -> (units,)"""
    sums = torch.zeros(units, dtype=torch.float64)
    for parameter, axes in network.table.items():
        x = tensors[parameter]
        for dim, axis in enumerate(axes if isinstance(x, nn.Parameter) else ()):
            parts = wide(x).abs().movedim(dim, 0).reshape(x.shape[dim], -1).sum(1).cpu()
            for segment, part in zip(axis, parts.split([s.length for s in axis]), strict=True):
                if segment.space == name and segment.role == "out":
                    sums += part.reshape(segment.outer, units, segment.inner).sum((0, 2))
    return sums.numpy()
