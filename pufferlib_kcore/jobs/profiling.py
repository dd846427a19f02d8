"""Profiling: train for a short while; where the time goes, in parts that add up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pufferlib_kcore.jobs import world as worlds
from pufferlib_kcore.policies import build
from pufferlib_kcore.settings import Settings
from pufferlib_kcore.store import Facts
from pufferlib_kcore.text import aligned
from pufferlib_kcore.training.algorithm import Tools
from pufferlib_kcore.training.loop import Loop
from pufferlib_kcore.training.ppo import PPO

EPOCHS = 3  # measured, after one that warms up

MEANING = {
    "env": "waiting for environments",
    "eval_forward": "policy on observations, actions drawn",
    "eval_misc": "copies into the rollout",
    "train_misc": "advantages, minibatches gathered",
    "train_forward": "policy and loss on minibatches",
    "learn": "backward pass and optimizer",
}


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """What to train for a short while."""

    settings: Settings
    vec: str  # where environments run
    epochs: int = EPOCHS
    make: Callable[[worlds.World], nn.Module] | None = None  # the policy; None: a fresh one, by the settings


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time went."""

    seconds: dict[str, float]  # by part, those of MEANING
    wall: float  # seconds of all parts and the rest
    steps: int
    header: str  # how the cores were shared

    @property
    def speed(self) -> float:
        """Steps a second."""
        return self.steps / self.wall

    def __str__(self) -> str:
        """Each part's seconds, share and microseconds a step; the rest is named: the parts add up."""
        rows = [(name, self.seconds.get(name, 0.0), what) for name, what in MEANING.items()]
        wall = self.wall
        rows.append(("other", wall - sum(s for _, s, _ in rows), "everything else"))
        rows.append(("total", wall, f"{self.speed:,.0f} steps/s"))
        lines = [
            [name, f"{s:.2f}", f"{s / wall:.1%}", f"{1e6 * s / self.steps:.0f}", what]
            for name, s, what in rows
        ]
        table = aligned([["part", "seconds", "share", "us/step", "what"], *lines], right=[1, 2, 3])
        return f"{self.header}\n{table}"


def profile(request: ProfileRequest) -> Profile:
    """Train so many epochs after one that warms up.  Raises UserError where there is no such environment."""
    settings, make = request.settings, request.make
    world = worlds.open_world(settings, request.vec)
    try:
        torch.manual_seed(settings.train.seed)
        policy = make(world) if make else build(world.spec(settings))
        policy = policy.to(worlds.device(settings.train.device))
        threads, tools = worlds.threads(settings, world, policy), Tools(settings.train.seed)
        t, facts = settings.train, Facts(policy=world.spec(settings))
        ppo = PPO(policy, world.vec, t, tools)
        loop = Loop(ppo, world.vec, None, t, tools, facts, threads=threads)
        world.vec.reset(t.seed)
        loop.update(loop.collect())
        tools.clock.seconds.clear()
        start = time.perf_counter()
        for _ in range(request.epochs):
            loop.update(loop.collect())
        wall = time.perf_counter() - start
    finally:
        world.vec.close()
    return Profile(
        seconds=dict(tools.clock.seconds),
        wall=wall,
        steps=request.epochs * settings.train.batch_size,
        header=f"{world.plan.text}\nvec={request.vec} threads={threads} precision={ppo.precision}",
    )
