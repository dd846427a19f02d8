"""Vectors: two features of observations, whole actions, and policies that are asked for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError


def checked(features: Sequence[int]) -> tuple[int, int]:
    """Two places in an observation.  Raises UserError for others"""
    if len(features) != 2 or features[0] == features[1] or min(features) < 0:
        raise UserError(f"features={tuple(features)}: expected two different places in an observation")
    return int(features[0]), int(features[1])


def two_of(states: Any, features: tuple[int, int]) -> np.ndarray:
    """Those two features of states; states that are too short for these and have two numbers are both.

    states: (d,) or (N, d) -> (N, 2) float64.  Raises UserError for what is no vector, or too short.
    """
    try:
        rows = np.atleast_2d(np.asarray(states, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise UserError(f"a state is no vector of numbers: {error}") from error
    if rows.ndim != 2:
        raise UserError(f"states have shape {np.shape(states)}: expected (d,) or (N, d), vectors of numbers")
    if rows.shape[1] > max(features):
        return rows[:, list(features)]
    if rows.shape[1] == 2:
        return rows
    raise UserError(f"a state has {rows.shape[1]} numbers, and no feature {max(features)}")


def whole(actions: Any, count: int) -> np.ndarray:
    """Actions as whole numbers, one for each of `count` states.  -> (count,) int64

    Raises UserError for others, such as continuous ones.
    """
    try:
        found = np.asarray(actions, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise UserError(f"actions are no numbers: {error}") from error
    if len(found) != count:
        raise UserError(f"{len(found)} actions for {count} states: give one for each")
    if len(odd := found[(found != np.floor(found)) | (found < 0)]):
        raise UserError(
            f"an action is {odd[0]:g}: expected whole numbers from 0 on; leave out continuous ones"
        )
    return found.astype(np.int64)


def chooser(policy: Any) -> Callable[[np.ndarray], Any]:
    """What a policy does: its `act`, or itself where it can be called.  observation (d,) -> action

    Raises UserError for what is neither.
    """
    act = getattr(policy, "act", policy)
    if not callable(act):
        raise UserError(f"a {type(policy).__name__} is no policy: expected observation -> action, or .act")
    return act
