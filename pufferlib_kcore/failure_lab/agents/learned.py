"""Learned: trained policies as agents: this project's, and Stable-Baselines3's."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from pufferlib_kcore import distributions
from pufferlib_kcore.distributions import Discrete
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.agents.base import Agent
from pufferlib_kcore.training.unroll import initial_state, is_recurrent, step


class PolicyAgent(Agent):
    """A policy of this project's trainer, with a memory or without."""

    name: ClassVar[str] = "ppo"

    def __init__(self, policy: nn.Module, state_dim: int, action_dim: int, **more: Any):
        super().__init__(state_dim, action_dim, **more)
        self.policy = policy.cpu().eval()
        self.begin()

    def begin(self, episodes: int = 1) -> None:
        self.memory = initial_state(self.policy, episodes)

    def distribution(self, observations: np.ndarray) -> np.ndarray:
        output, _, self.memory = self._step(observations, self.memory)
        found = distributions.of(output)
        if not isinstance(found, Discrete):
            raise UserError(
                "this policy's actions are no single choice: the lab's agents choose one of a few"
            )
        return found.log_p.exp().double().numpy()

    def values(self, observations: np.ndarray) -> np.ndarray | None:
        """Of one with a memory: with none yet."""
        memory = initial_state(self.policy, len(observations)) if is_recurrent(self.policy) else None
        return self._step(observations, memory)[1].double().numpy()

    @torch.no_grad()
    def _step(self, observations: np.ndarray, memory: Any) -> Any:
        return step(self.policy, torch.from_numpy(np.ascontiguousarray(observations, np.float32)), memory)


class ModelAgent(Agent):
    """A model of Stable-Baselines3's that chooses between actions: DQN, A2C, PPO.

    exploration: of DQN the chance of an action drawn alike, None for what its training has come to.
    """

    name: ClassVar[str] = "stable-baselines3"

    def __init__(self, model: Any, exploration: float | None = 0.0, **more: Any):
        super().__init__(model.observation_space.shape[0], int(model.action_space.n), **more)
        self.model, self.exploration = model, exploration

    @torch.no_grad()
    def distribution(self, observations: np.ndarray) -> np.ndarray:
        q = self.q_values(observations)
        if q is None:
            found = self.model.policy.get_distribution(self._tensor(observations))
            return found.distribution.probs.double().numpy()
        epsilon = self.model.exploration_rate if self.exploration is None else self.exploration
        greedy = np.eye(self.action_dim)[q.argmax(1)]
        return (1 - epsilon) * greedy + epsilon / self.action_dim

    @torch.no_grad()
    def q_values(self, observations: np.ndarray) -> np.ndarray | None:
        net = getattr(self.model, "q_net", None)
        return None if net is None else net(self._tensor(observations)).double().numpy()

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> np.ndarray | None:
        if hasattr(self.model, "q_net"):
            return super().values(observations)
        return self.model.policy.predict_values(self._tensor(observations)).double().numpy()[:, 0]

    def _tensor(self, observations: np.ndarray) -> torch.Tensor:
        x = np.ascontiguousarray(observations, np.float32)
        return self.model.policy.obs_to_tensor(x)[0]
