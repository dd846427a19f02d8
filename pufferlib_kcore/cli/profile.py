"""Profile: train for a short while in a scratch folder and say where the time goes, in parts that add up."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import torch
from torch import nn

from pufferlib_kcore.cli import world as worlds
from pufferlib_kcore.policies import build
from pufferlib_kcore.settings import Args, Settings
from pufferlib_kcore.store import Facts, runs
from pufferlib_kcore.training.loop import Trainer

EPOCHS = 3  # measured, after one that warms up

MEANING = {
    "env": "waiting for environments",
    "eval_forward": "policy on observations, actions drawn",
    "eval_misc": "copies into the rollout",
    "train_misc": "advantages, minibatches gathered",
    "train_forward": "policy and loss on minibatches",
    "learn": "backward pass and optimizer",
}


def run(args: Args) -> int:
    """--mode profile"""
    seconds, wall, steps, header = measure(args.settings, args.vec)
    print(header)
    print(table(seconds, wall, steps))
    return 0


def measure(
    settings: Settings,
    backend: str,
    epochs: int = EPOCHS,
    make: Callable[[worlds.World], nn.Module] | None = None,
) -> tuple[dict[str, float], float, int, str]:
    """Train `epochs` epochs after a warm-up.  -> seconds by name, wall seconds, steps, and a header

    make: the policy to train in that world; None: a fresh one, as the settings say
    """
    world = worlds.open_world(settings, backend)
    try:
        torch.manual_seed(settings.train.seed)
        policy = make(world) if make else build(world.spec(settings))
        policy = policy.to(worlds.device(settings.train.device))
        with tempfile.TemporaryDirectory() as folder:
            run = runs.Run.create(folder, "profile")
            threads = worlds.threads(settings, world, policy)
            t, facts = settings.train, Facts(policy=world.spec(settings))
            trainer = Trainer(policy, world.vec, run, t, t.seed, facts, threads=threads)
            world.vec.reset(t.seed)
            trainer.update(trainer.rollout()[0])
            trainer.clock.seconds.clear()
            start = time.perf_counter()
            for _ in range(epochs):
                trainer.update(trainer.rollout()[0])
            wall = time.perf_counter() - start
    finally:
        world.vec.close()
    header = f"{world.plan.text}\nvec={backend} threads={threads} precision={trainer.precision}"
    return dict(trainer.clock.seconds), wall, epochs * settings.train.batch_size, header


def table(seconds: dict[str, float], wall: float, steps: int) -> str:
    """Each part's seconds, share and microseconds a step; the rest is named, so that the parts add up."""
    rows = [(name, seconds.get(name, 0.0), what) for name, what in MEANING.items()]
    rows.append(("other", wall - sum(s for _, s, _ in rows), "everything else"))
    rows.append(("total", wall, f"{steps / wall:,.0f} steps/s"))
    lines = [f"{'part':<14}{'seconds':>9}{'share':>8}{'us/step':>9}  what"]
    for name, s, what in rows:
        lines.append(f"{name:<14}{s:>9.2f}{100 * s / wall:>7.1f}%{1e6 * s / steps:>9.0f}  {what}")
    return "\n".join(lines)
