"""Worker: nothing that gives notices is imported before a process is told to be quiet."""

import subprocess
import sys
import warnings

from pufferlib_kcore.jobs import worker


def test_what_starts_a_worker_imports_no_torch_by_itself():
    code = "import sys, pufferlib_kcore.jobs.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_worker_ignores_the_notice_and_takes_one_thread():
    import torch

    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            worker.start()
            warnings.warn("The pynvml package is deprecated. Install another", FutureWarning, stacklevel=1)
        assert said == [] and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
