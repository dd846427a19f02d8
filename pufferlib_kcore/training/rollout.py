"""Rollout: the same number of steps from every environment, into fixed buffers.

Column t of a buffer is what arrived together: observation t, and the reward, terminal and truncation that
the action before it earned (PufferLib's alignment). Column T bootstraps, and becomes column 0 of the next
rollout. After an episode's end PufferLib ignores one action while the environment resets: that column is a
dummy, `valid` is False there, and the recurrent state is zeroed after it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore import distributions
from pufferlib_kcore.training.advantage import advantages
from pufferlib_kcore.training.clock import Clock
from pufferlib_kcore.training.unroll import initial_state, reset, step


class Diverged(RuntimeError):
    """Training met a number that is not finite; the parameters are those before it did harm."""


class Interrupted(Exception):
    """The caller asked to stop in the middle of a rollout; nothing of it is kept."""


@dataclass
class Experience:
    """One rollout.  N environments, T steps, S = T / bptt segments an environment."""

    obs: Tensor  # (N, T, *obs), the environment's dtype
    actions: Tensor  # (N, T, *action)
    log_probs: Tensor  # (N, T)
    rewards: Tensor  # (N, T+1)
    terminals: Tensor  # (N, T+1) bool
    truncations: Tensor  # (N, T+1) bool
    values: Tensor  # (N, T+1)
    starts: Tensor  # (N, T+1) bool: the observation is an episode's first
    state_h: Tensor | None  # (L, N, S, H): the LSTM's state before each segment
    state_c: Tensor | None

    @property
    def valid(self) -> Tensor:
        """(N, T) bool: columns whose action the environment heeded."""
        return ~(self.terminals | self.truncations)[:, :-1]

    def advantages(self, gamma: float, gae_lambda: float) -> Tensor:
        """(N, T), see `advantage.advantages`."""
        rewards, values = self.rewards.numpy(), self.values.numpy()
        ends = self.terminals.numpy(), self.truncations.numpy()
        return torch.from_numpy(advantages(rewards, values, *ends, gamma, gae_lambda))


@dataclass
class Episodes:
    """Episodes that finished during a rollout."""

    returns: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    other: dict[str, list[float]] = field(default_factory=dict)

    def add(self, infos) -> None:
        """Take what the environments reported: dicts with `episode_return` and `episode_length`, and more."""
        for info in infos:
            for key, value in info.items():
                if key == "episode_return":
                    self.returns.append(float(value))
                elif key == "episode_length":
                    self.lengths.append(float(value))
                elif isinstance(value, (int, float, np.number, np.bool_)):
                    self.other.setdefault(key, []).append(float(value))


class Collector:
    """Steps the environments with a policy and fills an Experience.

    vec: a VecEnv (environments.contract); steps: T; bptt: a segment's length; generator: draws the actions.
    """

    def __init__(
        self, vec, policy, steps: int, bptt: int, generator: torch.Generator, clock: Clock, autocast
    ):
        self.vec, self.policy, self.T, self.bptt = vec, policy, steps, bptt
        self.generator, self.clock, self.autocast = generator, clock, autocast
        self.device = next(policy.parameters()).device
        N, space = vec.num_envs, vec.single_observation_space
        sample = torch.from_numpy(np.zeros((1,), dtype=space.dtype))
        self.state = initial_state(policy, N)
        S, T = steps // bptt, steps
        segments = None
        if self.state is not None:
            L, _, H = self.state[0].shape
            segments = (L, N, S, H)
        self.data = Experience(
            obs=torch.zeros(N, T, *space.shape, dtype=sample.dtype),
            actions=_empty_actions(vec.single_action_space, N, T),
            log_probs=torch.zeros(N, T),
            rewards=torch.zeros(N, T + 1),
            terminals=torch.zeros(N, T + 1, dtype=torch.bool),
            truncations=torch.zeros(N, T + 1, dtype=torch.bool),
            values=torch.zeros(N, T + 1),
            starts=torch.zeros(N, T + 1, dtype=torch.bool),
            state_h=torch.zeros(segments) if segments else None,
            state_c=torch.zeros(segments) if segments else None,
        )
        if self.device.type == "cuda":  # pinned, so that the GPU takes them while it computes
            for name, column in vars(self.data).items():
                setattr(self.data, name, None if column is None else column.pin_memory())
        self.ids = [slice(int(ids[0]), int(ids[-1]) + 1) for ids in vec.groups]
        self.held: list[Tensor | None] = [None] * len(self.ids)  # observations received and not yet acted on
        self.ended = torch.ones(N, dtype=torch.bool)  # the next observation starts an episode

    def collect(self, stop=lambda: False) -> tuple[Experience, Episodes]:
        """Fill the buffers.  stop: asked between steps; raises Interrupted when it says so."""
        with torch.no_grad(), self.autocast():  # one context: the weights are cast once, not at every step
            return self._collect(stop)

    def _collect(self, stop) -> tuple[Experience, Episodes]:
        data, episodes = self.data, Episodes()
        for t in range(self.T + 1):
            for g, rows in enumerate(self.ids):
                if stop():
                    raise Interrupted
                obs = self._receive(g, rows, t, episodes)
                with self.clock("eval_forward"):
                    obs_device = obs.to(self.device)
                    state = None
                    if self.state is not None:
                        old = (self.state[0][:, rows], self.state[1][:, rows])
                        state = reset(old, data.starts[rows, t].to(self.device))
                    output, value, new_state = step(self.policy, obs_device, state)
                    if not torch.isfinite(value).all():
                        raise Diverged("the policy's value of an observation is not a finite number")
                    data.values[rows, t] = value.cpu()
                    if t == self.T:
                        continue  # bootstrap: the observation stays held, the state stays before it
                    actor = distributions.of(output).to(self.generator.device)
                    actions = actor.sample(self.generator)
                    log_probs = actor.log_prob(actions)
                with self.clock("eval_misc"):
                    actions = actions.cpu()
                    data.obs[rows, t] = obs
                    data.actions[rows, t] = actions
                    data.log_probs[rows, t] = log_probs.cpu()
                    if state is not None and new_state is not None and self.state is not None:
                        if t % self.bptt == 0:
                            data.state_h[:, rows, t // self.bptt] = state[0].cpu()  # type: ignore[index]
                            data.state_c[:, rows, t // self.bptt] = state[1].cpu()  # type: ignore[index]
                        self.state[0][:, rows], self.state[1][:, rows] = new_state
                with self.clock("env"):
                    self.held[g] = None
                    self.vec.send(g, actions.numpy())
        return data, episodes

    def _receive(self, g: int, rows: slice, t: int, episodes: Episodes) -> Tensor:
        """Observation t of group g, its reward and flags written; column 0 is the column that was held."""
        data, held = self.data, self.held[g]
        if held is not None:
            for column in (data.rewards, data.terminals, data.truncations, data.starts):
                column[rows, 0] = column[rows, self.T]
            return held
        with self.clock("env"):
            got = self.vec.recv(g)
        data.rewards[rows, t] = torch.as_tensor(got.rewards)
        data.terminals[rows, t] = torch.as_tensor(got.terminals)
        data.truncations[rows, t] = torch.as_tensor(got.truncations)
        data.starts[rows, t] = self.ended[rows]
        self.ended[rows] = (data.terminals | data.truncations)[rows, t]
        episodes.add(got.infos)
        obs = self.held[g] = torch.as_tensor(got.obs)
        return obs


def _empty_actions(action_space, *lead: int) -> Tensor:
    """A buffer (*lead, *action shape) with the dtype that the policy's actions have."""
    shape = tuple(action_space.shape or ())
    is_float = np.issubdtype(action_space.dtype, np.floating)
    return torch.zeros(*lead, *shape, dtype=torch.float32 if is_float else torch.int64)
