"""Index: a line on every run below some folders, kept, so that only what changed is read again."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import MettaFolder, Run, atomic, runs_below
from pufferlib_kcore.store.forks import ForkFolder
from pufferlib_kcore.store.lab import LabFolder, lab_folders
from pufferlib_kcore.store.metrics import parse

VERSION = 1  # of what is kept
WATCHED = (
    "config.json",
    "metrics.jsonl",
    "findings.jsonl",
    "connectivity.json",
    "result.json",
    "protocol.yaml",
)
SMOOTH = 20  # a best return is that of a moving mean over so large a part of the run

Entry = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A folder that has a line in the index."""

    path: Path
    kind: str  # run, fork or lab
    parent: Path | None = None  # the run whose collapse it was resumed from
    collapse: str | None = None  # that collapse's folder's name
    layout: type[Run] = Run

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of its path: all that an address says of it."""
        return hashlib.sha256(str(self.path).encode()).hexdigest()[:12]

    def signature(self) -> list[Any]:
        """Changes whenever a file of it that counts does."""
        found: list[Any] = []
        for name in WATCHED:
            try:
                about = os.stat(self.path / name)
                found.append([name, about.st_mtime_ns, about.st_size])
            except OSError:
                continue
        return found


@dataclass
class Index:
    """The lines of all that lies below `roots`.

    cache: a file that keeps them from one time to the next; None, or one that cannot be written: they are
    read anew
    """

    roots: tuple[Path, ...]
    cache: Path | None = None
    found: dict[str, Found] = field(default_factory=dict)  # by id
    entries: dict[str, Entry] = field(default_factory=dict)  # by id
    known: dict[str, Any] = field(default_factory=dict)  # by id: signature and entry, of other roots, too

    def load(self) -> Index:
        """What was kept, unread: enough for a first look."""
        try:
            held = json.loads(self.cache.read_text()) if self.cache else {}
        except (OSError, ValueError):
            held = {}
        self.known = held.get("known", {}) if held.get("version") == VERSION else {}
        mine = [str(root) for root in self.roots]
        for id_, (_, entry) in self.known.items():
            if entry["root"] in mine and Path(entry["path"]).is_dir():
                self.entries[id_] = entry
        return self

    def refresh(self) -> bool:
        """Read what changed.  -> whether anything did"""
        running = locked_inodes()
        entries, found, fresh = {}, {}, False
        for root in self.roots:
            for one in below(root):
                id_, signature = one.id, one.signature()
                before = self.known.get(id_)
                if before is None or before[0] != signature:
                    before = [signature, {**entry_of(one), "id": id_, "root": str(root)}]
                    self.known[id_], fresh = before, True
                now = {**before[1], "running": is_locked(one.path, running)}
                entries[id_], found[id_] = now, one
        changed = entries != self.entries
        self.entries, self.found = entries, found
        if fresh:
            self._keep()
        return changed

    def _keep(self) -> None:
        if self.cache is None:
            return
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(self.cache, json.dumps({"version": VERSION, "known": self.known}).encode())
        except (OSError, UserError):
            self.cache = None


# --- what there is ------------------------------------------------------------------------------------


def below(root: Path) -> Iterator[Found]:
    """Runs of both layouts, forking experiments, and the failure lab's, by path."""
    if not root.is_dir():
        return
    for run in runs_below(root):
        inner = run.path / run.path.name / "checkpoints"
        layout: type[Run] = MettaFolder if inner.is_dir() else Run
        folder = run.path.parent
        nested = folder != root and folder.parent != root.parent
        parent = folder.parent if nested else None
        yield Found(
            run.path.absolute(), "run", parent and parent.absolute(), folder.name if nested else None, layout
        )
    for path in sorted(root.glob("*/*/*/seed_*/config.json")):
        yield Found(path.parent.absolute(), "fork")
    for lab in lab_folders(root):
        yield Found(lab.path.absolute(), "lab")


def entry_of(one: Found) -> Entry:
    """A line on it; what is damaged is told in `trouble`."""
    base: Entry = {
        "kind": one.kind,
        "name": one.path.name,
        "path": str(one.path),
        "parent": None if one.parent is None else Found(one.parent, "run").id,
        "collapse": one.collapse,
        "trouble": "",
    }
    try:
        return {**base, **READ[one.kind](one)}
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        return {**base, "trouble": str(error) or type(error).__name__}


