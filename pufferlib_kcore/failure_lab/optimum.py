"""Optimum: what a career can pay at best, by dynamic programming on a grid; what "failure" is measured by.

    V_t(x) = max_a E[r(x') + V_{t+1}(x') | x, a],   V_T = 0,   x = (salary, burnout, tenure, market)

The chances of a step factor: the market moves by itself, the salary given tenure and market, burnout given
the new salary. So an expectation over a step is three products of small matrices. Values between the grid's
points are interpolated linearly, which keeps the mean of every chance; tenures count up to 15, from where on
growth does not grow. The error is told by a grid of half as many points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pufferlib_kcore.environments.career import CareerVectorEnv, EnvironmentParams, Reward, dynamics
from pufferlib_kcore.environments.career.rewards import Seen
from pufferlib_kcore.errors import UserError

TENURES = 16  # 0 to 15
NODES = 64  # of a uniform number: the middles of so many parts
NORMALS = np.polynomial.hermite_e.hermegauss(15)  # of a normal one
MARKOV = ("short_term_v1", "short_term_v2")  # rewards of the state that a step leads to

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]  # observations (N, 4), times (N,) -> actions (N,)


@dataclass(frozen=True)
class Grid:
    """Points of each part of a state."""

    salaries: int = 61
    burnouts: int = 51
    markets: int = 15

    def half(self) -> Grid:
        return Grid(self.salaries // 2 + 1, self.burnouts // 2 + 1, self.markets // 2 + 1)

    @cached_property
    def s(self) -> np.ndarray:
        return np.geomspace(dynamics.LOW, dynamics.HIGH, self.salaries)

    @cached_property
    def b(self) -> np.ndarray:
        return np.linspace(0, dynamics.BURNED_OUT, self.burnouts)

    @cached_property
    def m(self) -> np.ndarray:
        return np.linspace(-1, 1, self.markets)


@dataclass(frozen=True)
class Optimum:
    """The optimal policy on a grid, and what it pays."""

    params: EnvironmentParams
    grid: Grid
    value: float  # expected return of an episode from its start
    error: float  # difference to the value on a grid of half as many points
    switches: np.ndarray  # (T, points / 8) bits: where to switch, at each time

    def __call__(self, observations: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Actions (N,), as at the nearest points.  observations: (N, 4), times: (N,)"""
        x = np.asarray(observations, np.float64)
        s = dynamics.LOW + (dynamics.HIGH - dynamics.LOW) * x[:, 0]
        g = self.grid
        tenure = np.minimum(np.rint(100 * x[:, 2]), TENURES - 1).astype(int)
        places = (nearest(g.s, s), nearest(g.b, x[:, 1]), tenure, nearest(g.m, x[:, 3]))
        flat = np.ravel_multi_index(places, (g.salaries, g.burnouts, TENURES, g.markets))
        bits = self.switches[np.asarray(times), flat // 8]
        return bits >> (7 - flat % 8) & 1


def optimum(params: EnvironmentParams, reward: Reward | None = None, grid: Grid | None = None) -> Optimum:
    """The best that a career can do, undiscounted over its max_steps.

    reward: None for the environment's own, else short_term_v1 or short_term_v2.  Raises UserError for one
    that needs more than the state that a step leads to.
    """
    if reward is not None and reward.name not in MARKOV:
        raise UserError(
            f"{reward.name} has no optimum here: it is no function of the state that a step leads to; "
            f"there are those of base, {', '.join(MARKOV)}"
        )
    grid = grid or Grid()
    value, switches = solve(params, reward, grid)
    coarse, _ = solve(params, reward, grid.half())
    return Optimum(params, grid, value, abs(value - coarse), switches)


def solve(params: EnvironmentParams, reward: Reward | None, grid: Grid) -> tuple[float, np.ndarray]:
    """-> V_0 of the start, (T, ..) bits of the policy"""
    step = Step(params, reward, grid)
    value = np.zeros((grid.salaries, grid.burnouts, TENURES, grid.markets))
    bits = []
    for _ in range(params.max_steps):
        stay, switch = step.q(value)
        value = np.maximum(stay, switch)
        bits.append(np.packbits(switch > stay))
    z, p = NORMALS
    first = weights(grid.m, np.clip(params.market_mean + 0.2 * z, -1, 1))
    over_markets = (p / p.sum()) @ first
    at_first = weights(grid.s, np.array([dynamics.FIRST]))[0]
    return float(at_first @ value[:, 0, 0] @ over_markets), np.stack(bits[::-1])


class Step:
    """One step's chances and rewards, as matrices."""

    def __init__(self, params: EnvironmentParams, reward: Reward | None, grid: Grid):
        z, p = NORMALS[0], NORMALS[1] / NORMALS[1].sum()
        u = (np.arange(NODES) + 0.5) / NODES
        s, b, m, tenures = grid.s, grid.b, grid.m, np.arange(TENURES)

        def after(switch: bool, u: list, z: list, salary=s, burnout=0.0, tenure=0.0, market=0.0):
            at = dynamics.Career(salary, burnout, tenure, market)
            return dynamics.transition(params, at, switch, u, z)

        moved = after(False, [0.0] * 5, [0.0, z], market=m[:, None]).market  # (m, z)
        self.market = p @ weights(m, moved)  # (m, m')
        at = {"tenure": tenures[:, None, None, None], "market": m[:, None, None], "salary": s[:, None]}
        stayed = after(False, [0.0] * 5, [z, 0.0], **at).salary  # (tenure, m, s, z)
        self.stayed = p @ weights(s, stayed)  # (tenure, m, s, s')
        # Tired by the salary that a step leads to: there, at no growth, it stays the same.
        still = dynamics.Career(s[:, None, None], b[:, None], 0.0, 0.0)
        unmoved = EnvironmentParams(**{**params.to_dict(), "salary_growth": 0.0, "salary_volatility": 0.0})
        tired = dynamics.transition(unmoved, still, False, [0, 0, 0, u, 0], [0.0, 0.0]).burnout  # (s', b, u)
        self.tired, self.paid_tired = ends(grid, reward, s[:, None, None], tired)
        well = after(True, [1.0, u, 0, 0, 0], [0.0, 0.0], salary=s[:, None]).salary
        badly = after(True, [-1.0, 0, u, 0, 0], [0.0, 0.0], salary=s[:, None]).salary
        risk = params.switching_risk
        self.switched = (1 - risk) * weights(s, well).mean(1) + risk * weights(s, badly).mean(1)  # (s, s')
        rested = after(True, [0, 0, 0, 0, u], [0.0, 0.0], salary=1.0, burnout=b[:, None]).burnout  # (b, u)
        self.rested, self.paid_rested = ends(grid, reward, s[:, None, None], rested[None])

    def q(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of STAY (s, b, tenure, m), and of SWITCH, the same at all tenures (s, b, 1, m)."""
        s, b, t, m = value.shape
        longer = value[:, :, np.minimum(np.arange(t) + 1, t - 1)]
        seen = (longer @ self.market.T).reshape(s, b, t * m)
        tired = (self.tired @ seen + self.paid_tired[:, :, None]).reshape(s, b, t, m)
        apart = np.ascontiguousarray(tired.transpose(2, 3, 0, 1))  # for BLAS
        stay = self.stayed @ apart  # (tenure, m, s, b)
        rested = self.rested @ (value[:, :, 0] @ self.market.T) + self.paid_rested[:, :, None]
        switch = self.switched @ rested.reshape(s, b * m)
        return stay.transpose(2, 3, 0, 1), switch.reshape(s, b, 1, m)


def ends(grid: Grid, reward: Reward | None, s: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chances (s', b, b') to go on there, and mean rewards (s', b).  s: (s', 1, 1), b: (.., b, u)"""
    ended = b >= dynamics.BURNED_OUT
    going = weights(grid.b, np.minimum(b, dynamics.BURNED_OUT)) * ~ended[..., None]
    after = dynamics.Career(s, b, 0.0, 0.0)
    if reward is None:
        paid = dynamics.base_reward(after)
    else:
        seen: Any = Seen(after.wealth, b, 0.0)  # type: ignore[arg-type]  # arrays, by the same lines
        paid = reward(seen, seen, ended, False)  # type: ignore[arg-type]
    shape = np.broadcast_shapes(s.shape, b.shape)
    return going.mean(-2), np.broadcast_to(paid, shape).mean(-1)


def weights(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How linear interpolation mixes the points to x.  points (k,) rising, x (..) within -> (.., k)"""
    right = np.clip(np.searchsorted(points, x), 1, len(points) - 1)
    share = (x - points[right - 1]) / (points[right] - points[right - 1])
    found = np.zeros((*np.shape(x), len(points)))
    np.put_along_axis(found, right[..., None], share[..., None], -1)
    np.put_along_axis(found, right[..., None] - 1, 1 - share[..., None], -1)
    return found


def nearest(points: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Places of the points nearest to x.  (N,) of int"""
    return np.searchsorted((points[1:] + points[:-1]) / 2, x)


def simulate(policy: Policy, params: EnvironmentParams, episodes: int, seed: int = 0) -> np.ndarray:
    """What so many careers paid, of the environment's own reward.  (episodes,)"""
    env = CareerVectorEnv(episodes, params)
    observations, _ = env.reset(seed=seed)
    returns, live = np.zeros(episodes), np.ones(episodes, bool)
    for time in range(params.max_steps):
        actions = policy(observations, np.full(episodes, time))
        observations, rewards, ended, cut, _ = env.step(actions)
        returns += live * rewards
        live &= ~(ended | cut)
    return returns
