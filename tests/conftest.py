"""What every test starts from, whatever ran before it: one thread, no display, nothing sent, one seed."""

import os
import signal
from unittest import mock

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest  # noqa: E402
import torch  # noqa: E402

from pufferlib_kcore.graph.macs import MACS  # noqa: E402
from pufferlib_kcore.graph.operations import OPERATIONS  # noqa: E402


@pytest.fixture(autouse=True)
def leans_on_nothing():
    """A test finds torch's random numbers at one place; what all tests share is as it was after each."""
    torch.manual_seed(0)
    folder, precision, threads = os.getcwd(), torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.backends.cudnn.deterministic
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with mock.patch.dict(os.environ), mock.patch.dict(OPERATIONS), mock.patch.dict(MACS):
        yield
    os.chdir(folder)
    torch.set_default_dtype(precision)
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic
    for number, handler in handlers.items():
        signal.signal(number, handler)
