"""Worker: how a process starts, also one that works beside others, before it imports anything large."""

import warnings


def ignore_pynvml() -> None:
    """Ignore pynvml's deprecation from now on: for a program to call before it first imports torch."""
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)


def start() -> None:
    """Without third parties' notices, and with one thread."""
    ignore_pynvml()
    import torch

    torch.set_num_threads(1)
