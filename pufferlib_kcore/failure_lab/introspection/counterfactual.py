"""Counterfactual: what other actions would have paid, by rollouts from copies of the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from matplotlib.figure import Figure
from scipy import stats

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import pictures
from pufferlib_kcore.failure_lab.introspection.chances import copied
from pufferlib_kcore.failure_lab.introspection.vectors import chooser

LEVEL = 0.95
ROUNDING = 1e-9  # of the largest return: smaller differences are none


@dataclass(frozen=True, eq=False)
class Decision:
    """What each action of a state pays, and what one of them loses.

        Q(a) = mean_r G_r(a),   regret = max_a Q(a) - Q(taken)

    G_r(a): the discounted rewards of rollout r, which takes a and then follows a policy. Rollout r meets the
    same chances whatever a is (common random numbers): actions are compared by differences within rollouts.
    The regret is of the largest of noisy means, hence too large on average: rely on its interval.
    """

    actions: np.ndarray  # (A,) int64
    returns: np.ndarray  # (A, R)
    taken: int  # one of actions

    @property
    def values(self) -> np.ndarray:
        """Q, (A,)."""
        return self.returns.mean(1)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviations over rollouts (A,); nan of one rollout."""
        alone = np.full(len(self.returns), np.nan)
        return self.returns.std(1, ddof=1) if self.returns.shape[1] > 1 else alone

    @property
    def best(self) -> int:
        """The action of the largest Q: the one taken where it is among equals, else the first."""
        gains = self._gains.mean(1)
        return self.taken if gains.max() <= 0 else int(self.actions[gains.argmax()])

    @property
    def regret(self) -> float:
        """At least 0."""
        return float(self._gains.mean(1).max())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Ends of the true regret's 95% interval; nan of one rollout.

            max(0, max_a (D_a -+ t s_a / sqrt R))     over the other actions a

        D_a, s_a: mean and standard deviation over rollouts of G_r(a) - G_r(taken); t: the quantile at which
        all these intervals hold together (Bonferroni), so picking the best action costs no coverage. As
        Student's t it takes the differences for normal.
        """
        others = np.delete(self._gains, self._place, 0)
        count, rollouts = others.shape
        if not count:
            return 0.0, 0.0
        if rollouts < 2:
            return float("nan"), float("nan")
        t = stats.t.ppf(1 - (1 - LEVEL) / (2 * count), rollouts - 1)
        reach = t * others.std(1, ddof=1) / rollouts**0.5
        mean = others.mean(1)
        return max(0.0, float((mean - reach).max())), max(0.0, float((mean + reach).max()))

    @property
    def mistake(self) -> bool:
        """Whether another action is better for all that chance can explain: the interval leaves 0."""
        return bool(self.interval[0] > 0)

    @property
    def _place(self) -> int:
        return int(np.flatnonzero(self.actions == self.taken)[0])

    @property
    def _gains(self) -> np.ndarray:
        """G_r(a) - G_r(taken), (A, R)."""
        gains = self.returns - self.returns[self._place]
        return np.where(np.abs(gains) > ROUNDING * np.abs(self.returns).max(), gains, 0.0)

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it; None in the place of nan."""
        low, high = (None if np.isnan(end) else end for end in self.interval)
        return {
            "taken": self.taken,
            "best": self.best,
            "values": dict(zip(map(str, self.actions.tolist()), self.values.tolist(), strict=True)),
            "regret": self.regret,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, eq=False)
class Regrets:
    """The decisions of a trajectory, in turn."""

    decisions: Sequence[Decision]
    rewards: np.ndarray  # (T,) that were paid

    @property
    def regret(self) -> np.ndarray:
        """(T,)"""
        return np.array([one.regret for one in self.decisions])

    @property
    def interval(self) -> np.ndarray:
        """(T, 2) ends of the 95% intervals, each of its own step alone."""
        return np.array([one.interval for one in self.decisions])

    @property
    def mistakes(self) -> list[int]:
        """Steps at which another action is better than chance explains; at most 1 in 40 is none."""
        return [i for i, one in enumerate(self.decisions) if one.mistake]

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "return": float(self.rewards.sum()),
            "mean_regret": float(self.regret.mean()),
            "mistakes": self.mistakes,
            "decisions": [one.to_plain() for one in self.decisions],
        }

    def plot(self, save_path: str | Path | None = None) -> Figure:
        """Regrets over steps with their intervals; mistakes are filled."""
        steps, (low, high) = np.arange(len(self.decisions)), self.interval.T
        title = f"regret: {len(self.mistakes)} mistakes in {len(steps)} steps"
        figure, (axis,) = pictures.panels(1, title)
        axis.fill_between(steps, low, high, color=pictures.BLUE, alpha=0.2, lw=0, label="95% interval")
        axis.plot(steps, self.regret, "o-", color=pictures.BLUE, mfc="white", markersize=4, lw=1)
        at = self.mistakes
        axis.plot(steps[at], self.regret[at], "o", color=pictures.RED, markersize=5, label="mistake")
        axis.set(xlabel="step", ylabel="max Q - Q(taken)")
        axis.legend(frameon=False, fontsize=8)
        return pictures.saved(figure, save_path)


