"""metrics.jsonl: one JSON object a line, appended as a run goes, read back though its writer was killed."""

import json
import math
import os
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import atomic


def append(path: str | Path, record: dict[str, Any]) -> None:
    """Append a record of numbers and text, NaN and infinities as null.  Raises UserError if it cannot."""
    line = json.dumps(plain(record), allow_nan=False).encode() + b"\n"
    try:
        with open(path, "ab+") as file:
            if file.tell() and _last_byte(file) != b"\n":  # a killed process left part of a line
                line = b"\n" + line
            file.write(line)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space there") from error


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records in path, without lines left unfinished; empty where there is no file."""
    path = Path(path)
    lines = path.read_text(errors="replace").split("\n") if path.is_file() else []
    records = [parse(line) for line in lines]
    return [record for record in records if record is not None]


def parse(line: str) -> dict[str, Any] | None:
    """The record that a line holds; None for every other text."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def truncate(path: str | Path, epoch: int) -> None:
    """Drop the records after epoch (0: all of them), as a run does that resumes from it."""
    kept = [record for record in read(path) if record.get("epoch", 0) <= epoch]
    atomic.write(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def plain(value: Any) -> Any:
    """The same in what JSON has; NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # a scalar of numpy or torch
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _last_byte(file) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)
