"""Train SAC or DDPG, fork it, walk the lines between the children: python3 -m experiments.run_env --help"""

import sys

from pufferlib_kcore.cli.forking import program, run_env
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(program("experiments.run_env", run_env))
