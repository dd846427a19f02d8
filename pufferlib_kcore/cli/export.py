"""--mode export: a checkpoint as an ONNX file beside it."""

from __future__ import annotations

from pufferlib_kcore.cli.found import played_run
from pufferlib_kcore.jobs.evaluation import chosen
from pufferlib_kcore.policies.export import to_onnx
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print where the file is, and how near its outputs are to the policy's."""
    path, restored, _ = chosen(args, played_run(args))
    out = path.with_suffix(".onnx")
    apart = to_onnx(restored, out)
    print(f"wrote {out}; its outputs are within {apart:.1g} of the policy's")
    return 0
