"""The failure lab: worlds whose failures are known, and what tells whether an agent failed in them."""

import importlib
from typing import Any

MODULES = {
    "CareerEnv": "environments.career",
    "CareerReward": "environments.career",
    "CareerVectorEnv": "environments.career",
    "EnvironmentParams": "environments.career",
    "get_reward": "environments.career",
    "list_rewards": "environments.career",
    "CombinedFailureDetector": "failure_lab.failure_detection",
    "NonstationarityDetector": "failure_lab.failure_detection",
    "PolicyCollapseDetector": "failure_lab.failure_detection",
    "RewardHackingDetector": "failure_lab.failure_detection",
    "ValueExplosionDetector": "failure_lab.failure_detection",
    "CounterfactualAnalyzer": "failure_lab.introspection",
    "EntropyTracker": "failure_lab.introspection",
    "PhasePlotter": "failure_lab.introspection",
    "StateHeatmap": "failure_lab.introspection",
    "AdaptiveAgent": "failure_lab.agents",
    "AggressiveAgent": "failure_lab.agents",
    "AlwaysStayAgent": "failure_lab.agents",
    "AlwaysSwitchAgent": "failure_lab.agents",
    "BurnoutThresholdAgent": "failure_lab.agents",
    "ConservativeAgent": "failure_lab.agents",
    "RandomAgent": "failure_lab.agents",
    "create_heuristic_agent": "failure_lab.agents",
    "World": "failure_lab.worlds",
    "evaluate": "failure_lab.evaluation",
    "learn": "failure_lab.learning",
    "ExperimentComparator": "failure_lab.experiments",
    "ExperimentProtocol": "failure_lab.experiments",
    "ExperimentResult": "failure_lab.experiments",
    "ExperimentRunner": "failure_lab.experiments",
}
__all__ = list(MODULES)  # noqa: PLE0605  the names above


def __getattr__(name: str) -> Any:
    """What is asked for is loaded then: a rule needs no torch."""
    if name in MODULES:
        return getattr(importlib.import_module(f"pufferlib_kcore.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
