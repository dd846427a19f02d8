"""PPO as an algorithm of the training loop: a collector and a learner, and the learning rate's fall."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from pufferlib_kcore.training import layout, precision
from pufferlib_kcore.training.algorithm import Collected, Tools, algorithms
from pufferlib_kcore.training.ppo.learner import Learner
from pufferlib_kcore.training.rollout import Collector, Experience


@algorithms.register("ppo")
class PPO:
    """PPO on a policy of the LSTMWrapper kind, or feed-forward. One epoch is a rollout and passes over it.

    vec: a VecEnv, this process's part of the environments; train: the [train] settings. The policy is laid
    out for speed, and compiled where they say so.
    """

    name = "ppo"

    def __init__(self, policy: nn.Module, vec: Any, train: Any, tools: Tools):
        self.train, self.tools = train, tools
        device = next(policy.parameters()).device
        layout.channels_last(policy)
        if train.compile:
            layout.compile_policy(policy, train.compile_mode)
        self.precision = precision.resolve(train.precision, policy, device)
        autocast = precision.autocast(self.precision, device)
        optimizer = layout.make_optimizer(policy, train.learning_rate)
        self.modules: Mapping[str, nn.Module] = {"policy": policy}
        self.optimizers: Mapping[str, Optimizer] = {"policy": optimizer}
        bptt = train.bptt_horizon
        steps = tools.together.part(train.batch_size, "batch_size", bptt) // vec.num_envs  # settings fit them
        self.collector = Collector(vec, policy, steps, bptt, tools.generator, tools.clock, autocast)
        self.learner = Learner(policy, optimizer, train, tools, autocast)
        self.steps = steps * vec.num_envs  # of an epoch and this process

    def collect(self, stop: Callable[[], bool] = lambda: False) -> Collected:
        """See Collector.collect."""
        return Collected(*self.collector.collect(stop), self.steps)

    def update(self, rollout: Experience, left: float = 1.0) -> dict[str, float]:
        """See Learner.update.  The learning rate is that of the settings, times what is left to train."""
        lr = self.train.learning_rate * (left if self.train.anneal_lr else 1)
        for group in self.optimizers["policy"].param_groups:
            group["lr"] = lr
        losses = self.learner.update(rollout)
        return {**{f"losses/{name}": value for name, value in losses.items()}, "overview/learning_rate": lr}

    def changed(self) -> None:
        """Weights and moments are laid out again; nothing else is kept of them from epoch to epoch."""
        layout.channels_last(self.modules["policy"])
        layout.lay_out_moments(self.optimizers["policy"])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing beside policy, optimizer and generator."""
