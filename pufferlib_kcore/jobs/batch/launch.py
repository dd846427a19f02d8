"""Launch: many commands, some at a time, on this machine, on a Ray cluster or through Slurm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from queue import SimpleQueue

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch import clusters, local
from pufferlib_kcore.jobs.batch.local import Call, Command, Outcome
from pufferlib_kcore.jobs.installed import is_installed

LAUNCHERS = ("local", "ray", "slurm")


def run_all(
    launcher: str,
    jobs: int,
    slurm: Mapping[str, str],
    commands: Sequence[Command],
    remember: Callable[[Command, Outcome], None],
) -> Iterator[tuple[Command, Outcome]]:
    """Run commands, at most `jobs` at once; each with its outcome as it ends. The cores are shared out.

    launcher  "local"; "ray": the cluster at RAY_ADDRESS, else one started here; "slurm": through submitit,
              where sbatch is here, or with {"cluster": "local"} as processes of this machine
    slurm     more of submitit's parameters, such as {"slurm_partition": "short"}
    remember  called with each outcome as it comes, also when this process was asked to stop
    Raises UserError where the launcher's package or program is missing.
    """
    if not commands:
        return
    from pufferlib_kcore.environments.cores import available_cores

    shares = share_out(jobs)
    with _caller(launcher, max(1, available_cores() // jobs), commands, slurm) as call:
        one = _on_free_cores(call, shares, remember)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(one, command): command for command in commands}
            try:
                for future in as_completed(futures):
                    if not future.cancelled():
                        yield futures[future], future.result()
            except BaseException:  # interrupted: those that wait never start, those that run save and end
                pool.shutdown(wait=False, cancel_futures=True)
                local.stop()
                raise  # the pool waits for those on its way out


def _on_free_cores(
    call: Call, shares: Sequence[list[int]], remember: Callable[[Command, Outcome], None]
) -> Callable[[Command], Outcome]:
    """What runs one command on the first share of the cores that is free, and remembers its outcome."""
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

    return one


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


# --- where it runs ------------------------------------------------------------------------------


@contextmanager
def _caller(
    launcher: str, cores: int, commands: Sequence[Command], slurm: Mapping[str, str]
) -> Iterator[Call]:
    if launcher == "ray":
        with clusters.on_ray(cores) as call:
            yield call
    elif launcher == "slurm":
        yield clusters.through_slurm(cores, commands[0].log.parent / "submitit", slurm)
    else:
        yield local.execute


def check_launcher(launcher: str, slurm: Mapping[str, str]) -> None:
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
    parameters = clusters.typed_parameters(slurm)
    if parameters.get("cluster", "slurm") == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "--launcher slurm needs Slurm, and there is no sbatch on PATH: go to a login node, or leave it "
            "out to run here"
        )
