"""--mode export: a checkpoint as an ONNX file beside it."""

from __future__ import annotations

from pufferlib_kcore.cli.found import checkpoint_source
from pufferlib_kcore.jobs.exporting import export
from pufferlib_kcore.settings import Args


def run(args: Args) -> int:
    """Print where the file is, and how near its outputs are to the policy's."""
    done = export(checkpoint_source(args))
    print(f"wrote {done.path}; its outputs are within {done.apart:.1g} of the policy's")
    return 0
