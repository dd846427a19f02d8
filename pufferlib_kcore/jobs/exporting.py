"""Exporting: a checkpoint as an ONNX file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pufferlib_kcore.jobs.source import Source
from pufferlib_kcore.policies.export import to_onnx


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An ONNX file, and how far its outputs are from the policy's, at most."""

    path: Path
    apart: float


def export(source: Source) -> Exported:
    """Write the newest checkpoint of a source.  Raises UserError where there is none."""
    found = source.newest()
    out = found.path.with_suffix(".onnx")
    return Exported(path=out, apart=to_onnx(found.restored, out))
