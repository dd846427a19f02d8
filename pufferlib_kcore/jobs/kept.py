"""Kept: a collapse that a run started from is never written over; another one of its name gets a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import CollapseSettings
from pufferlib_kcore.store import MettaFolder, ModelFile, Run, checkpoints
from pufferlib_kcore.store.runs import CollapseFolder

NAMED = ("epoch", "threshold", "linear", "cnn", "lstm", "critic", "max_kl", "target_params")  # by the folder


@dataclass(frozen=True)
class Place:
    """Where a collapse goes."""

    folder: CollapseFolder
    stands: bool  # the same collapse is there
    users: tuple[Run, ...]  # runs that started from it
    note: str = ""  # why it is not the plain folder


def recipe(settings: CollapseSettings, path: Path, recorded: dict[str, Any] | None) -> dict[str, Any]:
    """What makes the collapse of a checkpoint what it is.

    recorded  what decides on the states that are recorded for it, see `recording.made_with`
    """
    digest = checkpoints.digest(path)
    return {"settings": asdict(settings), "source": str(path), "digest": digest, "recorded": recorded}


def place(plain: CollapseFolder, path: Path, asked: dict[str, Any]) -> Place:
    """The folder of a collapse: the plain one, or the next number of it that no run started from.

    path  of the checkpoint;  asked  its recipe
    """
    note = ""
    for number in count(1):
        folder = plain.numbered(number)
        made = made_there(folder)
        users = tuple(users_of(folder, made))
        if made is not None and not (odd := difference(made, asked, folder, path)):
            return Place(folder, True, users, note)
        if not users:
            return Place(folder, False, (), note)
        why = odd if made is not None else "its policy cannot be read"
        note = note or f"{folder.path} is kept: {users[0].path} started from it ({why})"
    raise AssertionError("numbers do not end")


def made_there(folder: CollapseFolder) -> dict[str, Any] | None:
    """What the collapse in a folder says of itself; None where there is none that can be read."""
    try:
        return ModelFile.load(folder.model_path).collapse
    except UserError:
        return None


def users_of(folder: CollapseFolder, made: dict[str, Any] | None) -> list[Run]:
    """The runs that started from a collapse: those inside, and in Metta's layout those beside its run."""
    return [*folder.runs(), *(started_beside(folder, made) if made else ())]


def started_beside(folder: CollapseFolder, made: dict[str, Any]) -> Iterator[Run]:
    root, of = folder.source.path.parent, ("settings", "digest" if "digest" in made else "source")
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        run = MettaFolder(path)
        try:
            start = run.config().get("collapse") or {}
        except UserError:  # a damaged one; it says so to whoever names it
            continue
        same = all(start.get(key) == made.get(key) for key in of)
        if start and same and run.checkpoints():
            yield run


def difference(made: dict[str, Any], asked: dict[str, Any], folder: CollapseFolder, path: Path) -> str:
    """In what a collapse that stands on disk is another than the one that is asked for; '' in nothing."""
    changed = made.get("digest", asked["digest"]) != asked["digest"]
    if "digest" not in made:  # an older one, which says neither
        changed = folder.model_path.stat().st_mtime_ns < path.stat().st_mtime_ns
    if changed:
        return f"{path.name} has changed since"
    for key, value in asked["settings"].items():
        old = made.get("settings", {}).get(key, value)
        if key not in NAMED and old != value:
            return f"with {key} = {old}, here {value}"
    recorded, now = made.get("recorded"), asked["recorded"]
    if recorded and now and recorded != now:
        odd = next(key for key in [*recorded, *now] if recorded.get(key) != now.get(key))
        return f"on states recorded with {odd} = {recorded.get(odd)}, here {now.get(odd)}"
    return ""
