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

from pufferlib_kcore.training.acting import Player
from pufferlib_kcore.training.advantage import advantages
from pufferlib_kcore.training.clock import Clock


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
        self.player, self.T, self.bptt = Player(vec, policy, generator), steps, bptt
        self.clock, self.autocast = clock, autocast
        N, space = vec.num_envs, vec.single_observation_space
        sample = torch.from_numpy(np.zeros((1,), dtype=space.dtype))
        S, T = steps // bptt, steps
        segments = None
        if self.player.state is not None:
            L, _, H = self.player.state[0].shape
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
        if self.player.device.type == "cuda":  # pinned, so that the GPU takes them while it computes
            for name, column in vars(self.data).items():
                setattr(self.data, name, None if column is None else column.pin_memory())
        self.held: list[Tensor | None] = [None] * len(vec.groups)  # observations received, not yet acted on

    def collect(self, stop=lambda: False) -> tuple[Experience, Episodes]:
        """Fill the buffers.  stop: asked between steps; raises Interrupted when it says so."""
        with torch.no_grad(), self.autocast():  # one context: the weights are cast once, not at every step
            return self._collect(stop)

    def _collect(self, stop) -> tuple[Experience, Episodes]:
        data, player, episodes = self.data, self.player, Episodes()
        for t in range(self.T + 1):
            for g, rows in enumerate(player.groups):
                if stop():
                    raise Interrupted
                obs = self._receive(g, rows, t, episodes)
                with self.clock("eval_forward"):
                    answer = player.answer(g, obs, data.starts[rows, t])
                    data.values[rows, t] = answer.value.cpu()  # type: ignore[union-attr]
                    if t == self.T:
                        continue  # bootstrap: the observation stays held, the state stays before it
                    actions, chosen_from = player.act(g, answer)
                    log_probs = chosen_from.log_prob(actions)
                with self.clock("eval_misc"):
                    data.obs[rows, t] = obs
                    data.actions[rows, t] = actions
                    data.log_probs[rows, t] = log_probs
                    if answer.before is not None and t % self.bptt == 0:
                        data.state_h[:, rows, t // self.bptt] = answer.before[0].cpu()  # type: ignore[index]
                        data.state_c[:, rows, t // self.bptt] = answer.before[1].cpu()  # type: ignore[index]
                with self.clock("env"):
                    self.held[g] = None
                    player.send(g, actions)
        return data, episodes

    def _receive(self, g: int, rows: slice, t: int, episodes: Episodes) -> Tensor:
        """Observation t of group g, its reward and flags written; column 0 is the column that was held."""
        data, held = self.data, self.held[g]
        if held is not None:
            for column in (data.rewards, data.terminals, data.truncations, data.starts):
                column[rows, 0] = column[rows, self.T]
            return held
        with self.clock("env"):
            got = self.player.receive(g)
        data.rewards[rows, t] = got.rewards
        data.terminals[rows, t] = got.terminals
        data.truncations[rows, t] = got.truncations
        data.starts[rows, t] = got.starts
        episodes.add(got.infos)
        self.held[g] = got.obs
        return got.obs


def _empty_actions(action_space, *lead: int) -> Tensor:
    """A buffer (*lead, *action shape) with the dtype that the policy's actions have."""
    shape = tuple(action_space.shape or ())
    is_float = np.issubdtype(action_space.dtype, np.floating)
    return torch.zeros(*lead, *shape, dtype=torch.float32 if is_float else torch.int64)
