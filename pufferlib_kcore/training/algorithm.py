"""Algorithm: what learns in a training loop, and what the loop shares with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from pufferlib_kcore.environments import seeds
from pufferlib_kcore.registry import Registry
from pufferlib_kcore.training.clock import Clock
from pufferlib_kcore.training.parallel import ALONE, Group
from pufferlib_kcore.training.rollout import Episodes


@dataclass(frozen=True)
class Tools:
    """What a loop and its algorithm share.

    generator: draws actions and minibatches; its state is saved with the run, and of the processes that train
    together each has its own stream.
    """

    seed: int
    together: Group = ALONE
    clock: Clock = field(default_factory=Clock)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def seed_generator(self, agent_steps: int) -> None:
        """Begin the generator's stream: the run's own where this process leads, else another from here on."""
        place = (self.seed, agent_steps, self.together.rank)
        own = self.seed if self.together.leads else seeds.generator(place).initial_seed()
        self.generator.manual_seed(own)


class Collected(NamedTuple):
    """What an algorithm gathered in one epoch."""

    rollout: Any  # what its update learns from; PPO's is a `rollout.Experience`
    episodes: Episodes  # that ended meanwhile
    steps: int  # that were taken by this process, over all of its environments


class Algorithm(Protocol):
    """Collects and updates by turns: one turn is an epoch, as long as the algorithm makes it.

    modules: all that is learned, and copies of it; "policy" is what model files hold, what is collapsed, and
    what companions see. optimizers: "policy" is that of the policy, which a collapse carries along. The loop
    saves and restores them all, watches that they stay finite, and keeps them the same in all processes.

    `state_dict` is whatever else the algorithm must go on with (a replay buffer, a count, a temperature), in
    plain tensors and plain data. The environments' own state is not kept: a run that goes on plays new
    episodes, so `collect` must not rely on what it saw before.
    """

    name: str  # by which it is registered
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    def collect(self, stop: Callable[[], bool]) -> Collected:
        """Act in the environments.  stop: asked between steps; raises Interrupted when it says so."""

    def update(self, rollout: Any, left: float) -> dict[str, float]:
        """Learn from what was collected.  left: the part of all steps that was still to take before them

        -> metrics by name, "losses/.." and what else there is to say.  Raises Diverged.
        """

    def changed(self) -> None:
        """Somebody else has set numbers in modules or optimizers in place: renew what was made of them."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


# Each is called with policy, environments, the [train] settings and Tools, and settings of its own.
algorithms: Registry[Callable[..., Algorithm]] = Registry(
    "algorithm", given=("policy", "vec", "train", "tools")
)
