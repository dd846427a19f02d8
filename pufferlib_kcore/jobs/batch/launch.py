"""Launch: many commands, some at a time, on this machine, on a Ray cluster or through Slurm."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.layers import unknown
from pufferlib_kcore.settings.values import Bounds, read

LAUNCHERS = ("local", "ray", "slurm")
ROOT = Path(__file__).resolve().parents[3]
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Command:
    """A program to run, and the file that gets what it prints."""

    name: str
    argv: tuple[str, ...]
    log: Path
    folder: Path = field(default_factory=Path.cwd)  # where it runs


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int  # 0, an exit status, or the negative of the signal that ended it
    seconds: float = 0.0
    peak_bytes: int = 0  # of its largest process
    message: str = ""  # why there is no exit status
    node: str = ""  # the node of a Ray cluster that it ran on


Call = Callable[[Command, Sequence[int]], Outcome]  # the cores: those it may use here, empty for any


def execute(command: Command, cores: Sequence[int] = ()) -> Outcome:
    """Run a command to its end, on these cores; it is asked to stop should this process die."""
    started = time.monotonic()
    with open(command.log, "ab") as log:
        child = subprocess.Popen(
            command.argv,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=command.folder,
            preexec_fn=lambda: _settle(cores),
        )
        with _running(child):
            _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Outcome(child.returncode, time.monotonic() - started, usage.ru_maxrss * unit)


def run_all(
    commands: Sequence[Command],
    launcher: str,
    jobs: int,
    slurm: dict[str, str] | None = None,
    remember: Callable[[Command, Outcome], None] = lambda command, outcome: None,
) -> Iterator[tuple[Command, Outcome]]:
    """Run commands, at most `jobs` at once; each with its outcome as it ends. The cores are shared out.

    launcher  "local"; "ray": the cluster at RAY_ADDRESS, else one started here; "slurm": through submitit,
              where sbatch is here, or with {"cluster": "local"} as processes of this machine
    remember  called with each outcome as it comes, also when this process was asked to stop
    slurm     more of submitit's parameters, such as {"slurm_partition": "short"}
    Raises UserError where the launcher's package or program is missing.
    """
    if not commands:
        return
    from pufferlib_kcore.environments.cores import available_cores

    shares = share_out(jobs)
    with _caller(launcher, max(1, available_cores() // jobs), commands, slurm or {}) as call:
        free: SimpleQueue[list[int]] = SimpleQueue()
        for share in shares:
            free.put(share)

        def one(command: Command) -> Outcome:
            cores = free.get()
            try:
                outcome = call(command, cores)
                remember(command, outcome)
                return outcome
            except Exception as error:  # a node was lost, a submission refused: the others go on
                return Outcome(1, message=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            finally:
                free.put(cores)

        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(one, command): command for command in commands}
            try:
                for future in as_completed(futures):
                    if not future.cancelled():
                        yield futures[future], future.result()
            except BaseException:  # interrupted: those that wait never start, those that run save and end
                pool.shutdown(wait=False, cancel_futures=True)
                stop()
                raise  # the pool waits for those on its way out


def share_out(jobs: int, cores: Sequence[int] | None = None) -> list[list[int]]:
    """This machine's cores in so many shares, as even as may be; where there are fewer, shares overlap.

    >>> share_out(2, [0, 1, 2, 3, 4]), share_out(3, [0, 1])
    ([[0, 2, 4], [1, 3]], [[0], [1], [0]])
    """
    if cores is None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not cores:
        return [[] for _ in range(jobs)]
    return [list(cores[job::jobs]) or [cores[job % len(cores)]] for job in range(jobs)]


# --- what runs now ------------------------------------------------------------------------------

_children: set[subprocess.Popen] = set()
_lock = threading.Lock()


def stop() -> None:
    """Ask all that runs here to save and end."""
    with _lock:
        for child in _children:
            child.send_signal(signal.SIGTERM)


@contextmanager
def _running(child: subprocess.Popen) -> Iterator[None]:
    with _lock:
        _children.add(child)
    try:
        yield
    finally:
        with _lock:
            _children.discard(child)


def _settle(cores: Sequence[int]) -> None:
    """In the child: only these cores, and SIGTERM when the parent dies."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


