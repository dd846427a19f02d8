"""Agents: nine of one interface: DQN, PPO, and seven that do not learn."""

from pufferlib_kcore.failure_lab.agents.base import Agent, entropy
from pufferlib_kcore.failure_lab.agents.heuristics import (
    HEURISTICS,
    AdaptiveAgent,
    AggressiveAgent,
    AlwaysStayAgent,
    AlwaysSwitchAgent,
    BurnoutThresholdAgent,
    ConservativeAgent,
    RandomAgent,
    create_heuristic_agent,
)
from pufferlib_kcore.failure_lab.agents.learned import ModelAgent, PolicyAgent

HEURISTIC_AGENTS = HEURISTICS

__all__ = [
    "HEURISTICS",
    "HEURISTIC_AGENTS",
    "AdaptiveAgent",
    "Agent",
    "AggressiveAgent",
    "AlwaysStayAgent",
    "AlwaysSwitchAgent",
    "BurnoutThresholdAgent",
    "ConservativeAgent",
    "ModelAgent",
    "PolicyAgent",
    "RandomAgent",
    "create_heuristic_agent",
    "entropy",
]
