"""The failure lab in two minutes: python -m experiments.lab_demo --help"""

import sys

from pufferlib_kcore.cli.failure_lab import lab_demo
from pufferlib_kcore.cli.forking import program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.lab_demo", lab_demo))
