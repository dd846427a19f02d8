"""--mode board: one page over all that lies on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.arguments import Parser
from pufferlib_kcore.settings.values import Bounds, read

ROOTS = ("experiments", "train_dir", "results")


def asked(argv: Sequence[str]) -> list[str] | None:
    """The other words of a command line that asks for the board; None of any other."""
    words, found, left = list(argv), False, []
    while words:
        word = words.pop(0)
        if word == "--mode=board" or (word == "--mode" and words[:1] == ["board"]):
            found, words = True, words[(word == "--mode") :]
        else:
            left.append(word)
    return left if found else None


def run(argv: Sequence[str]) -> int:
    """Serve it, or write it.  -> exit status"""
    from pufferlib_kcore.jobs.board import BoardRequest, cache_file, export, serve

    parser: Any = Parser(
        prog=f"{program.COMMAND} --mode board",
        allow_abbrev=False,
        description="A page over all runs, on this machine alone; reads files, changes none.",
    )
    add = parser.add_argument
    add("--port", default="8765", help="0: any that is free (default: 8765)")
    said = f"folders to show (default: {', '.join(ROOTS)}, where they are)"
    add("--root", nargs="+", metavar="DIR", default=[], help=said)
    add("--export", metavar="FILE", help="write one self-contained page instead")
    given = parser.parse_args(argv)
    roots = tuple(Path(root).absolute() for root in given.root or ROOTS)
    missing = next((root for root in roots if given.root and not root.is_dir()), None)
    if missing is not None:
        raise UserError(f"--root {missing}: there is no such folder")
    request = BoardRequest(
        roots=roots,
        port=Bounds(0, 65535).check(read(given.port, int, "--port", "8765"), "--port"),
        export=Path(given.export) if given.export else None,
        cache=cache_file(),
    )
    if request.export is not None:
        print(f"wrote {export(request)}")
        return 0
    serve(request, lambda address: print(f"{address}  (Ctrl-C ends it)", flush=True))
    return 0
