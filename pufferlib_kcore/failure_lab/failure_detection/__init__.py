"""Failure detection by the guide's names, in front of the project's measured detectors."""

from pufferlib_kcore.failure_lab.failure_detection.combined import CombinedFailureDetector
from pufferlib_kcore.failure_lab.failure_detection.detector import FailureDetector
from pufferlib_kcore.failure_lab.failure_detection.detectors import (
    NonstationarityDetector,
    PolicyCollapseDetector,
    RewardHackingDetector,
    ValueExplosionDetector,
)
from pufferlib_kcore.failure_lab.failure_detection.updates import FailureReport, Limits

__all__ = [
    "CombinedFailureDetector",
    "FailureDetector",
    "FailureReport",
    "Limits",
    "NonstationarityDetector",
    "PolicyCollapseDetector",
    "RewardHackingDetector",
    "ValueExplosionDetector",
]
