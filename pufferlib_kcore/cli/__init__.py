"""Command line: wires the rooms together, computes nothing."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Sequence

from pufferlib_kcore import program, settings
from pufferlib_kcore.errors import RunFailed, UserError

MODULES = {  # each mode's function is `run` in its module, imported when it is asked for
    "train": "train",
    "collapse": "collapse",
    "eval": "evaluate",
    "export": "export",
    "fibers": "fibers",
    "report": "report",
    "diagnose": "diagnose",
    "fork": "fork",
    "connectivity": "connectivity",
    "autotune": "autotune",
    "profile": "profile",
}


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what a system says where nothing more can be written
NO_MEMORY = "allocate memory|out of memory"  # what torch says
UNUSABLE = {errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}

PATIENCE = 10.0  # seconds for torchrun's first process to find the same mistake


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    -> 0, 2 for a user's mistake (one sentence on stderr), 1 for a failed run, 130 and 143 for one that was
    stopped by Ctrl-C and SIGTERM
    """
    try:
        return answered(program.NAME, lambda: run(argv), "free space, then go on with --resume")
    except KeyboardInterrupt:
        print(f"{program.NAME}: interrupted", file=sys.stderr)
        return 130


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command.  -> its exit status.  Raises UserError for a user's mistake."""
    from pufferlib_kcore.cli import board

    words = board.asked(sys.argv[1:] if argv is None else argv)
    if words is not None:  # which takes no settings
        return board.run(words)
    from pufferlib_kcore.cli.found import stored_plain

    args = settings.load(argv, stored_plain)
    if args.mode != "train" and "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"--mode {args.mode} runs in one process: start it without torchrun")
    module = importlib.import_module(f"pufferlib_kcore.cli.{MODULES[args.mode]}")
    return module.run(args) or 0


def answered(program: str, run: Callable[[], int], cure: str) -> int:
    """What run returns; 2 for a user's mistake, 1 for a failed run, a full disk or memory, in one sentence.

    cure  what to do about a full disk
    """
    try:
        return run()
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":  # torchrun's first process says it, which ends this one:
            time.sleep(PATIENCE)  # whichever exits first, torchrun ends the others at once
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away, as in `| head`
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno in FULL:
            print(f"{program}: {error.strerror}: {cure}", file=sys.stderr)
            return 1
        if error.errno not in UNUSABLE or error.filename is None:
            raise
        name = str(error.filename)
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        print(f"{program}: cannot use {shown!r}: {error.strerror}; name another place", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(NO_MEMORY, str(error)):
            raise
        print(
            f"{program}: not enough memory: take a smaller policy, batch or number of envs", file=sys.stderr
        )
        return 1
