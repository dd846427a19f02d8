"""Rewards of a career: ten, versioned, each with its equation and the ways in which it is known to fail.

Letters: s the salary from 0 to 1, b burnout, tau min(tenure / 100, 1); a dash is after the step. "-2 on
burnout" is added in the step in which b' reaches 1. A setting is a field of its class.
"""

from __future__ import annotations

import ast
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np

from pufferlib_kcore.environments.career import dynamics
from pufferlib_kcore.environments.career.dynamics import Career
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.registry import Registry


class Seen(NamedTuple):
    """What rewards see of a state."""

    s: float
    b: float
    tau: float

    @classmethod
    def of(cls, career: Career) -> Seen:
        return cls(float(career.wealth), float(career.burnout), min(float(career.tenure) / 100, 1.0))


START = Seen((dynamics.FIRST - dynamics.LOW) / (dynamics.HIGH - dynamics.LOW), 0.0, 0.0)


class Reward:
    """A reward of single steps, which may remember its episode: `reset` begins one."""

    name: ClassVar[str]
    fails: ClassVar[tuple[str, ...]]  # how it is known to fail
    invariant: ClassVar[str] = ""  # of a shaped one: whether the optimal policy stays, and why not

    def reset(self, first: Seen | None = None) -> None:
        """An episode begins, in that state, or in the usual one."""

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        raise NotImplementedError

    def compute(
        self, state: Any, action: int, next_state: Any, info: Any, terminated: bool, truncated: bool
    ) -> float:
        """The same, of observations (4,)."""
        return float(self(Seen(*state[:3]), Seen(*next_state[:3]), terminated, truncated))


CAREER_REWARDS: Registry[type[Reward]] = Registry("reward", cure="list_rewards() names all")


def get_reward(name: str, **settings: Any) -> Reward:
    """A reward by name, as in get_reward("short_term_v1", lambda_burnout=1.5), or in one word,
    get_reward("short_term_v1(lambda_burnout=1.5)").

    Raises UserError with the nearest name for one that there is not, and for settings that it has not.
    """
    if "(" in name:
        name, said = _unspelled(name)
        settings = {**said, **settings}
    return CAREER_REWARDS[name](**CAREER_REWARDS.settings(name, settings))


def _unspelled(text: str) -> tuple[str, dict[str, Any]]:
    """short_term_v1(lambda_burnout=1.5) -> its name, {"lambda_burnout": 1.5}.  Raises UserError"""
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        return call.func.id, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise UserError(
            f"{text!r} is no reward: expected a name, or short_term_v1(lambda_burnout=1.5)"
        ) from None


def list_rewards() -> list[str]:
    return list(CAREER_REWARDS)


def _put(name: str, *fails: str) -> Any:
    def put(cls: type) -> type:
        made: Any = dataclass(cls)
        made.name, made.fails = name, fails
        return CAREER_REWARDS.register(name)(made)

    return put


@_put("short_term_v1", "reward hacking: burnout is worth its price", "myopic")
class ShortTermV1(Reward):
    """r = w s' - lambda b';  -1 on burnout;   w = 1"""

    lambda_burnout: float = 1.0
    weight_salary: float = 1.0
    on_burnout: float = -1.0

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        return self.weight_salary * after.s - self.lambda_burnout * after.b + self.on_burnout * terminated


@_put("short_term_v2", "over-penalization: burnout is avoided at any price", "myopic")
class ShortTermV2(Reward):
    """r = s' - 2 b'^2;  -2 on burnout"""

    quadratic: float = 2.0
    on_burnout: float = -2.0

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        return after.s - self.quadratic * after.b**2 + self.on_burnout * terminated


