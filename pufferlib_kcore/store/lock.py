"""The lock of a folder: one process at a time, freed by the system when that process dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pufferlib_kcore.errors import UserError

_held: set[int] = set()  # descriptors of the locks that this process holds
_registered = False


@contextmanager
def locked(
    folder: str | Path, cure: str = "wait until it ends, or leave --exp-id out to start a new run"
) -> Iterator[None]:
    """Hold folder's lock.  Raises UserError naming the process that holds it already."""
    path = Path(folder) / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot lock {path}: {error.strerror}; choose a folder that is writable") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        holder = path.read_text().strip() or "another process"
        raise UserError(f"{folder} is in use by {holder}; {cure}") from error
    _held.add(descriptor)
    _free_in_children()
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()}".encode())
    try:
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _free_in_children() -> None:
    """See that forked children (env workers) do not keep a lock which their parent died with."""
    global _registered
    if not _registered:
        os.register_at_fork(after_in_child=_close_all)
        _registered = True


def _close_all() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
