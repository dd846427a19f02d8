"""Command line: wires the rooms together, computes nothing."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from pufferlib_kcore import settings
from pufferlib_kcore.errors import UserError

MODULES = {  # each mode's function is `run` in its module, imported when it is asked for
    "train": "train",
    "collapse": "collapse",
    "eval": "evaluate",
    "export": "export",
    "fibers": "fibers",
    "report": "report",
    "autotune": "autotune",
    "profile": "profile",
}


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what a system says where nothing more can be written


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.  -> 0, 2 for a user's mistake (one sentence on stderr), 1 for a failed run"""
    try:
        args = settings.load(argv)
        module = importlib.import_module(f"pufferlib_kcore.cli.{MODULES[args.mode]}")
        return module.run(args) or 0
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one says it
            print(f"demo.py: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output went away, as in `| head`
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"demo.py: {error.strerror}: free space, then go on with --resume", file=sys.stderr)
        return 1
