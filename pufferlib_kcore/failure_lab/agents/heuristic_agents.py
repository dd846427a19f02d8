"""Heuristic agents, by the module's name in the guide."""

from pufferlib_kcore.failure_lab.agents.heuristics import *  # noqa: F403
