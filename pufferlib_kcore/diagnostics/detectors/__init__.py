"""Detectors: each asks a run's metrics about one way to fail, and says since when, and by what numbers.

A detector is a function of a Run: a Seen where it failed so, None where it did not, and a sentence where the
metrics do not say. It reads names of `records.ALIASES` and `diagnosis/..`, as many as there are.
"""

from pufferlib_kcore.diagnostics.detectors import policies, tasks, updates  # noqa: F401  register theirs
from pufferlib_kcore.diagnostics.detectors.run import DETECTORS, Answer, Run, Seen, Thresholds

__all__ = ["DETECTORS", "Answer", "Run", "Seen", "Thresholds"]
