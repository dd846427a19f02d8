"""Ray's cluster: joined where there is one, else started on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pufferlib_kcore
from pufferlib_kcore.environments.cores import available_cores
from pufferlib_kcore.errors import UserError

KNOCK = 5.0  # seconds that a cluster gets to answer at its address

_joined = False  # whether Ray was initialized here: it holds one cluster a process


def connect() -> int:
    """Join the cluster at RAY_ADDRESS, else start Ray here.  -> its CPUs, at least 1

    Where Ray is initialized already, that is taken. Raises UserError where nothing answers.
    """
    global _joined
    ray = package()
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        address = os.environ.get("RAY_ADDRESS", "local")
        with own_sigterm():
            if address == "local":
                ray.init(address, num_cpus=available_cores(), include_dashboard=False, **quiet)
            else:
                _join(ray, address, quiet)
        _joined = True
    return max(1, sum(cpus_of_nodes(ray)))


def disconnect() -> None:
    """Leave the cluster, if connect joined it. May be called again."""
    global _joined
    if _joined:
        package().shutdown()
        _joined = False


def cpus_of_nodes(ray: Any) -> list[int]:
    """Of each node that is alive."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def package() -> Any:
    """Ray itself.  Raises UserError"""
    # Ray prints what befalls its nodes on our output, unless told so before it is first imported
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    try:
        import ray
    except ImportError:
        raise UserError('--vec ray needs Ray, which is not installed: pip install "ray"') from None
    return ray


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, to save and end: Ray would exit at once."""
    held = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if held is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, held)


def _join(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    """Connect to a cluster; its nodes get this package, which they may not share.  Raises UserError"""
    cure = "start one with `ray start --head`, or unset RAY_ADDRESS to use this machine alone"
    host = re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address)
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host[1], int(host[2])), KNOCK).close()
        source = str(Path(pufferlib_kcore.__file__).parent)
        runtime = {"py_modules": [source], "excludes": ["__pycache__"]}
        ray.init(address, runtime_env=runtime, **quiet)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address} ({said}): {cure}") from None
