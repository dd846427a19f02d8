"""Small experiments end to end, in minutes: python3 -m experiments.check_run --help"""

import sys

from pufferlib_kcore.cli.forking import check_run, program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.check_run", check_run))
