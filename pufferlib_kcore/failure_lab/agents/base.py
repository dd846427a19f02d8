"""Agent: what chooses between a few actions, asked for chances and values of many observations at once."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np


class Agent:
    """Chances of each action (N, A) of observations (N, D); values where there are any.

    state_dim, action_dim: D and A.  `begin` starts so many episodes, of which one with a memory keeps one
    each. Single steps, as a loop over one environment takes them, go through `select_action`.
    """

    name: ClassVar[str] = ""
    draws: ClassVar[bool] = False  # always draws its actions, when evaluated, too

    def __init__(self, state_dim: int = 4, action_dim: int = 2, *, seed: int = 0):
        self.state_dim, self.action_dim = state_dim, action_dim
        self.rng = np.random.default_rng(seed)
        self._last: np.ndarray | None = None  # the chances of the last single step

    def begin(self, episodes: int = 1) -> None:
        """Episodes begin."""

    def distribution(self, observations: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, A), rows that add up to 1; of an agent with a memory, one step of its episodes."""
        raise NotImplementedError

    def q_values(self, observations: np.ndarray) -> np.ndarray | None:
        """(N, D) -> (N, A); None of an agent that has none."""
        return None

    def values(self, observations: np.ndarray) -> np.ndarray | None:
        """(N, D) -> (N,): max_a Q where there is one; None of an agent that has neither."""
        q = self.q_values(observations)
        return None if q is None else q.max(1)

    def choose(self, chances: np.ndarray, explore: bool, u: np.ndarray) -> np.ndarray:
        """Actions (N,): the likeliest, or drawn by uniform numbers.  chances (N, A), u (N,)"""
        if not (explore or self.draws):
            return chances.argmax(1)
        return np.minimum((u[:, None] > chances.cumsum(1)).sum(1), chances.shape[1] - 1)

    # --- single steps ---------------------------------------------------------------------------------

    def select_action(self, state: Any, explore: bool = True) -> int:
        """The action at one observation (D,), drawn where it explores."""
        self._last = self.distribution(np.asarray(state, np.float32)[None])
        return int(self.choose(self._last, explore, self.rng.random(1))[0])

    def act(self, state: Any) -> int:
        """The action at one observation (D,), as evaluated: the likeliest, or drawn where it `draws`."""
        return self.select_action(state, explore=False)

    def get_action_distribution(self, state: Any) -> np.ndarray:
        """(D,) -> (A,)"""
        return self.distribution(np.asarray(state, np.float32)[None])[0]

    def get_policy_entropy(self, state: Any = None) -> float:
        """-sum p log p [nats] of its actions at an observation, or where it acted last; nan before that.

        Of a rule it is 0 at each observation, which is no collapse: what it does over many tells.
        """
        if state is not None:
            return float(entropy(self.get_action_distribution(state)[None])[0])
        return float("nan") if self._last is None else float(entropy(self._last)[0])


def entropy(chances: np.ndarray) -> np.ndarray:
    """-sum p log p [nats].  (N, A) -> (N,)"""
    safe = np.where(chances > 0, chances, 1.0)
    return np.abs(-(chances * np.log(safe)).sum(-1))