@_put("long_term_shaped_v1", "potential mismatch: the potential points elsewhere than the value")
class LongTermShapedV1(Reward):
    """r = s' - b' + gamma Phi(s') - Phi(s);  -5 on burnout;   Phi = s - 2 b^2 + 0.5 min(tau, 0.5)

    Phi of a state that ends an episode is 0, that of one which is cut off is its own, since learners look
    beyond the cut. From the first step on: the potentials telescope to -Phi(s_0), which no action changes
    (Ng, Harada & Russell 1999).
    """

    gamma: float = 0.99
    on_burnout: float = -5.0
    invariant: ClassVar[str] = "the optimal policy at this gamma is that of s' - b', -5 on burnout"

    def potential(self, at: Seen) -> float:
        return at.s - 2 * at.b**2 + 0.5 * min(at.tau, 0.5)

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        then = 0.0 if terminated else self.potential(after)
        shaping = self.gamma * then - self.potential(before)
        return after.s - after.b + shaping + self.on_burnout * terminated


@_put("long_term_shaped_v2", "potential mismatch", "not policy-invariant: 0.5 (ds - db) pays for gains now")
class LongTermShapedV2(LongTermShapedV1):
    """r = long_term_shaped_v1 + 0.5 ((s' - s) - (b' - b))"""

    progress: float = 0.5
    invariant: ClassVar[str] = (
        "not invariant: the differences are a potential's without its gamma, and count where an episode ends"
    )

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        gained = (after.s - before.s) - (after.b - before.b)
        return super().__call__(before, after, terminated, truncated) + self.progress * gained


@_put("risk_sensitive_v1", "over-conservative: what varies is shunned, gains included", "not Markov")
class RiskSensitiveV1(Reward):
    """r = x - 0.5 Var(last 20 x, once there are 5);  -2 on burnout;   x = s' - b'"""

    weight: float = 0.5
    on_burnout: float = -2.0
    last: int = 20
    least: int = 5
    seen: deque = field(default_factory=deque, init=False, repr=False)

    def reset(self, first: Seen | None = None) -> None:
        self.seen = deque(maxlen=self.last)

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        x = after.s - after.b
        self.seen.append(x)
        risk = float(np.var(self.seen)) if len(self.seen) >= self.least else 0.0
        return x - self.weight * risk + self.on_burnout * terminated


@_put(
    "risk_sensitive_cvar_v1", "over-conservative: one bad stretch is paid for again and again", "not Markov"
)
class RiskSensitiveCvarV1(Reward):
    """r = x - 0.5 max(0, -CVaR_0.2(last 50 x, once there are 10));  -3 on burnout;   x = s' - b'

    CVaR_0.2: the mean of the lowest fifth, rounded up.
    """

    weight: float = 0.5
    on_burnout: float = -3.0
    tail: float = 0.2
    last: int = 50
    least: int = 10
    seen: deque = field(default_factory=deque, init=False, repr=False)

    def reset(self, first: Seen | None = None) -> None:
        self.seen = deque(maxlen=self.last)

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        x = after.s - after.b
        self.seen.append(x)
        risk = 0.0
        if len(self.seen) >= self.least:
            worst = sorted(self.seen)[: int(np.ceil(self.tail * len(self.seen)))]
            risk = max(0.0, -float(np.mean(worst)))
        return x - self.weight * risk + self.on_burnout * terminated


@_put("sparse_v1", "exploration failure: chance seldom reaches the goal", "credit assignment over an episode")
class SparseV1(Reward):
    """r = 10 where an episode is cut off with s' >= 0.7 and b' <= 0.3, else 0;  -5 on burnout"""

    goal: float = 10.0
    on_burnout: float = -5.0
    wealth: float = 0.7
    burnout: float = 0.3

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        reached = truncated and after.s >= self.wealth and after.b <= self.burnout
        return self.goal * reached + self.on_burnout * terminated


