"""Introspection: where agents go, how open their actions are, and what others would have paid."""

from pufferlib_kcore.failure_lab.introspection.counterfactual import CounterfactualAnalyzer, Decision, Regrets
from pufferlib_kcore.failure_lab.introspection.entropy import Course, EntropyTracker, Rules
from pufferlib_kcore.failure_lab.introspection.heatmap import StateHeatmap
from pufferlib_kcore.failure_lab.introspection.phases import PhasePlotter, Trajectory

__all__ = [
    "CounterfactualAnalyzer",
    "Course",
    "Decision",
    "EntropyTracker",
    "PhasePlotter",
    "Regrets",
    "Rules",
    "StateHeatmap",
    "Trajectory",
]
