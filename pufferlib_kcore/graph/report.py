"""Reports: what became of each space, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pufferlib_kcore.graph.network import Network


@dataclass(frozen=True)
class Report:
    """One row for each space, with the parameters that write it; totals count every parameter of the policy."""

    rows: list[dict[str, Any]]  # space, kind, units, fibers, params_before, params_after, reason
    params_before: int
    params_after: int
    untouched: tuple[str, ...]  # parameters that the traced method does not use, left as they were

    def __str__(self) -> str:
        rows = [
            [r["space"], r["kind"], r["units"], r["fibers"], f"{r['params_before']:,}", f"{r['params_after']:,}",
             r["reason"] or ""]
            for r in self.rows
        ]  # fmt: skip
        kept = f"{self.params_after / max(self.params_before, 1):.1%} kept"
        rows.append(["all parameters", "", "", "", f"{self.params_before:,}", f"{self.params_after:,}", kept])
        lines = aligned([["space", "kind", "units", "fibers", "params", "after", ""], *rows], right=range(2, 6))
        if self.untouched:
            lines += f"\nnot used by the traced method, left as they were: {', '.join(self.untouched)}"
        return lines


def make_report(
    network: Network,
    before: nn.Module,
    after: nn.Module,
    widths: Mapping[str, int],
    reasons: Mapping[str, str | None],
) -> Report:
    """Count what a collapse did.  widths: space -> fibers"""
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
    return Report(rows, sum(old.values()), sum(new.values()), network.untouched)


def written_space(network: Network, parameter: str) -> str | None:
    """The space that a parameter writes, the first if several."""
    axes = network.table.get(parameter, ())
    return next((s.space for axis in axes for s in axis if s.role == "out" and s.space), None)


def aligned(rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """Rows of a table as lines of text, columns two blanks apart."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    return "\n".join(
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        .rstrip()
        for row in text
    )  # fmt: skip
