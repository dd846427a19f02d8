"""Dynamics: a step of a career as a function of its state, the action and what chance draws.

    m' = clip(0.9 m + 0.1 z2, -1, 1)                                                    the market
    STAY    salary' = salary (1 + (g + min(0.01 tenure, 0.15) + vol (1 + 0.5 m) z1) / 12)
            b' = min(1, b + rate (1 + 0.3 (salary' / 50,000 - 1)) U(0.8, 1.2)),   tenure' = tenure + 1
    SWITCH  with p = 1 - risk    salary' = salary (1 + U(0.05, 0.25) avail) mult
            else                 salary' = salary (1 - U(0, 0.15))
            b' = max(0, b - 0.02 (1 + 0.5 avail) - U(0.05, 0.15)),        tenure' = 0

with salary' in [30,000, 300,000]. The same lines serve one career and many: numbers or arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pufferlib_kcore.environments.career.params import EnvironmentParams

STAY, SWITCH = 0, 1
LOW, HIGH, FIRST = 30_000.0, 300_000.0, 50_000.0  # salaries
BURNED_OUT = 1.0
UNIFORMS, NORMALS = 5, 2  # that a step draws, whatever the action
SIZE = 4  # of an observation


class Career(NamedTuple):
    """A state; each a number, or an array (N,)."""

    salary: Any  # a year, LOW to HIGH
    burnout: Any  # from 0; BURNED_OUT ends it
    tenure: Any  # steps since the last switch
    market: Any  # -1 to 1

    @property
    def wealth(self) -> Any:
        """The salary from 0 to 1, which is what rewards know of it."""
        return (self.salary - LOW) / (HIGH - LOW)

    def observe(self) -> np.ndarray:
        """[(salary - 30k) / 270k, burnout, min(tenure / 100, 1), market].  -> (.., 4) float32"""
        tenure = np.minimum(self.tenure / 100, 1)
        return np.array([self.wealth, self.burnout, tenure, self.market], np.float32).T


def start(params: EnvironmentParams, z: Any) -> Career:
    """Where a career begins: m ~ N(market_mean, 0.2), clipped.  z: standard normal, a number or (N,)"""
    market = within(params.market_mean + 0.2 * z, -1, 1)
    zero = 0.0 * market
    return Career(FIRST + zero, zero, zero, market)


def transition(params: EnvironmentParams, career: Career, switch: Any, u: Any, z: Any) -> Career:
    """The equations above.  switch: 0 or 1, or (N,); u: 5 uniform numbers, z: 2 normal, or (N,)"""
    salary, burnout, tenure, market = career
    rate, risk, available = params.burnout_rate, params.switching_risk, params.job_availability
    growth = params.salary_growth + np.minimum(0.01 * tenure, 0.15)
    stayed = salary * (1 + (growth + params.salary_volatility * (1 + 0.5 * market) * z[0]) / 12)
    well = salary * (1 + (0.05 + 0.2 * u[1]) * available) * params.salary_multiplier
    stays, badly = 1 - switch, salary * (1 - 0.15 * u[2])
    lucky = u[0] >= risk
    after = within(stays * stayed + switch * (lucky * well + (1 - lucky) * badly), LOW, HIGH)
    tired = burnout + rate * (1 + 0.3 * (after / FIRST - 1)) * (0.8 + 0.4 * u[3])
    rested = np.maximum(0, burnout - 0.02 * (1 + 0.5 * available) - (0.05 + 0.1 * u[4]))
    return Career(
        after,
        stays * np.minimum(tired, BURNED_OUT) + switch * rested,
        stays * (tenure + 1),
        within(0.9 * market + 0.1 * z[1], -1, 1),
    )


def within(x: Any, low: float, high: float) -> Any:
    return np.minimum(np.maximum(x, low), high)  # np.clip, at a third of its time


def base_reward(after: Career) -> Any:
    """s' - b' + 0.1 [b' < 0.5], of the state that a step leads to."""
    return after.wealth - after.burnout + 0.1 * (after.burnout < 0.5)
