"""Program: what a user types to start this program, for sentences that say what to do."""

import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "demo.py"  # of a clone; not there in an installed package
WORDS: tuple[str, ...] = ("python", "demo.py")  # in a clone, which is where most are
if Path(sys.argv[0]).name == "kcore" or not DEMO.exists():
    WORDS = ("kcore",)  # the console command of an installed package
COMMAND = " ".join(WORDS)
NAME = WORDS[-1]
