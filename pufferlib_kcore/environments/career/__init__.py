"""Career: a world whose failures are known: stay in a job and tire, or switch it and risk the salary."""

from typing import TYPE_CHECKING, Any

import gymnasium

from pufferlib_kcore.environments.career.dynamics import Career
from pufferlib_kcore.environments.career.env import CareerEnv
from pufferlib_kcore.environments.career.params import PRESETS, REGIMES, EnvironmentParams
from pufferlib_kcore.environments.career.rewards import (
    BASE,
    CAREER_REWARDS,
    CareerReward,
    Reward,
    get_reward,
    list_rewards,
)
from pufferlib_kcore.environments.packages import register

if TYPE_CHECKING:
    from pufferlib_kcore.environments.career.vector import CareerVectorEnv

__all__ = [
    "CAREER_REWARDS",
    "PRESETS",
    "REGIMES",
    "Career",
    "CareerEnv",
    "CareerReward",
    "CareerVectorEnv",
    "EnvironmentParams",
    "Reward",
    "get_reward",
    "list_rewards",
]


def __getattr__(name: str) -> Any:
    """Many careers a call ask for Gymnasium 1.1; one does not."""
    if name == "CareerVectorEnv":
        from pufferlib_kcore.environments.career.vector import CareerVectorEnv

        return CareerVectorEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@register("career", ("career",))
def make(
    name: str,
    *,
    regime: str = "stable",
    preset: str | None = None,
    reward: str = BASE,
    hidden: str | None = None,
    burnout_rate: float | None = None,
    salary_volatility: float | None = None,
    switching_risk: float | None = None,
    max_steps: int | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """A career.  reward: base or one of list_rewards(); hidden: what is not shown, parted by commas."""
    said: dict[str, Any] = {
        "burnout_rate": burnout_rate,
        "salary_volatility": salary_volatility,
        "switching_risk": switching_risk,
        "max_steps": max_steps,
    }
    params = EnvironmentParams(market_regime=regime, preset=preset, **said)
    names = tuple(word.strip() for word in hidden.split(",")) if hidden else ()
    env: gymnasium.Env = CareerEnv(params, hidden=names)
    return env if reward == BASE else CareerReward(env, reward)
