"""What kcore.sh runs: bash kcore.sh --help"""

import importlib.util
import sys

if importlib.util.find_spec("pufferlib") is None:
    sys.exit("kcore: PufferLib is not installed in this Python: make setup, or name another with PYTHON=..")

from pufferlib_kcore.cli.batch import main  # noqa: E402
from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

if __name__ == "__main__":
    sys.exit(main())
