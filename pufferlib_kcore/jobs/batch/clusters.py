"""Clusters: a command run to its end on a Ray cluster, or through Slurm by submitit."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.batch.local import ROOT, Call, Command, Outcome, execute
from pufferlib_kcore.settings.layers import unknown
from pufferlib_kcore.settings.values import Bounds, read


@contextmanager
def on_ray(cores: int) -> Iterator[Call]:
    """What runs a command on a node of the cluster, with so many of its cores."""
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


def through_slurm(cores: int, folder: Path, slurm: Mapping[str, str]) -> Call:
    """What submits a command and waits for it.  folder: of submitit's own files"""
    import submitit

    parameters = {"timeout_min": 1440, **typed_parameters(slurm)}
    cluster = parameters.pop("cluster", "slurm")
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(cpus_per_task=cores, name="kcore", **parameters)
    submitting = threading.Lock()

    def call(command: Command, _: Sequence[int]) -> Outcome:
        with submitting:
            job = executor.submit(execute, command)
        return job.result()

    return call


def typed_parameters(slurm: Mapping[str, str]) -> dict[str, Any]:
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