@_put("sparse_milestones_v1", "milestone hacking: what comes after the last one is not paid", "not Markov")
class SparseMilestonesV1(SparseV1):
    """r = 2 for each of s' >= 0.3, 0.5, 0.7, 0.9 for the first time, and sparse_v1 with s' >= 0.6"""

    wealth: float = 0.6
    milestone: float = 2.0
    best: float = field(default=0.0, init=False, repr=False)
    MILESTONES: ClassVar[tuple[float, ...]] = (0.3, 0.5, 0.7, 0.9)

    def reset(self, first: Seen | None = None) -> None:
        self.best = START.s if first is None else first.s

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        new = sum(self.best < m <= after.s for m in self.MILESTONES)
        self.best = max(self.best, after.s)
        return self.milestone * new + super().__call__(before, after, terminated, truncated)


@_put("delayed_v1", "credit assignment: all at the end", "not Markov")
class DelayedV1(Reward):
    """r = 0.3 s_T + 0.3 max s + 0.4 mean s - 2 mean b at the end, else 0, over the states after each step;

    -10 on burnout, else +5, and +3 more with b_T < 0.3 and s_T > 0.6
    """

    on_burnout: float = -10.0
    whole: float = 5.0
    well: float = 3.0
    s: list[float] = field(default_factory=list, init=False, repr=False)
    b: list[float] = field(default_factory=list, init=False, repr=False)

    def reset(self, first: Seen | None = None) -> None:
        self.s, self.b = [], []

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        self.s.append(after.s)
        self.b.append(after.b)
        if not (terminated or truncated):
            return 0.0
        paid = 0.3 * after.s + 0.3 * max(self.s) + 0.4 * np.mean(self.s) - 2 * np.mean(self.b)
        if terminated:
            return float(paid + self.on_burnout)
        return float(paid + self.whole + self.well * (after.b < 0.3 and after.s > 0.6))


@_put("delayed_hindsight_v1", "hindsight bias: what would have been is guessed by counting", "not Markov")
class DelayedHindsightV1(Reward):
    """r = s_T - 2 b_T + 0.3 h at the end, else 0;  -5 on burnout, else +3

    h = 0.1 stays with b_T > 0.7, else -0.1 switches where these are more than 0.3 of the steps, else 0
    """

    hindsight: float = 0.3
    on_burnout: float = -5.0
    whole: float = 3.0
    switched: list[bool] = field(default_factory=list, init=False, repr=False)

    def reset(self, first: Seen | None = None) -> None:
        self.switched = []

    def __call__(self, before: Seen, after: Seen, terminated: bool, truncated: bool) -> float:
        self.switched.append(after.tau == 0)
        if not (terminated or truncated):
            return 0.0
        switches, steps = sum(self.switched), len(self.switched)
        h = 0.0
        if after.b > 0.7:
            h = 0.1 * (steps - switches)
        elif switches > 0.3 * steps:
            h = -0.1 * switches
        return after.s - 2 * after.b + self.hindsight * h + (self.on_burnout if terminated else self.whole)


BASE = "base"  # the name of the environment's own reward


class CareerReward(gymnasium.Wrapper):
    """A career that pays another reward; infos hold true_return, the episode's sum of the one it had.

    env: a CareerEnv, wrapped or not. Raises UserError for another environment.
    """

    def __init__(self, env: gymnasium.Env, reward: Reward | str):
        super().__init__(env)
        if not hasattr(env.unwrapped, "career"):
            raise UserError(
                f"{type(env.unwrapped).__name__} is no career: its states have no salary and burnout"
            )
        self.reward = get_reward(reward) if isinstance(reward, str) else reward
        self.before, self.true_return = Seen(0.0, 0.0, 0.0), 0.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.before, self.true_return = self._seen(), 0.0
        self.reward.reset(self.before)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, base, terminated, truncated, info = self.env.step(action)
        after = self._seen()
        paid = float(self.reward(self.before, after, terminated, truncated))
        self.before = after
        self.true_return += float(base)
        return observation, paid, terminated, truncated, {**info, "true_return": self.true_return}

    def _seen(self) -> Seen:
        return Seen.of(self.env.unwrapped.career)  # type: ignore[attr-defined]
