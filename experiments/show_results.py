"""Experiments that are there, as a table: python -m experiments.show_results --help"""

import sys

from pufferlib_kcore.cli.failure_lab import show_results
from pufferlib_kcore.cli.forking import program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.show_results", show_results))
