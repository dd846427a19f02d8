"""Trainer: rollout, update, record, checkpoint; again, until the steps are done or somebody asks to stop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from pufferlib_kcore.policies.unvalidated import unvalidated
from pufferlib_kcore.store import Facts, ModelFile, StateFile, checkpoints
from pufferlib_kcore.training import memory, precision
from pufferlib_kcore.training.clock import Clock
from pufferlib_kcore.training.parallel import ALONE, Group, join_episodes
from pufferlib_kcore.training.ppo.learner import Learner, Objective
from pufferlib_kcore.training.rollout import Collector, Diverged, Episodes, Experience, Interrupted
from pufferlib_kcore.training.unroll import is_recurrent

Reporter = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Start:
    """Where a run begins: from nothing, from its own last checkpoint, or from a collapsed policy."""

    epoch: int = 0
    agent_steps: int = 0
    optimizer: dict[str, Any] | None = None  # a torch optimizer's state_dict; None starts cold
    rng: dict[str, Any] | None = None  # None seeds anew


@dataclass
class Trainer:
    """One training run.

    policy: an nn.Module of the LSTMWrapper kind or feed-forward; vec: a VecEnv; run: a store.Run;
    train: the [train] settings; facts: what every model checkpoint repeats (policy, env, versions, collapse);
    reporters: called with each epoch's record (a plain dict).
    """

    policy: nn.Module
    vec: Any
    run: Any
    train: Any
    seed: int
    facts: Facts
    start: Start = field(default_factory=Start)
    reporters: Iterable[Reporter] = ()
    collapse_epochs: tuple[int, ...] = (50,)
    together: Group = ALONE  # vec is this process's part of the environments
    threads: tuple[int, int] | None = None  # torch's, in rollouts and in updates; None: as they are

    def __post_init__(self) -> None:
        t = self.train
        memory.keep_freed()
        self.masks = checkpoints.masks_of(self.policy)
        self.steps = (
            self.together.part(t.batch_size, "batch_size", t.bptt_horizon) // self.vec.num_envs
        )  # of each environment and epoch; the settings see that it fits
        self.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
        if t.compile:
            compile_policy(self.policy, t.compile_mode)
        device = next(self.policy.parameters()).device
        self.precision = precision.resolve(t.precision, self.policy, device)
        autocast = precision.autocast(self.precision, device)
        self.clock, self.generator = Clock(), torch.Generator().manual_seed(self.seed)
        self.together.same_weights(self.policy)
        self.optimizer = make_optimizer(self.policy, t.learning_rate)
        if self.start.optimizer is not None:
            load_optimizer(self.optimizer, self.start.optimizer)
        if self.start.rng is not None:
            set_rng(self.start.rng, self.generator)
        if not self.together.leads:  # each draws other actions and minibatches
            self.generator.manual_seed(hash((self.seed, self.start.agent_steps, self.together.rank)))
        self.epoch, self.agent_steps, self.seconds = self.start.epoch, self.start.agent_steps, 0.0
        self.collector = Collector(
            self.vec, self.policy, self.steps, t.bptt_horizon, self.generator, self.clock, autocast
        )
        self.learner = Learner(
            self.policy,
            self.optimizer,
            Objective(
                clip_coef=t.clip_coef,
                clip_vloss=t.clip_vloss,
                vf_clip_coef=t.vf_clip_coef,
                vf_coef=t.vf_coef,
                ent_coef=t.ent_coef,
                norm_adv=t.norm_adv,
            ),
            minibatch_size=self.together.part(t.minibatch_size, "minibatch_size", t.bptt_horizon),
            bptt=t.bptt_horizon,
            update_epochs=t.update_epochs,
            gamma=t.gamma,
            gae_lambda=t.gae_lambda,
            max_grad_norm=t.max_grad_norm,
            target_kl=t.target_kl,
            generator=self.generator,
            clock=self.clock,
            autocast=autocast,
            together=self.together,
            cpu_offload=t.cpu_offload,
        )

    def fit(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to `total_timesteps`.  -> True when done, False when `stop` said so; saved either way.

        Raises Diverged when a loss, a parameter or a moment is not finite: checkpoints written before stay as
        they are.
        """
        with unvalidated():  # a Gaussian policy's numbers are checked here
            return self._fit(stop)

    def _fit(self, stop: Callable[[], bool]) -> bool:
        started, saved = time.perf_counter(), self.epoch
        first = self.together.rank * self.vec.num_envs
        self.vec.reset((self.seed, self.agent_steps), first)  # a resumed run plays new episodes
        alone = self.together.size == 1  # together, all stop after the same epoch
        while self.agent_steps < self.train.total_timesteps and not self.together.any(stop()):
            began = time.perf_counter()
            self._set_learning_rate()
            try:
                data, episodes = self.rollout(stop if alone else lambda: False)
            except Interrupted:
                break
            except Diverged:
                raise
            except Exception:  # an environment failed: what was learned before it is kept
                if saved != self.epoch:
                    self.save()
                raise
            losses = self.update(data)
            self.epoch += 1
            steps = data.rewards.shape[0] * self.steps * self.together.size
            self.agent_steps += steps
            now = time.perf_counter()
            self.seconds = now - started
            self._report(losses, episodes, sps=steps / (now - began), uptime=self.seconds)
            if self.epoch % self.train.checkpoint_interval == 0:
                self.save()
                saved = self.epoch
        if saved != self.epoch:
            self.save()
        return self.agent_steps >= self.train.total_timesteps

    def rollout(self, stop: Callable[[], bool] = lambda: False) -> tuple[Experience, Episodes]:
        """See Collector.collect."""
        if self.threads:
            torch.set_num_threads(self.threads[0])
        return self.collector.collect(stop)

    def update(self, data: Experience) -> dict[str, float]:
        """See Learner.update.  Raises Diverged, also where its last step left a number that is not finite."""
        if self.threads:
            torch.set_num_threads(self.threads[1])
        losses = self.learner.update(data)
        weights = checkpoints.not_finite(self.policy.state_dict(), self.masks)
        if odd := weights or checkpoints.not_finite(self.optimizer.state_dict()):
            raise Diverged(f"after the update {odd}")
        return losses

    def save(self) -> None:
        """Write model_<epoch>.pt, and beside it the optimizer, schedule and random numbers."""
        if not self.together.leads:
            return
        state = StateFile(
            epoch=self.epoch,
            agent_steps=self.agent_steps,
            optimizer=self.optimizer.state_dict(),
            rng=get_rng(self.generator),
            schedule={"learning_rate": self.optimizer.param_groups[0]["lr"]},
        )
        model_path, state_path = self.run.new_files(self.epoch, self.agent_steps, self.seconds)
        state.save(state_path)
        model = ModelFile(
            **vars(self.facts),
            epoch=self.epoch,
            agent_steps=self.agent_steps,
            seed=self.seed,
            state_dict=self.policy.state_dict(),
        )
        model.save(model_path)
        self.run.prune_states(self.train.keep_state, self.collapse_epochs)

    def _set_learning_rate(self) -> None:
        lr = self.train.learning_rate
        if self.train.anneal_lr:
            lr *= 1 - self.agent_steps / self.train.total_timesteps
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _report(self, losses: dict[str, float], episodes: Episodes, sps: float, uptime: float) -> None:
        join_episodes(episodes, self.together)
        if not self.together.leads:
            return
        record = {
            "epoch": self.epoch,
            "agent_steps": self.agent_steps,
            "SPS": sps,
            "episode_return": mean(episodes.returns),
            "episode_length": mean(episodes.lengths),
            "episodes": len(episodes.returns),
            **losses,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "uptime": uptime,
            "wall_time": time.time(),
            **{f"env_{key}": mean(values) for key, values in episodes.other.items()},
        }
        self.run.log({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()})
        for report in self.reporters:
            report(record)


