"""Provenance: on what machine, with which versions and from which commit a result came."""

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("pufferlib_kcore", "pufferlib", "torch", "numpy", "gymnasium", "ale-py")


def provenance(folder: str | Path | None = None) -> dict[str, Any]:
    """Plain data: {versions, git_commit, git_dirty, machine, time, packages}.

    folder: whose git repository is asked (default: the working directory).
    packages: the lines of `pip freeze`.
    """
    commit, dirty = git_commit(folder)
    return {
        "versions": versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "machine": machine(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "packages": packages(),
    }


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that a result depends on; None where one is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def git_commit(folder: str | Path | None = None) -> tuple[str | None, bool | None]:
    """The commit at folder, and whether tracked files differ from it; (None, None) outside of git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return commit, None if status is None else bool(status)


def machine() -> dict[str, Any]:
    """Name of the system and the CPU, and the number of cores that this process may use."""
    return {"platform": platform.platform(), "cpu": _cpu(), "cores": len(os.sched_getaffinity(0))}


def packages() -> list[str]:
    """Every installed distribution as 'name==version', sorted, like `pip freeze`."""
    found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    return sorted((f"{name}=={version}" for name, version in found.items()), key=str.lower)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: str | Path | None, *arguments: str) -> str | None:
    """What git prints, stripped; None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