# --- where it runs ------------------------------------------------------------------------------


@contextmanager
def _caller(launcher: str, cores: int, commands: Sequence[Command], slurm: dict[str, str]) -> Iterator[Call]:
    if launcher == "ray":
        with _ray(cores) as call:
            yield call
    elif launcher == "slurm":
        yield _submitit(cores, commands, slurm)
    else:
        yield execute


@contextmanager
def _ray(cores: int) -> Iterator[Call]:
    import ray

    from pufferlib_kcore.environments.cores import available_cores
    from pufferlib_kcore.environments.ray_cluster import own_sigterm

    started = not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        quiet["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT)}}  # a path that all nodes share
        address = os.environ.get("RAY_ADDRESS")
        if address is None:
            quiet |= {"include_dashboard": False, "num_cpus": available_cores()}
        with own_sigterm():
            ray.init(address=address, **quiet)
    largest = int(max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=1))

    def there(command: Command) -> Outcome:
        return replace(execute(command), node=ray.get_runtime_context().get_node_id())

    remote = ray.remote(num_cpus=min(cores, max(1, largest)), max_retries=0)(there)
    try:
        yield lambda command, _: ray.get(remote.remote(command))
    finally:
        if started:
            ray.shutdown()


def check_launcher(launcher: str, slurm: dict[str, str]) -> None:
    """Raise UserError where the launcher cannot run here, or is given what it does not take."""
    if launcher == "ray" and not is_installed("ray"):
        raise UserError('--launcher ray needs Ray, which is not installed: pip install "ray"')
    if launcher != "slurm":
        if slurm:
            raise UserError(
                f"--slurm is for --launcher slurm, and this is --launcher {launcher}: leave one of them out"
            )
        return
    if not is_installed("submitit"):
        raise UserError('--launcher slurm needs submitit, which is not installed: pip install "submitit"')
    parameters = typed_parameters(slurm)
    if parameters.get("cluster", "slurm") == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "--launcher slurm needs Slurm, and there is no sbatch on PATH: go to a login node, or leave it "
            "out to run here"
        )


def typed_parameters(slurm: dict[str, str]) -> dict[str, Any]:
    """submitit's parameters as it wants them.  Raises UserError for one that it does not know.

    >>> typed_parameters({"timeout_min": "60", "slurm_partition": "short"})
    {'timeout_min': 60, 'slurm_partition': 'short'}
    """
    import submitit

    ours = {"name": "kcore", "cpus_per_task": "this machine's cores, shared out by --jobs"}
    general = dict(submitit.AutoExecutor._typed_parameters())
    special = {f"slurm_{name}": object for name in submitit.SlurmExecutor._valid_parameters()}
    kinds = {"cluster": Literal["slurm", "local"], **general, **special}
    found = {}
    for name, text in slurm.items():
        if name in ours:
            raise UserError(f"--slurm {name} is the batch's to say ({ours[name]}): leave it out")
        if name not in kinds:
            known = [known for known in kinds if known not in ours]
            raise UserError(unknown(f"parameter {name!r} in --slurm", name, known))
        where, bounds = f"--slurm {name}", Bounds(0, above="gpu" not in name)
        found[name] = bounds.check(read(text, kinds[name], where), where)
    return found


def _submitit(cores: int, commands: Sequence[Command], slurm: dict[str, str]) -> Call:
    import submitit

    parameters = {"timeout_min": 1440, **typed_parameters(slurm)}
    cluster = parameters.pop("cluster", "slurm")
    executor = submitit.AutoExecutor(folder=commands[0].log.parent / "submitit", cluster=cluster)
    executor.update_parameters(cpus_per_task=cores, name="kcore", **parameters)
    submitting = threading.Lock()

    def call(command: Command, _: Sequence[int]) -> Outcome:
        with submitting:
            job = executor.submit(execute, command)
        return job.result()

    return call


def is_installed(module: str) -> bool:
    """Whether it can be imported; a folder of that name, such as W&B's own, does not count."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None
