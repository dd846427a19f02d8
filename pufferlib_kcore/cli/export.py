"""Export: a checkpoint as an ONNX file beside it."""

from __future__ import annotations

from pufferlib_kcore.cli.evaluate import chosen
from pufferlib_kcore.policies.export import to_onnx
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """--mode export"""
    path, restored, _ = chosen(args)
    out = path.with_suffix(".onnx")
    apart = to_onnx(restored, out)
    print(f"wrote {out}; its outputs are within {apart:.1g} of the policy's")
    return 0
