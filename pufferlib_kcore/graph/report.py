"""Reports: what became of each space, counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pufferlib_kcore.graph.network import Network
from pufferlib_kcore.text import aligned


@dataclass(frozen=True)
class Report:
    """A row for each space, with the parameters that write it; the totals count every parameter there is."""

    rows: list[dict[str, Any]]  # space, kind, units, fibers, params_before, params_after, reason
    params_before: int
    params_after: int
    macs_before: int | None  # multiply-accumulates of one call on the example inputs; None if not countable
    macs_after: int | None
    untouched: tuple[str, ...]  # parameters that the traced method does not use, left as they were
    notes: tuple[str, ...] = ()  # what else is to be said of the run that was followed

    def __str__(self) -> str:
        header = ["space", "kind", "units", "fibers", "params", "after", ""]
        kept = f"{self.params_after / max(self.params_before, 1):.1%} kept"
        total = ["all parameters", "", "", "", self.params_before, self.params_after, kept]
        text = aligned([header, *(row.values() for row in self.rows), total], right=range(2, 6))
        if self.macs_before is not None and self.macs_after is not None:
            kept = f"{self.macs_after / max(self.macs_before, 1):.1%} kept"
            text += f"\nMACs on the example inputs: {self.macs_before:,} -> {self.macs_after:,} ({kept})"
        if self.untouched:
            text += f"\nnot used by the traced method, left as they were: {', '.join(self.untouched)}"
        return "\n".join([text, *self.notes])


def make_report(
    network: Network,
    before: nn.Module,
    after: nn.Module,
    widths: Mapping[str, int],
    reasons: Mapping[str, str | None],
    macs_after: int | None,
) -> Report:
    """Count what a collapse did.  widths: space -> fibers;  macs_after: of the smaller policy's call"""
    old = {name: p.numel() for name, p in before.named_parameters()}
    new = {name: p.numel() for name, p in after.named_parameters()}
    rows: list[dict[str, Any]] = []
    for space in network.spaces:
        written = [n for n in old if space.name == written_space(network, n)]
        rows.append(
            {
                "space": space.name,
                "kind": space.kind,
                "units": space.units,
                "fibers": widths[space.name],
                "params_before": sum(old[n] for n in written),
                "params_after": sum(new[n] for n in written),
                "reason": reasons[space.name],
            }
        )
    macs = network.macs, macs_after
    return Report(rows, sum(old.values()), sum(new.values()), *macs, network.untouched, network.notes)


def written_space(network: Network, parameter: str) -> str | None:
    """The space that a parameter writes, the first if several."""
    axes = network.table.get(parameter, ())
    return next((s.space for axis in axes for s in axis if s.role == "out" and s.space), None)
