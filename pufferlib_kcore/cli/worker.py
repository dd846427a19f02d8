"""Worker: how a process starts that works beside others, before it imports anything large."""

from pufferlib_kcore.cli import ignore_pynvml


def start() -> None:
    """Without third parties' notices, and with one thread."""
    ignore_pynvml()
    import torch

    torch.set_num_threads(1)
