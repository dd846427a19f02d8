"""Heuristics: rules for careers, that ask for no training and that an agent should beat."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.agents.base import Agent
from pufferlib_kcore.registry import Registry

HEURISTICS: Registry[type[Agent]] = Registry("heuristic agent", given=("state_dim", "action_dim", "seed"))


class Rule(Agent):
    """Switches where its rule says so.  Observations are a career's: salary, burnout, tenure, market."""

    def switches(self, observations: np.ndarray) -> np.ndarray:
        """(N, 4) -> (N,) of bool"""
        raise NotImplementedError

    def distribution(self, observations: np.ndarray) -> np.ndarray:
        if observations.shape[-1] != 4 or self.action_dim != 2:
            raise UserError(f"{self.name} is a rule for careers: its world has 4 features and 2 actions")
        return np.eye(2)[self.switches(observations).astype(int)]


@HEURISTICS.register("random")
class RandomAgent(Agent):
    """Each action alike, at every step."""

    name: ClassVar[str] = "random"
    draws: ClassVar[bool] = True

    def distribution(self, observations: np.ndarray) -> np.ndarray:
        return np.full((len(observations), self.action_dim), 1 / self.action_dim)


@HEURISTICS.register("always_stay")
class AlwaysStayAgent(Rule):
    name: ClassVar[str] = "always_stay"

    def switches(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros(len(observations), bool)


@HEURISTICS.register("always_switch")
class AlwaysSwitchAgent(Rule):
    name: ClassVar[str] = "always_switch"

    def switches(self, observations: np.ndarray) -> np.ndarray:
        return np.ones(len(observations), bool)


@HEURISTICS.register("burnout_threshold")
class BurnoutThresholdAgent(Rule):
    """b > burnout_threshold"""

    name: ClassVar[str] = "burnout_threshold"

    def __init__(self, state_dim: int = 4, action_dim: int = 2, burnout_threshold: float = 0.6, **more: Any):
        super().__init__(state_dim, action_dim, **more)
        self.burnout_threshold = burnout_threshold

    def switches(self, observations: np.ndarray) -> np.ndarray:
        return observations[:, 1] > self.burnout_threshold


@HEURISTICS.register("conservative")
class ConservativeAgent(Rule):
    """b > burnout_threshold and m > market_threshold"""

    name: ClassVar[str] = "conservative"

    def __init__(
        self,
        state_dim: int = 4,
        action_dim: int = 2,
        burnout_threshold: float = 0.5,
        market_threshold: float = 0.0,
        **more: Any,
    ):
        super().__init__(state_dim, action_dim, **more)
        self.burnout_threshold, self.market_threshold = burnout_threshold, market_threshold

    def switches(self, observations: np.ndarray) -> np.ndarray:
        tired = observations[:, 1] > self.burnout_threshold
        return tired & (observations[:, 3] > self.market_threshold)


@HEURISTICS.register("aggressive")
class AggressiveAgent(Rule):
    """m > market_threshold, or b > burnout_threshold, or tenure > tenure_threshold steps"""

    name: ClassVar[str] = "aggressive"

    def __init__(
        self,
        state_dim: int = 4,
        action_dim: int = 2,
        burnout_threshold: float = 0.3,
        market_threshold: float = 0.2,
        tenure_threshold: int = 20,
        **more: Any,
    ):
        super().__init__(state_dim, action_dim, **more)
        self.burnout_threshold, self.market_threshold = burnout_threshold, market_threshold
        self.tenure_threshold = tenure_threshold

    def switches(self, observations: np.ndarray) -> np.ndarray:
        _, burnout, tenure, market = observations.T
        long = np.rint(100 * tenure) > self.tenure_threshold
        return (market > self.market_threshold) | (burnout > self.burnout_threshold) | long


@HEURISTICS.register("adaptive")
class AdaptiveAgent(Rule):
    """b > 0.7 where m < -0.3, b > 0.3 where m > 0.3, else b > 0.5"""

    name: ClassVar[str] = "adaptive"

    def __init__(
        self,
        state_dim: int = 4,
        action_dim: int = 2,
        recession_burnout_threshold: float = 0.7,
        boom_burnout_threshold: float = 0.3,
        burnout_threshold: float = 0.5,
        market_threshold: float = 0.3,
        **more: Any,
    ):
        super().__init__(state_dim, action_dim, **more)
        self.thresholds = (recession_burnout_threshold, burnout_threshold, boom_burnout_threshold)
        self.market_threshold = market_threshold

    def switches(self, observations: np.ndarray) -> np.ndarray:
        market, m = observations[:, 3], self.market_threshold
        low, usual, high = self.thresholds
        return observations[:, 1] > np.where(market < -m, low, np.where(market > m, high, usual))


def create_heuristic_agent(name: str, state_dim: int = 4, action_dim: int = 2, **settings: Any) -> Agent:
    """By name.  Raises UserError with the nearest one, and for a setting that it has not."""
    known = HEURISTICS.settings(name, {k: v for k, v in settings.items() if k != "seed"})
    seed = {"seed": settings["seed"]} if "seed" in settings else {}
    return HEURISTICS[name](state_dim, action_dim, **known, **seed)
