"""Replay: the transitions that a fork's children begin with, by strategy.

copy    each its own copy of the trunk's
fresh   none
shared  one buffer, a copy of the trunk's, to which both add; the trunk never
split   disjoint halves of the trunk's, by a shuffle of its seed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError

FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
Transitions = Mapping[str, np.ndarray]  # each (n, 1, ..), in the order in which they came


def held(buffer: Any) -> dict[str, np.ndarray]:
    """What one of Stable-Baselines3's ReplayBuffers holds, oldest first."""
    if not buffer.full:
        return {name: getattr(buffer, name)[: buffer.pos].copy() for name in FIELDS}
    return {name: np.roll(getattr(buffer, name), -buffer.pos, 0) for name in FIELDS}


def fill(buffer: Any, transitions: Transitions) -> None:
    """Make a buffer hold these, the newest of them where it has no place for all."""
    n = len(transitions["rewards"])
    kept = min(n, buffer.buffer_size)
    for name in FIELDS:
        getattr(buffer, name)[:kept] = transitions[name][n - kept :]
    buffer.pos, buffer.full = kept % buffer.buffer_size, kept == buffer.buffer_size


def given(transitions: Transitions, strategy: str, child: int, entropy: list[int]) -> Transitions:
    """What child 0 or 1 begins with; of `shared`, what both do.  entropy: of the shuffle"""
    n = len(transitions["rewards"])
    if strategy == "fresh":
        return {name: transitions[name][:0] for name in FIELDS}
    if strategy != "split":
        return transitions
    order = np.random.default_rng(entropy).permutation(n)
    own = np.sort(order[: n // 2] if child == 0 else order[n // 2 :])
    return {name: transitions[name][own] for name in FIELDS}


def bytes_of(capacity: int, observation: int, action: int) -> int:
    """Of a buffer of float32: two observations, an action, reward, end and cut of each transition."""
    return capacity * 4 * (2 * observation + action + 3)


def check_memory(needed: int, available: int, what: str) -> None:
    """Raise UserError where buffers would not fit."""
    if needed > available:
        raise UserError(
            f"{what} need {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB of memory are free: "
            "take a smaller --buffer_size or fewer --jobs"
        )
