"""Inspection: the spaces of a policy, before anything is done to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pufferlib_kcore.fibration.refinement import reads
from pufferlib_kcore.graph.report import written_space
from pufferlib_kcore.graph.traced import Traced, traced_of
from pufferlib_kcore.text import aligned


@dataclass(frozen=True)
class Spaces:
    """What `spaces` found; prints as a table."""

    rows: list[dict[str, Any]]  # space, kind, units, written_by, read_by, reason

    def __str__(self) -> str:
        header = ["space", "kind", "units", "written by", "read by", "left whole"]
        rows = [
            [", ".join(cell) if isinstance(cell, list) else cell or "" for cell in row.values()]
            for row in self.rows
        ]
        return aligned([header, *rows], right=[2])


def spaces(policy: nn.Module | Traced, example_inputs: Any = None, **how: Any) -> Spaces:
    """Every space of a policy: who writes it, who reads it, and why it cannot be merged, if so.

    Arguments and errors as those of `trace`; or a Traced alone.
    """
    network = traced_of(policy, example_inputs, how).network
    rows = [
        {
            "space": space.name,
            "kind": space.kind,
            "units": space.units,
            "written_by": [name for name in network.table if written_space(network, name) == space.name],
            "read_by": [name for name in network.table if space.name in reads([name], network.table)],
            "reason": space.whole,
        }
        for space in network.spaces
    ]
    return Spaces(rows)
