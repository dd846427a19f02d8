"""The report of experiments that are there: python -m experiments.generate_report --help"""

import sys

from pufferlib_kcore.cli.failure_lab import generate_report
from pufferlib_kcore.cli.forking import program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.generate_report", generate_report))
