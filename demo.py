"""Train, collapse, resume and compare policies: python demo.py --help"""

import sys

from pufferlib_kcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
