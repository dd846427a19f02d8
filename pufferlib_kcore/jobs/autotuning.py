"""Autotuning: measure training with several shares of the cores, and keep the fastest for this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from pufferlib_kcore import program
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs.profiling import ProfileRequest, profile
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.settings.layers import local_file
from pufferlib_kcore.store import atomic

EPOCH_STEPS = 4_096  # of each measurement, at most: enough to compare, short enough to wait for


@dataclass(frozen=True, kw_only=True)
class AutotuneRequest:
    """Which environment's training to measure, and where the answer goes."""

    settings: Settings
    vec: str  # where environments run
    config: str | None = None  # the folder of INI files; None: ./config


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The fastest of what was tried, as it stands in a file that every run of the environment reads."""

    speed: float  # steps/s
    choice: dict[str, Any]  # settings of [train]
    path: Path


def autotune(request: AutotuneRequest, tell: Callable[[str], None] = lambda line: None) -> Tuned:
    """Measure several shares of the cores and numbers of environments, and write the fastest down.

    tell: is given a line a measurement
    Raises UserError where no environment is named.
    """
    settings = request.settings
    if settings.base.env_name is None:
        raise UserError(f"autotune needs an environment: {program.COMMAND} --mode autotune --env beam_rider")

    def tried(choices: Iterable[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
        found = []
        for choice in choices:
            speed = profile(ProfileRequest(settings=short(settings, choice), vec=request.vec, epochs=1)).speed
            tell(f"{speed:8,.0f} steps/s  " + " ".join(f"{k}={v}" for k, v in choice.items()))
            found.append((speed, choice))
        return found

    first = tried(shares(settings, len(os.sched_getaffinity(0))))
    share = max(first, key=itemgetter(0))[1]
    speed, best = max(first + tried(env_counts(settings, share)), key=itemgetter(0))
    path = local_file(settings.base.env_name, request.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(f"{key} = {value}" for key, value in best.items())
    atomic.write(path, f"# found by --mode autotune: {speed:,.0f} steps/s\n[train]\n{body}\n".encode())
    return Tuned(speed=speed, choice=best, path=path)


def shares(settings: Settings, cores: int) -> Iterator[dict[str, Any]]:
    """Workers that divide the environments, one or two groups of them, threads as planned or all but one."""
    envs = settings.train.num_envs
    for workers in sorted({w for w in (1, cores // 2, cores - 1, cores) if w >= 1 and envs % w == 0}):
        for groups in (1, 2):
            if envs % groups or (groups == 2 and workers % 2):
                continue
            for threads in ("auto", max(1, cores - 1)):
                yield {
                    "num_envs": envs,
                    "num_workers": workers,
                    "env_batch_size": envs // groups,
                    "threads": threads,
                }


def env_counts(settings: Settings, share: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Half and twice the environments, at the same share of the cores, where the batch allows it."""
    t = settings.train
    groups = share["num_envs"] // share["env_batch_size"]
    for envs in (share["num_envs"] // 2, share["num_envs"] * 2):
        if (
            envs
            and envs % (share["num_workers"] * groups) == 0
            and t.batch_size % (envs * t.bptt_horizon) == 0
        ):
            yield {**share, "num_envs": envs, "env_batch_size": envs // groups}


def short(settings: Settings, choice: dict[str, Any]) -> Settings:
    """The settings with a choice in them, and a small epoch that still fits."""
    t = settings.train
    unit = choice["num_envs"] * t.bptt_horizon
    batch = t.batch_size
    while (
        batch % 2 == 0
        and (batch // 2) % unit == 0
        and (batch // 2) % t.minibatch_size == 0
        and batch > EPOCH_STEPS
    ):
        batch //= 2
    return replace(settings, train=replace(t, batch_size=batch, **choice))