def compile_policy(policy: nn.Module, mode: str) -> None:
    """Compile what a policy does to a batch, in place; an LSTM between encoder and heads stays as it is."""
    core: Any = policy.policy if is_recurrent(policy) else policy
    core.encode_observations = torch.compile(core.encode_observations, mode=mode)
    core.decode_actions = torch.compile(core.decode_actions, mode=mode)


def make_optimizer(policy: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """PufferLib's choice: Adam with eps 1e-5, its fused kernel."""
    return torch.optim.Adam(policy.parameters(), lr=learning_rate, eps=1e-5, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """load_state_dict, with every moment laid out in memory like its parameter, as fused Adam takes it."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for p in group["params"]:
            for name, moment in optimizer.state[p].items():
                if isinstance(moment, torch.Tensor) and moment.shape == p.shape:
                    optimizer.state[p][name] = torch.empty_like(p).copy_(moment)


def mean(values: list[float]) -> float:
    """The mean, or nan of nothing."""
    return sum(values) / len(values) if values else float("nan")


def get_rng(generator: torch.Generator) -> dict[str, Any]:
    """Every random number generator that training may draw from, as plain data."""
    kind, keys, pos, has_gauss, gauss = np.random.get_state()
    return {
        "actions": generator.get_state(),
        "torch": torch.get_rng_state(),
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(gauss),
        ],
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
    }


def set_rng(rng: dict[str, Any], generator: torch.Generator) -> None:
    """Undo get_rng."""
    generator.set_state(rng["actions"])
    torch.set_rng_state(rng["torch"])
    kind, keys, pos, has_gauss, gauss = rng["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), pos, has_gauss, gauss))
    version, state, gauss_next = rng["python"]
    random.setstate((version, tuple(state), gauss_next))
