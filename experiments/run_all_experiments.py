"""Every agent with every reward: python -m experiments.run_all_experiments --help"""

import sys

from pufferlib_kcore.cli.failure_lab import run_all_experiments
from pufferlib_kcore.cli.forking import program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.run_all_experiments", run_all_experiments))
