"""Failures induced on purpose, with controls: python -m experiments.stress_tests --help"""

import sys

from pufferlib_kcore.cli.failure_lab import stress_tests
from pufferlib_kcore.cli.forking import program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.stress_tests", stress_tests))
