"""The straight line between two policies' weights: python3 -m experiments.compare --help"""

import sys

from pufferlib_kcore.cli.forking import compare, program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.compare", compare))
