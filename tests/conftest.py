"""What every test starts from, and must leave: one thread each, no display, nothing sent, torch's seed 0."""

import os
import signal

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest  # noqa: E402
import torch  # noqa: E402

from pufferlib_kcore.graph.macs import MACS  # noqa: E402
from pufferlib_kcore.graph.trace import RULES  # noqa: E402

BEGAN_WITH = {*os.environ, "RANK", "WORLD_SIZE"}  # libraries add others as they are imported


def shared():
    """What all tests of a process share, and one could lean on another by."""
    return {
        "the working directory": os.getcwd(),
        "environment variables": [os.environ.get(name) for name in BEGAN_WITH],
        "torch's precision": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "signals' handlers": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "rules": (dict(RULES), dict(MACS)),
    }


@pytest.fixture(autouse=True)
def leans_on_nothing():
    """A test finds torch's random numbers at one place, and leaves what all share as it was."""
    torch.manual_seed(0)
    before = shared()
    yield
    after = shared()
    assert {name: after[name] for name in before if before[name] != after[name]} == {}