def of_run(one: Found) -> Entry:
    run = one.layout(one.path)
    config, records = run.config(), run.metrics()
    settings = config.get("settings") or {}
    returns = np.array([number(r.get("episode_return")) for r in records], float)
    known = returns[np.isfinite(returns)]
    width = max(1, len(known) // SMOOTH)
    smooth = np.convolve(known, np.ones(width) / width, "valid") if len(known) else known
    last = records[-1] if records else {}
    collapse = config.get("collapse") or {}
    return {
        "env": run.env,
        "created": (config.get("run") or {}).get("created"),
        "seed": (settings.get("train") or {}).get("seed"),
        "group": group_of(config),
        "epochs": last.get("epoch"),
        "steps": last.get("agent_steps"),
        "asked": (settings.get("train") or {}).get("total_timesteps"),
        "last_return": plain(float(known[-max(1, len(known) // 10) :].mean())) if len(known) else None,
        "best_return": plain(float(smooth.max())) if len(smooth) else None,
        "params": collapse.get("params_after"),
        "params_before": collapse.get("params_before"),
        "threshold": collapse.get("tag"),
        "findings": [f.get("kind") for f in read_lines(run.findings_path)],
        "policy": (config.get("policy") or {}).get("name"),
    }


def of_fork(one: Found) -> Entry:
    folder = ForkFolder.open(one.path)
    settings = folder.config().get("settings", {})
    returns = [one["mean_reward"] for one in folder.evaluations()]
    return {
        "env": settings.get("env"),
        "seed": settings.get("seed"),
        "policy": settings.get("algo"),
        "steps": settings.get("total_steps"),
        "asked": settings.get("total_steps"),
        "last_return": plain(returns[-1]) if returns else None,
        "best_return": plain(max(returns)) if returns else None,
        "group": f"{settings.get('env')} {settings.get('algo')} {settings.get('fork_buffer_strategy')}",
        "findings": [],
    }


def of_lab(one: Found) -> Entry:
    folder = LabFolder(one.path)
    if not folder.result_path.is_file():
        return {"env": None, "findings": [], "group": one.path.name}
    result = folder.result()
    protocol, seeds = result["protocol"], result["seeds"]
    returns = [seed["true_return"] for seed in seeds]
    return {
        "env": protocol["env_type"],
        "policy": protocol["agent_type"],
        "seed": None,
        "group": protocol["name"],
        "created": result.get("time"),
        "last_return": plain(float(np.mean(returns))) if returns else None,
        "best_return": plain(float(np.max(returns))) if returns else None,
        "answer": result["answer"]["verdict"],
        "findings": sorted({f["kind"] for seed in seeds for f in seed["findings"]}),
    }


READ = {"run": of_run, "fork": of_fork, "lab": of_lab}


def group_of(config: Mapping[str, Any]) -> str:
    """The same of runs that differ in their seed alone."""
    settings = {
        section: {k: v for k, v in keys.items() if (section, k) != ("train", "seed")}
        for section, keys in (config.get("settings") or {}).items()
        if isinstance(keys, dict)
    }
    collapse = {k: v for k, v in (config.get("collapse") or {}).items() if k in ("tag", "epoch")}
    text = json.dumps([settings, collapse], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# --- small things --------------------------------------------------------------------------------------


def number(x: Any) -> float:
    return float(x) if isinstance(x, int | float) and not isinstance(x, bool) else math.nan


def plain(x: Any) -> float | None:
    """As JSON holds it: no NaN, no infinity."""
    value = number(x)
    return value if math.isfinite(value) else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; those that are cut short are left out."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return [record for record in map(parse, lines) if record is not None]


def locked_inodes() -> set[int]:
    """Of the files that some process holds locked, as Linux tells; empty where nothing tells."""
    try:
        rows = Path("/proc/locks").read_text().splitlines()
        return {int(row.split()[5].split(":")[2]) for row in rows if "FLOCK" in row}
    except (OSError, ValueError, IndexError):
        return set()


def is_locked(folder: Path, inodes: Iterable[int]) -> bool:
    """Whether somebody works in a folder; asked of the system, so that nobody's lock is touched."""
    try:
        return os.stat(folder / ".lock").st_ino in inodes
    except OSError:
        return False
