"""Atomic writes: a file's name appears only once its whole content is on the disk."""

import os
import secrets
from pathlib import Path

from pufferlib_kcore.errors import UserError

SUFFIX = ".tmp"  # temporary files are '.<name>.<random>.tmp', beside the file they become


def write(path: str | Path, data: bytes | memoryview) -> Path:
    """Write data under path: temporary name, flush to disk, rename, flush the folder.

    A process killed at any moment leaves the old file or the new one, never a part.
    Raises UserError where the system refuses (disk full, no permission, no such folder).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {reason}; free space there or choose a folder that is writable"
        ) from error
    return path


def sweep(folder: str | Path) -> None:
    """Remove temporary files that killed processes left in folder; call it where nobody else writes."""
    for temporary in Path(folder).glob(f".*{SUFFIX}"):
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
