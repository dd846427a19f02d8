"""What kcore.sh runs: bash kcore.sh --help"""

import sys

from pufferlib_kcore.environments.quiet import ignore_pynvml

ignore_pynvml()

from pufferlib_kcore.cli.batch import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
