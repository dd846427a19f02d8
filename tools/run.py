#!/usr/bin/env python3
"""Metta's command line: tools/run.py experiments.recipes.pong.train --args run=NAME --overrides key=value"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"

if importlib.util.find_spec("pufferlib") is None:  # a Python without it, such as the system's
    if not PYTHON.exists() or os.environ.get("VIRTUAL_ENV") == str(ROOT / ".venv"):
        sys.exit("run.py: PufferLib is not installed in this Python: make setup")
    os.execv(PYTHON, [str(PYTHON), *sys.argv])

sys.path.insert(0, str(ROOT))
from pufferlib_kcore.cli import recipes  # noqa: E402
from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(recipes.main())
