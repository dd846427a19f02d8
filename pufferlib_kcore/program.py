"""Program: what a user types to start this program, for sentences that say what to do."""

import sys
from pathlib import Path

WORDS: tuple[str, ...] = ("python", "demo.py")  # in a clone, which is where most are
if Path(sys.argv[0]).name == "kcore" or not Path(__file__).resolve().parents[1].joinpath("demo.py").exists():
    WORDS = ("kcore",)  # the console command of an installed package
COMMAND = " ".join(WORDS)
NAME = WORDS[-1]
