"""Views: a Stable-Baselines3 policy as a function of states, the actor and all critics in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from pufferlib_kcore.errors import UserError

SIGMA = 0.1  # deviation that a deterministic actor's actions are compared by, in parts of half their range


class _Parts(nn.Module):
    """A policy without its targets, which follow what is done to these."""

    def __init__(self, policy: nn.Module, parts: list[str]):
        super().__init__()
        for part in parts:
            self.add_module(part, getattr(policy, part))


class View(nn.Module):
    """A policy's answer: (actions, values), and a recurrent policy's states.

    actions  a torch Distribution, or Q-values as logits; of SAC the normal before tanh, of TD3 and DDPG one
             of deviation SIGMA around the action
    spread   None, or the deviation that values are compared by: actions are then [actions, values as normals
             of that deviation], so that a divergence counts both: half the squared error of the values in
             parts of their variance, beside the KL
    """

    policy: Any  # with its parts by their own names, without targets

    def __init__(self, policy: Any, spread: float | None = None):
        super().__init__()
        parts = [part for part in ("q_net", "actor", "critic") if f"{part}_target" in policy._modules]
        parts += ["actor"] if "critic" in parts and "actor" not in parts else []
        self.policy, self._spread = _Parts(policy, sorted(parts)) if parts else policy, spread

    def told(self, actions: Any, values: list[Tensor], *states: Any) -> tuple:
        """What `forward` returns."""
        if self._spread is not None:
            beside = [Normal(v, torch.full_like(v, self._spread)) for v in values]
            actions = [*(actions if isinstance(actions, list) else [actions]), *beside]
        return actions, tuple(values), *states


class ActorCritic(View):
    """PPO's and A2C's.  (observations,) -> actions, ((N, 1),)"""

    def forward(self, observations: Any) -> tuple:
        found = self.policy.get_distribution(observations).distribution
        return self.told(found, [self.policy.predict_values(observations)])


class Recurrent(View):
    """RecurrentPPO's.  (observations, (h, c), (h, c), starts (N,)), h, c: (layers, N, units)"""

    def forward(self, observations: Any, actor: Any, critic: Any, starts: Tensor) -> tuple:
        found, after = self.policy.get_distribution(observations, actor, starts)
        states = actor if self.policy.lstm_critic is None else critic
        values = self.policy.predict_values(observations, states, starts)
        return self.told(found.distribution, [values], after)


class Q(View):
    """DQN's.  (observations,) -> (N, n); Q-values count as logits, and as values where there is a spread"""

    def forward(self, observations: Any) -> Any:
        q = self.policy.q_net(observations)
        return q if self._spread is None else self.told(q, [q])


class Continuous(View):
    """SAC's, TD3's and DDPG's.  (observations, (N, d)) -> actions, ((N, 1), ..) of each critic"""

    def forward(self, observations: Any, actions: Tensor) -> tuple:
        actor = self.policy.actor
        if hasattr(actor, "get_action_dist_params"):
            mean, log_std, more = actor.get_action_dist_params(observations)
            std = torch.ones_like(mean) * log_std.exp() if not more else torch.full_like(mean, SIGMA)
        else:
            mean = actor(observations)
            std = torch.full_like(mean, SIGMA)
        return self.told(Normal(mean, std), list(self.policy.critic(observations, actions)))


def view_of(model: Any, spread: float | None = None) -> View:
    """The view that fits a model's policy.  Raises UserError for algorithms that are not known."""
    policy = model.policy
    if hasattr(policy, "lstm_actor"):
        return Recurrent(policy, spread)
    if hasattr(policy, "mlp_extractor") and hasattr(policy, "action_net"):
        return ActorCritic(policy, spread)
    if hasattr(policy, "q_net") and hasattr(policy, "q_net_target"):
        if type(model).__name__ == "DQN":
            return Q(policy, spread)
    if all(hasattr(policy, part) for part in ("actor", "critic", "critic_target")):
        if not hasattr(policy.critic, "quantiles_total"):
            return Continuous(policy, spread)
    raise UserError(
        f"{type(model).__name__} with {type(policy).__name__} cannot be collapsed: expected a model of "
        "PPO, A2C, DQN, SAC, TD3, DDPG or RecurrentPPO"
    )
