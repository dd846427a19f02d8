"""Experiments: protocol, runner and comparator, by the guide's name of their place."""

from pufferlib_kcore.failure_lab.comparator import ExperimentComparator
from pufferlib_kcore.failure_lab.protocol import ExperimentProtocol
from pufferlib_kcore.failure_lab.runner import ExperimentResult, ExperimentRunner

__all__ = ["ExperimentComparator", "ExperimentProtocol", "ExperimentResult", "ExperimentRunner"]
