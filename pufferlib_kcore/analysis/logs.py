"""Logs: the records of a training run from whatever it left behind, one dict an epoch.

Three forms are read, line by line, with everything between them ignored: our plain lines (epoch=3 ...),
our metrics.jsonl, and the dashboard that PufferLib 2.0's own trainer prints when its output is redirected.
"""

import json
import math
import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError

Record = dict[str, Any]  # epoch, agent_steps, and what else was printed; None where nothing was measured

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PAIR = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)")  # values may hold spaces, as paths do

_SUMMARY = re.compile(r"(?<!\S)(Agent Steps|Epoch|SPS)\s{2,}(\d+(?:\.\d+)?)([kmbt]?)(?!\S)")
_STATISTIC = re.compile(r"(?<!\S)([A-Za-z_][\w/.-]*…?)\s+(-?(?:\d+\.\d{3}|inf)|nan)(?!\S)")
_UNIT = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_KNOWN = (  # what PufferLib prints, to complete names that a narrow dashboard cut
    "policy_loss value_loss entropy old_approx_kl approx_kl clipfrac explained_variance "
    "episode_return episode_length"
).split()


@dataclass(frozen=True)
class Log:
    """A run's records, by epoch, and what the first line of a plain log said of the run."""

    records: list[Record]
    header: dict[str, Any] = field(default_factory=dict)


def parse(path: str | Path) -> list[Record]:
    """The records in a log.  Raises UserError where the file is missing or holds none."""
    return read(path).records


def read(path: str | Path) -> Log:
    """The records and the header in a log.  Raises UserError where the file is missing or holds no record.

    Where a run was resumed from an earlier epoch, what it had logged after that epoch is superseded.
    """
    path = Path(path)
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a log.out or a run folder") from error
    log = read_text(text)
    if not log.records:
        what = "is empty" if not text.strip() else "holds no training record"
        raise UserError(
            f"{path} {what}, expected the output of a training: "
            f"`{program.COMMAND} --mode train --env ENV > log.out`, or a run's metrics.jsonl"
        )
    return log


def read_text(text: str) -> Log:
    """The records and the header in the text of a log; no records where there are none."""
    records: list[Record] = []
    header: dict[str, Any] = {}
    frames: list[Record] = []
    frame: list[str] | None = None
    for line in _ANSI.sub("", text).splitlines(keepends=True):
        whole, line = line.endswith("\n"), line.strip()
        if line.startswith("╭"):
            frame = []
        elif line.startswith("╰") and frame is not None:
            frames += _frame(frame)
            frame = None
        elif frame is not None:
            frame.append(line.strip("│").strip())
        elif line.startswith("{"):
            records += _json(line)
        elif line.startswith("epoch=") and whole:
            records += _plain(line)
        elif line.startswith("run=") and not header:
            header = {key: _value(text) for key, text in _PAIR.findall(line)}
    return Log(_in_order(records + _sharpen(frames)), header)


def _in_order(records: list[Record]) -> list[Record]:
    """Records by epoch: one that is not later than those before it takes their place."""
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1]["epoch"] >= record["epoch"]:
            kept.pop()
        kept.append(record)
    return kept


# --- plain lines and metrics.jsonl --------------------------------------------------------------


def _plain(line: str) -> list[Record]:
    return _complete({key: _value(text) for key, text in _PAIR.findall(line)})


def _json(line: str) -> list[Record]:
    try:
        record = json.loads(line)
    except ValueError:
        return []
    return _complete(record) if isinstance(record, dict) else []


def _complete(record: Record) -> list[Record]:
    """The record in a list; an empty list where it does not say when it was taken."""
    times = (record.get("epoch"), record.get("agent_steps"))
    return [record] if all(isinstance(time, int) for time in times) else []


def _value(text: str) -> Any:
    """The number that text is, None for nan and infinities, or else the text itself."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else None


# --- PufferLib's dashboard ----------------------------------------------------------------------


def _frame(lines: list[str]) -> list[Record]:
    """What one dashboard shows; epoch and agent_steps as (text, unit), as they were abbreviated."""
    record: Record = {}
    for line in lines:
        if line.startswith("Message:"):
            continue
        for name, number, unit in _SUMMARY.findall(line):
            record[{"Agent Steps": "agent_steps", "Epoch": "epoch"}.get(name, name)] = (number, unit)
        for name, number in _STATISTIC.findall(line):
            record[_whole_name(name)] = _value(number)
    if not {"epoch", "agent_steps"} <= record.keys() or record["epoch"] == ("0", ""):
        return []  # no dashboard, or the one that is shown before training
    if "SPS" in record:
        record["SPS"] = sum(_bounds(*record["SPS"])) / 2
    return [record]


def _whole_name(name: str) -> str:
    start = name.rstrip("…")
    known = [whole for whole in _KNOWN if name.endswith("…") and whole.startswith(start)]
    return known[0] if len(known) == 1 else start


def _bounds(number: str, unit: str) -> tuple[float, float]:
    """What an abbreviated number can stand for: '30.7', 'k' -> (30650, 30750)."""
    digits = len(number.partition(".")[2])
    size, half = _UNIT[unit], 0.5 * 10**-digits * _UNIT[unit]
    low = float(number) * size - half
    return max(low, size) if unit else low, float(number) * size + half  # below 1000 there is no 'k'


def _sharpen(frames: list[Record]) -> list[Record]:
    """Records from frames, with epochs and steps as exact as their abbreviations allow.

    Frames of one epoch are one record, the later values counting.  Frames whose epoch is abbreviated
    alike ('1.2k') are spread evenly over what it can stand for.  An epoch has a constant number of
    agent steps, where one number agrees with all that was printed; else they are taken as printed.
    """
    records, rates = [], []
    for (number, unit), group in groupby(frames, key=lambda frame: frame["epoch"]):
        same = list(group)
        if unit:
            low, high = _bounds(number, unit)
            width = (high - low) / len(same)
            records += [{**frame, "epoch": round(low + (i + 0.5) * width)} for i, frame in enumerate(same)]
        else:
            merged = {name: value for frame in same for name, value in frame.items()}
            records.append({**merged, "epoch": int(number)})
            rates.append([steps / int(number) for steps in _bounds(*merged["agent_steps"])])
    slowest = max((low for low, _ in rates), default=1.0)
    fastest = min((high for _, high in rates), default=0.0)
    for record in records:
        low, high = _bounds(*record["agent_steps"])
        steps = record["epoch"] * (slowest + fastest) / 2 if slowest <= fastest else (low + high) / 2
        record["agent_steps"] = round(min(max(steps, low), high))
    return records
