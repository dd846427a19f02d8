"""python -m pufferlib_kcore, and the command kcore: what demo.py is in a clone, from any folder."""

import sys

from pufferlib_kcore.cli import main
from pufferlib_kcore.jobs.worker import ignore_pynvml

ignore_pynvml()  # here, so that processes started from this program are quiet as well

if __name__ == "__main__":
    sys.exit(main())
