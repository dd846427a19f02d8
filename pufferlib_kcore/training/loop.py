"""Loop: collect, update, record, checkpoint; again, until the steps are done or somebody asks to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import build
from pufferlib_kcore.policies.unvalidated import unvalidated
from pufferlib_kcore.store import Facts, ModelFile, StateFile, checkpoints
from pufferlib_kcore.training import memory
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.algorithm import Algorithm, Collected, Tools
from pufferlib_kcore.training.companions import Companion, Company, Epoch, Said
from pufferlib_kcore.training.generators import get_rng, set_rng
from pufferlib_kcore.training.layout import load_optimizer
from pufferlib_kcore.training.metrics import Reporter, keyed, mean
from pufferlib_kcore.training.parallel import join_episodes
from pufferlib_kcore.training.rollout import Interrupted


@dataclass(frozen=True)
class Start:
    """Where a run begins: from nothing, from its own last checkpoint, or from a collapsed policy."""

    epoch: int = 0
    agent_steps: int = 0
    optimizer: dict[str, Any] | None = None  # a torch optimizer's state_dict; None starts cold
    rng: dict[str, Any] | None = None  # None seeds anew
    algorithm: dict[str, Any] | None = None  # what else it had saved; None begins it anew
    companions: dict[str, dict[str, Any]] = field(default_factory=dict)  # each one's state, by name

    @classmethod
    def at(cls, state: StateFile) -> Start:
        """From a run's own checkpoint."""
        return cls(
            state.epoch, state.agent_steps, state.optimizer, state.rng, state.algorithm, state.companions
        )


