"""Protocols from YAML files: python -m experiments.run_protocol --help"""

import sys

from pufferlib_kcore.cli.failure_lab import run_protocol
from pufferlib_kcore.cli.forking import program
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.run_protocol", run_protocol))
