"""Figures of an experiment's forks: python3 -m experiments.analyze --help"""

import sys

from pufferlib_kcore.cli.forking import analyze, program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.analyze", analyze))
