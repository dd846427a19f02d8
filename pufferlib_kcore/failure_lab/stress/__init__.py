"""Stress tests: failures induced on purpose, each with a control, and criteria that a random agent fails."""

from pufferlib_kcore.failure_lab.stress import failures, sanity  # noqa: F401  register theirs
from pufferlib_kcore.failure_lab.stress.lab import TESTS, Lab, Outcome

__all__ = ["TESTS", "Lab", "Outcome"]
