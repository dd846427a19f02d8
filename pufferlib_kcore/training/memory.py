"""Memory: what the allocator of C does with what tensors free."""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed() -> None:
    """Keep freed memory in the process, for the next minibatch: its tensors have the same sizes again.

    glibc gives large blocks back at once, and then the system zeroes every page of the next one, which takes
    as long as the arithmetic on it. Where malloc is another, nothing happens. See mallopt(3).
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
