"""Recording: let a policy play its own environments, and keep the states that it meets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pufferlib_kcore.environments import seeds
from pufferlib_kcore.environments.contract import WorkerDied
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.jobs.progress import Watch, unwatched
from pufferlib_kcore.policies import noise_inputs
from pufferlib_kcore.policies.restore import Restored
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.record import record

ENVS = 16  # that states are recorded in, at once


@dataclass(frozen=True, kw_only=True)
class RecordRequest:
    """Whose states to record, where, and how many."""

    restored: Restored
    settings: Settings  # of its environments and its seed
    vec: str  # where environments run
    states: int  # to calibrate on; half of them to choose by, a quarter to measure on; 0: made-up ones
    source: str  # what the policy comes from, in a sentence about what is wrong


@dataclass(frozen=True)
class Recorded:
    """States of a policy: to calibrate on, to choose by, and to say how faithful a smaller one is."""

    calibrate: list[tuple]
    held_out: list[tuple]
    test: list[tuple]  # none where they are made up
    text: str
    by: dict[str, Any]  # what it was made with


def made_with(settings: Settings, vec: str) -> dict[str, Any]:
    """What decides on the states that are recorded."""
    return {
        "seed": settings.train.seed,
        "envs": ENVS,
        "env": dict(settings.env),
        "preprocessing": worlds.preprocessing(vec),
    }


def record_states(request: RecordRequest, watch: Watch = unwatched) -> Recorded:
    """Let a policy play its own environment; with no states asked for, make observations up.

    Raises UserError where it cannot play there.
    """
    settings = request.settings
    by = made_with(settings, request.vec)
    if not request.states:
        entropy = settings.train.seed, seeds.MADE_UP
        calibrate, held_out = (noise_inputs(request.restored.spec, seed=(*entropy, i)) for i in range(2))
        text = "fitted to made-up observations, measured on none of the environment's"
        return Recorded(calibrate, held_out, [], text, by)
    started = time.monotonic()
    calibrate, held_out, test = played(request, watch)
    seconds = time.monotonic() - started
    text = f"recorded {request.states:,} states to calibrate on, others to measure on, in {seconds:.0f} s"
    return Recorded(calibrate, held_out, test, text, by)


def played(request: RecordRequest, watch: Watch) -> list[list[tuple]]:
    """Three recordings of a policy in its environments, each from seeds of its own."""
    settings, states = request.settings, request.states
    counts = [max(count, ENVS) for count in (states, states // 2, states // 4)]
    total, seen = sum(counts), []
    vec = "multiprocessing" if request.vec == "ray" else request.vec
    world = worlds.open_world(settings, vec, envs=ENVS)
    try:
        world.check(request.restored.spec, request.source)
        with (
            worlds.acting(settings, world, request.restored.policy) as (policy, autocast),
            watch(f"recording {total:,} states in {ENVS} environments") as tell,
        ):
            for i, count in enumerate(counts):

                def on(part: float, done: int = sum(counts[:i]), count: int = count) -> None:
                    tell((done + part * count) / total)

                entropy = settings.train.seed, seeds.RECORDING, i
                seen.append(record(policy, world.vec, entropy, count, autocast, on))
    except (WorkerDied, Diverged) as error:
        raise UserError(f"{request.source} cannot play {settings.base.env_name}: {error}") from error
    finally:
        world.vec.close()
    return seen
