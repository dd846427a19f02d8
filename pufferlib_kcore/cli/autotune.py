"""Autotune: measure training with several shares of the cores, and keep the fastest for this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pufferlib_kcore.cli import profile
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import Args, Settings
from pufferlib_kcore.settings.layers import local_file
from pufferlib_kcore.store import atomic

EPOCH_STEPS = 4_096  # of each measurement, at most: enough to compare, short enough to wait for


def run(args: Args) -> int:
    """--mode autotune"""
    settings = args.settings
    if settings.base.env_name is None:
        raise UserError("autotune needs an environment: python demo.py --mode autotune --env beam_rider")
    tried = [
        (measured(settings, args.vec, choice), choice)
        for choice in shares(settings, len(os.sched_getaffinity(0)))
    ]
    _, share = max(tried, key=lambda pair: pair[0])
    tried += [(measured(settings, args.vec, choice), choice) for choice in env_counts(settings, share)]
    speed, best = max(tried, key=lambda pair: pair[0])
    path = local_file(settings.base.env_name, args.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(f"{key} = {value}" for key, value in best.items())
    atomic.write(path, f"# found by --mode autotune: {speed:,.0f} steps/s\n[train]\n{body}\n".encode())
    print(f"fastest: {speed:,.0f} steps/s; wrote {path}, which every run of {settings.base.env_name} reads")
    return 0


def measured(settings: Settings, backend: str, choice: dict[str, Any]) -> float:
    """Steps/s of one epoch with a choice."""
    _, wall, steps, _ = profile.measure(short(settings, choice), backend, epochs=1)
    print(f"{steps / wall:8,.0f} steps/s  " + " ".join(f"{k}={v}" for k, v in choice.items()), flush=True)
    return steps / wall


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