class CounterfactualAnalyzer:
    """Asks of states of an environment what each action would pay.

    env      a Gymnasium environment of discrete actions that copy.deepcopy copies; it is never stepped
    horizon  steps of a rollout, the first action's among them; it ends earlier where the episode does
    rollouts of each action, each from a copy with random numbers of its own
    gamma    discount of rewards

    Random numbers that a policy draws are its own, and go on from rollout to rollout; it should remember
    nothing. Raises UserError for another environment, or numbers out of range.
    """

    def __init__(self, env: Any, horizon: int = 10, rollouts: int = 5, gamma: float = 1.0, seed: int = 0):
        space = getattr(env, "action_space", None)
        if not isinstance(space, spaces.Discrete):
            raise UserError(f"actions are {space}: counterfactuals need single discrete ones, to try each")
        for name, value in (("horizon", horizon), ("rollouts", rollouts)):
            if value < 1:
                raise UserError(f"{name}={value}: expected at least 1")
        if not 0 <= gamma <= 1:
            raise UserError(f"gamma={gamma}: expected a discount from 0 to 1")
        self.env, self.horizon, self.rollouts, self.gamma = env, horizon, rollouts, gamma
        self.actions = np.arange(space.start, space.start + space.n)
        self._seeds = np.random.SeedSequence(seed)

    def analyze(self, taken: Any, policy: Any, env: Any = None) -> Decision:
        """Compare the action taken with all others in the state that the environment is in.

        policy: who acts after it, observation -> action, or with .act; env: another one than the analyzer's,
        of the same actions. Chances are other ones in every call. Raises UserError for an action that there
        is not, an environment before its first reset, or one that cannot be copied.
        """
        env = self.env if env is None else env
        action = int(np.asarray(taken).item())
        if action not in self.actions:
            raise UserError(f"action {action} is none of {self.actions.tolist()}")
        act = chooser(policy)
        seeds = self._seeds.spawn(self.rollouts)
        returns = [[self._rollout(copied(env, seed), a, act) for seed in seeds] for a in self.actions]
        return Decision(self.actions, np.array(returns, float), action)

    def trajectory(
        self, policy: Any, actions: Sequence[Any] | None = None, seed: int = 0, steps: int = 1000
    ) -> Regrets:
        """Analyze every decision of an episode, played from reset(seed=seed) in a copy.

        actions: those of the episode; None for what the policy does.  policy also acts in the rollouts.
        steps: at most. Raises UserError as `analyze` does, or where there is no step.
        """
        act, env = chooser(policy), copied(self.env, self._seeds.spawn(1)[0])
        observation, _ = env.reset(seed=seed)
        decisions: list[Decision] = []
        rewards: list[float] = []
        over = False
        most = steps if actions is None else min(steps, len(actions))
        while not over and len(rewards) < most:
            action = act(observation) if actions is None else actions[len(rewards)]
            decisions.append(self.analyze(action, policy, env))
            observation, reward, ended, cut, _ = env.step(decisions[-1].taken)
            rewards.append(float(reward))
            over = ended or cut
        if not rewards:
            raise UserError(
                "a trajectory without a step has no decision: give actions, and steps of at least 1"
            )
        return Regrets(decisions, np.array(rewards))

    def _rollout(self, env: Any, action: Any, act: Any) -> float:
        """sum_k gamma^k r_k"""
        total, weight = 0.0, 1.0
        for _ in range(self.horizon):
            try:
                observation, reward, ended, cut, _ = env.step(action)
            except gymnasium.error.ResetNeeded as error:
                raise UserError("the environment is in no state yet: call env.reset() first") from error
            total, weight = total + weight * float(reward), weight * self.gamma
            if ended or cut:
                break
            action = act(observation)
        return total
