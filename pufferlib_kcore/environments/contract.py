"""The contract of a vectorization: many envs stepped at once, in groups, whatever steps them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces

Seed = int | Sequence[int] | None  # entropy, see seeds; None: that which the envs were made with


class WorkerDied(RuntimeError):
    """An env worker ended before it was told to; the message holds its own traceback or last words."""


class Batch(NamedTuple):
    """What a group of B envs answers. Arrays are views, valid until the group's next send."""

    obs: np.ndarray  # (B, *obs) uint8 or float32
    rewards: np.ndarray  # (B,) float32
    terminals: np.ndarray  # (B,) bool
    truncations: np.ndarray  # (B,) bool
    infos: list[dict]  # one for each episode that ended, in the order of the envs
    env_ids: np.ndarray  # (B,) int


class VecEnv(Protocol):
    """Envs 0..num_envs-1 in contiguous groups, each received and sent by itself, in any rhythm.

    reset(seed, first) gives env i the seed of `seeds.env_seed(seed, first + i)` and starts all (first: of
    envs that are a part of more); each draws its later episodes from where it is. Then, for a group g,
    recv(g) and send(g, actions) alternate. Numbers depend on seed and actions alone, not on backend, workers
    or timing. The step after an episode's end is PufferLib's dummy step: its action is ignored, and it
    answers with the new episode's first observation and reward 0. close() may be called again.

    Raises RuntimeError for calls out of turn, ValueError for actions of another shape, and WorkerDied.
    """

    num_envs: int
    single_observation_space: Any
    single_action_space: Any
    driver_env: Any  # one env, for what it says of itself
    groups: list[np.ndarray]

    def reset(self, seed: Seed = None, first: int = 0) -> None: ...
    def recv(self, group: int) -> Batch: ...
    def send(self, group: int, actions: np.ndarray) -> None: ...
    def close(self) -> None: ...


class Turns:
    """Whose turn it is in each group: 'reset' first, then 'recv' and 'send' by turns."""

    def __init__(self, groups: int):
        self.next = ["reset"] * groups

    def take(self, group: int, what: str, then: str) -> None:
        if self.next[group] != what:
            raise RuntimeError(f"{what}({group}) was called where {self.next[group]} comes next")
        self.next[group] = then

    def start(self) -> None:
        self.next = ["recv"] * len(self.next)

    def close(self) -> None:
        self.next = ["nothing (it is closed)"] * len(self.next)


def as_actions(actions: np.ndarray, n: int, space: Any) -> np.ndarray:
    """Actions as envs take them: (n, *action) int32, of a Box its dtype.  Raises ValueError"""
    actions = np.ascontiguousarray(actions, space.dtype if isinstance(space, spaces.Box) else np.int32)
    if actions.shape != (n, *space.shape):
        raise ValueError(f"actions have shape {actions.shape}: expected {(n, *space.shape)}")
    return actions
