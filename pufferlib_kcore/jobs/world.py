"""World: the environments that a run's settings ask for, on the cores that there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pufferlib_kcore import environments
from pufferlib_kcore.environments import cores, ray_cluster, vector
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.jobs.stored import spec_of
from pufferlib_kcore.policies import space_to_plain
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.store import EnvFacts
from pufferlib_kcore.training import precision
from pufferlib_kcore.training.parallel import ALONE, Group

SMALL = 200_000  # parameters
PREPROCESSING = {  # of Atari's screens: what a checkpoint records, in words
    "pufferlib": "PufferLib's preprocessing, every second pixel",
    "ale": "ALE's own preprocessing, means of 2x2 pixels",
}


def described(settings: Settings) -> dict[str, Any]:
    """The policy that the settings name, for the spaces of an environment as they say, as plain data."""
    env = creator(settings)()
    try:
        return spec_of(settings, env.single_observation_space, env.single_action_space)
    finally:
        env.close()


def preprocessing(backend: str) -> str:
    """Which of PREPROCESSING the environments of a backend have."""
    return "ale" if backend == "ale" else "pufferlib"


def check_preprocessing(env: EnvFacts | None, backend: str, source: str | Path) -> None:
    """Raise UserError unless a checkpoint was trained on the preprocessing that --vec has."""
    trained = "pufferlib" if env is None else env.preprocessing
    here = preprocessing(backend)
    if trained != here:
        cure = "ale" if trained == "ale" else "multiprocessing"
        raise UserError(
            f"{source} was trained on {PREPROCESSING[trained]}, and --vec {backend} has "
            f"{PREPROCESSING[here]}: use --vec {cure}"
        )


@dataclass
class World:
    """Running environments, and how the cores were shared between them and torch."""

    vec: Any
    plan: Any
    backend: str

    def spec(self, settings: Settings) -> dict[str, Any]:
        """The policy that the settings name, for these spaces, as plain data."""
        return spec_of(settings, self.vec.single_observation_space, self.vec.single_action_space)

    def check(self, spec: dict[str, Any], source: str) -> None:
        """Raise UserError unless a stored policy sees and does what these environments show and take."""
        for name in ("observation_space", "action_space"):
            here = space_to_plain(getattr(self.vec, f"single_{name}"))
            if {**spec[name], "low": 0, "high": 0} != {**here, "low": 0, "high": 0}:
                raise UserError(
                    f"{source} was trained with the {name} {spec[name]}, the environment here has {here}"
                )


def env_name(settings: Settings) -> str:
    """The environment's name.  Raises UserError where neither the command line nor a stored run says it."""
    if settings.base.env_name is None:
        raise UserError("which environment? name it, as in --env beam_rider")
    return settings.base.env_name


def creator(settings: Settings, **more: Any):
    """A picklable function that makes one environment of the run."""
    return environments.make_creator(env_name(settings), settings.base.package, **{**settings.env, **more})


def open_world(settings: Settings, backend: str, together: Group = ALONE, envs: int | None = None) -> World:
    """Start so many environments, by default as many as the settings say; of a group's its part."""
    t = settings.train
    envs = together.part(envs or t.num_envs, "num_envs")
    own = None if together.size == 1 else max(1, cores.available_cores() // together.here)
    groups = None if t.env_batch_size is None else max(1, t.env_batch_size // together.size)
    elsewhere = None
    if backend == "ray":
        elsewhere = max(1, ray_cluster.connect() // together.size)
    plan = cores.share_cores(t.num_workers, envs, groups, own, elsewhere)
    vec = vector.make(creator(settings), backend, envs, plan.workers, plan.env_batch_size, t.seed)
    return World(vec, plan, backend)


def one_group(settings: Settings, backend: str, envs: int) -> Any:
    """So many environments in one group, to play in: ALE's with --vec ale, else in this process."""
    backend = "ale" if backend == "ale" else "serial"
    return vector.make(creator(settings), backend, envs, cores.available_cores(), None, settings.train.seed)


def threads(settings: Settings, world: World, policy: nn.Module) -> tuple[int, int]:
    """torch's threads in rollouts and in updates: the plan's, or one for a small policy."""
    if settings.train.threads != "auto":
        return settings.train.threads, settings.train.threads
    small = sum(p.numel() for p in policy.parameters()) < SMALL
    return (1, 1) if small else (world.plan.rollout_threads, world.plan.update_threads)


@contextmanager
def acting(
    settings: Settings, world: World, policy: nn.Module
) -> Iterator[tuple[nn.Module, Callable[[], Any]]]:
    """Within: torch's threads as in rollouts.  -> the policy as the trainer lays it out, its autocast"""
    before, on = torch.get_num_threads(), next(policy.parameters()).device
    laid_out: Any = copy_of(policy).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.set_num_threads(threads(settings, world, policy)[0])
    try:
        yield laid_out, precision.autocast(precision.resolve(settings.train.precision, policy, on), on)
    finally:
        torch.set_num_threads(before)


def device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; each of the processes that torchrun started takes its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--train.device {name} cannot be used here ({reason}): try --train.device cpu"
        ) from None
    return found