@dataclass
class Loop:
    """One training run.

    algorithm: made with `tools` and the environments; vec: a VecEnv, this process's part of them; run: a
    store.Run; train: the [train] settings (how long, and when to save); facts: what every model checkpoint
    repeats (policy, env, versions, collapse); reporters: called with each epoch's record.
    """

    algorithm: Algorithm
    vec: Any
    run: Any
    train: Any
    tools: Tools
    facts: Facts
    start: Start = field(default_factory=Start)
    companions: Mapping[str, Companion] = field(default_factory=dict)
    reporters: Iterable[Reporter] = ()
    collapse_epochs: tuple[int, ...] = (50,)
    threads: tuple[int, int] | None = None  # torch's, in rollouts and in updates; None: as they are

    def __post_init__(self) -> None:
        memory.keep_freed()
        self.together = self.tools.together
        self.epoch, self.agent_steps = self.start.epoch, self.start.agent_steps
        self.seconds = 0.0
        self.reason: str | None = None  # why a companion has asked to stop
        self.masks = {name: checkpoints.masks_of(m) for name, m in self.algorithm.modules.items()}
        self._same_weights()
        self.tools.seed_generator(self.agent_steps)
        self.company = Company(self.companions, self.tools.seed)
        self.notes = self._restore()  # what a person should know of what was, and was not, restored
        self.parameters = self._parameters()

    @property
    def policy(self) -> nn.Module:
        return self.algorithm.modules["policy"]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.algorithm.optimizers["policy"]

    def fit(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to `total_timesteps`.  -> True when done, False when `stop` or a companion said so

        It is saved either way; `reason` holds a companion's words. Raises Diverged when a loss, a parameter
        or a moment is not finite: checkpoints written before stay as they are.
        """
        with unvalidated():  # a Gaussian policy's numbers are checked here
            return self._fit(stop)

    def _fit(self, stop: Callable[[], bool]) -> bool:
        started, saved, total = time.perf_counter(), self.epoch, self.train.total_timesteps
        first = self.together.rank * self.vec.num_envs
        self.vec.reset((self.tools.seed, self.agent_steps), first)  # a resumed run plays new episodes
        if self.company:
            self.together.first(lambda: self.company.start(self._epoch_end({}, None)))
        alone = self.together.size == 1  # together, all stop after the same epoch
        while self.agent_steps < total and not self.together.any(stop()) and self.reason is None:
            began, left = time.perf_counter(), 1 - self.agent_steps / total
            try:
                collected = self.collect(stop if alone else lambda: False)
            except Interrupted:
                break
            except Diverged:
                raise
            except Exception:  # an environment failed: what was learned before it is kept
                if saved != self.epoch:
                    self.save()
                raise
            learned = self.update(collected, left)
            self.epoch += 1
            steps = collected.steps * self.together.size
            self.agent_steps += steps
            join_episodes(collected.episodes, self.together)
            metrics = {**of_episodes(collected.episodes), **learned}
            try:
                metrics |= self._hear_companions(metrics, collected.rollout)
            except UserError:  # one of them can do nothing more: the epoch is kept
                self._report(metrics, steps / (time.perf_counter() - began))
                self.save()
                raise
            now = time.perf_counter()
            self.seconds = now - started
            self._report(metrics, steps / (now - began))
            if self.epoch % self.train.checkpoint_interval == 0:
                self.save()
                saved = self.epoch
        if saved != self.epoch:
            self.save()
        return self.agent_steps >= total

    def collect(self, stop: Callable[[], bool] = lambda: False) -> Collected:
        """See Algorithm.collect."""
        if self.threads:
            torch.set_num_threads(self.threads[0])
        return self.algorithm.collect(stop)

    def update(self, collected: Collected, left: float = 1.0) -> dict[str, float]:
        """See Algorithm.update.  Raises Diverged, also where its last step left what is not finite."""
        if self.threads:
            torch.set_num_threads(self.threads[1])
        learned = self.algorithm.update(collected.rollout, left)
        self._check_finite("the update")
        return learned

    def save(self) -> None:
        """Write model_<epoch>.pt, and beside it what the run must go on with."""
        if not self.together.leads:
            return
        state = StateFile(
            epoch=self.epoch,
            agent_steps=self.agent_steps,
            optimizer=self.optimizer.state_dict(),
            rng=get_rng(self.tools.generator),
            schedule={"learning_rate": self.optimizer.param_groups[0]["lr"]},
            algorithm={
                "name": self.algorithm.name,
                "modules": states_of(self.algorithm.modules),
                "optimizers": states_of(self.algorithm.optimizers),
                "state": self.algorithm.state_dict(),
            },
            companions=self.company.state_dict(),
        )
        model_path, state_path = self.run.new_files(self.epoch, self.agent_steps, self.seconds)
        state.save(state_path)
        model = ModelFile(
            **vars(self.facts),
            epoch=self.epoch,
            agent_steps=self.agent_steps,
            seed=self.tools.seed,
            state_dict=self.policy.state_dict(),
        )
        model.save(model_path)
        self.run.prune_states(self.train.keep_state, self.collapse_epochs)

    def _restore(self) -> list[str]:
        """Take up what the run begins from.  -> what a person should know of it"""
        start, algorithm = self.start, self.algorithm
        if start.optimizer is not None:
            load_optimizer(self.optimizer, start.optimizer)
        if start.algorithm is not None:
            if start.algorithm["name"] != algorithm.name:
                raise UserError(
                    f"the run was trained by {start.algorithm['name']}, and {algorithm.name} is asked for: "
                    "go on with the former, or train a new run"
                )
            for name, state in start.algorithm["modules"].items():
                algorithm.modules[name].load_state_dict(state)
            for name, state in start.algorithm["optimizers"].items():
                load_optimizer(algorithm.optimizers[name], state)
            algorithm.load_state_dict(start.algorithm["state"])
        if start.rng is None:
            return []
        set_rng(start.rng, self.tools.generator)
        if not self.together.leads:  # the state is the leading process's
            self.tools.seed_generator(self.agent_steps)
        return self.company.load_state_dict(start.companions)

    def _hear_companions(self, metrics: dict[str, float], rollout: Any) -> Mapping[str, float]:
        """The companions' metrics of an epoch; what they have changed is made good, and told to all."""
        if not self.company:
            return {}
        with self.tools.clock("companions"):
            said: Said = self.together.first(
                lambda: self.company.after(self._epoch_end(metrics, rollout), self._check_change)
            )
            if said.changed:
                self.algorithm.changed()
                self._same_weights()
                for optimizer in self.algorithm.optimizers.values():
                    self.together.same_moments(optimizer)
        self.reason = said.stop
        return said.metrics

    def _epoch_end(self, metrics: dict[str, float], rollout: Any) -> Epoch:
        return Epoch(
            self.algorithm,
            self.run.path,
            self.epoch,
            self.agent_steps,
            metrics,
            rollout,
            self.tools.generator,
            part=self.agent_steps / self.train.total_timesteps,
            saved=self.epoch % self.train.checkpoint_interval == 0,
            untrained=self._untrained,
        )

    def _untrained(self, seed: int) -> nn.Module:
        """The run's policy with weights that this seed draws; torch's own generator stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(self.facts.policy)

    def _same_weights(self) -> None:
        for module in self.algorithm.modules.values():
            self.together.same_weights(module)

    def _parameters(self) -> dict[str, tuple[int, torch.Size]]:
        """Which parameters there are, each by its identity and shape."""
        return {
            f"{name}.{key}": (id(p), p.shape)
            for name, module in self.algorithm.modules.items()
            for key, p in module.named_parameters()
        }

    def _check_change(self, companion: str) -> None:
        """Raise Diverged for numbers that are not finite, ValueError for parameters that are not the same."""
        if odd := dict(self._parameters().items() ^ self.parameters.items()):
            raise ValueError(
                f"the companion {companion} has put another {min(odd)} in place of the one that is trained: "
                "set its numbers in place, as p.copy_ does"
            )
        self._check_finite(f"the companion {companion}")

    def _check_finite(self, after: str) -> None:
        """Raise Diverged where a weight or a moment is not finite."""
        for name, module in self.algorithm.modules.items():
            if odd := checkpoints.not_finite(module.state_dict(), self.masks[name]):
                raise Diverged(f"after {after} {'' if name == 'policy' else f'{name}.'}{odd}")
        for optimizer in self.algorithm.optimizers.values():
            if odd := checkpoints.not_finite(optimizer.state_dict()):
                raise Diverged(f"after {after} {odd}")

    def _report(self, metrics: Mapping[str, float], sps: float) -> None:
        if not self.together.leads:
            return
        record = {
            "overview/epoch": self.epoch,
            "overview/agent_steps": self.agent_steps,
            "overview/SPS": sps,
            **metrics,
            "overview/uptime": self.seconds,
            "overview/wall_time": time.time(),
        }
        self.run.log(keyed(record))
        for report in self.reporters:
            report(record)


def states_of(things: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The states of modules or optimizers by name, but for the policy's, which have places of their own."""
    return {name: thing.state_dict() for name, thing in things.items() if name != "policy"}


def of_episodes(episodes: Any) -> dict[str, float]:
    """The metrics of the episodes that ended in an epoch: means, nan where none ended, and their number.

    What an environment reported at its episodes' ends goes by its own name, as environment/score.
    """
    return {
        **{f"environment/{name}": mean(values) for name, values in episodes.other.items()},
        "environment/episode_return": mean(episodes.returns),
        "environment/episode_length": mean(episodes.lengths),
        "environment/episodes": len(episodes.returns),
    }
