"""EnvironmentParams: how a career goes: a regime's numbers, a preset's over them, explicit ones over both."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.values import Bounds, nearest

REGIMES: dict[str, dict[str, float]] = {
    "stable": dict(
        salary_growth=0.03, salary_volatility=0.10, burnout_rate=0.08, switching_risk=0.25,
        job_availability=0.8, salary_multiplier=1.0, market_mean=0.0,
    ),
    "boom": dict(
        salary_growth=0.08, salary_volatility=0.15, burnout_rate=0.12, switching_risk=0.15,
        job_availability=0.95, salary_multiplier=1.3, market_mean=0.5,
    ),
    "recession": dict(
        salary_growth=-0.02, salary_volatility=0.25, burnout_rate=0.15, switching_risk=0.5,
        job_availability=0.4, salary_multiplier=0.85, market_mean=-0.5,
    ),
    "volatile": dict(
        salary_growth=0.02, salary_volatility=0.35, burnout_rate=0.10, switching_risk=0.35,
        job_availability=0.6, salary_multiplier=1.1, market_mean=0.0,
    ),
}  # fmt: skip
PRESETS: dict[str, dict[str, float]] = {
    "high_volatility": {"salary_volatility": 0.4},
    "rapid_burnout": {"burnout_rate": 0.3},
    "risky_switching": {"switching_risk": 0.7},
    "long_horizon": {"max_steps": 500},
    "patience": {"burnout_rate": 0.01, "switching_risk": 0.7},  # ours: no constant action is near its best
    "harsh_recession": {**REGIMES["recession"], "burnout_rate": 0.25, "switching_risk": 0.7},
}
RANGES = {
    "salary_growth": Bounds(-0.5, 0.5),
    "salary_volatility": Bounds(0.0, 0.5),
    "burnout_rate": Bounds(0.01, 0.5),
    "switching_risk": Bounds(0.0, 1.0),
    "job_availability": Bounds(0.0, 1.0),
    "salary_multiplier": Bounds(0.1, 3.0),
    "market_mean": Bounds(-1.0, 1.0),
    "max_steps": Bounds(50, 500),
}

UNSAID: Any = None


@dataclass(frozen=True, kw_only=True)
class EnvironmentParams:
    """What is not said is the preset's, and what that does not say the regime's.  Raises UserError."""

    market_regime: str = "stable"
    preset: str | None = None
    salary_growth: float = UNSAID  # of a year, of who stays
    salary_volatility: float = UNSAID  # standard deviation of that
    burnout_rate: float = UNSAID  # a step, at a salary of 50,000
    switching_risk: float = UNSAID  # probability that a switch goes wrong
    job_availability: float = UNSAID  # scales what a switch that goes well brings
    salary_multiplier: float = UNSAID  # on the salary then
    market_mean: float = UNSAID  # of the market at first
    max_steps: int = UNSAID  # until an episode is cut off

    def __post_init__(self) -> None:
        known = {"max_steps": 200, **_named(REGIMES, self.market_regime, "regime")}
        if self.preset is not None:
            known |= _named(PRESETS, self.preset, "preset")
        for name, bounds in RANGES.items():
            said = getattr(self, name)
            value = bounds.check(known[name] if said is None else said, name)
            object.__setattr__(self, name, int(value) if name == "max_steps" else float(value))

    @classmethod
    def for_regime(cls, regime: str, **over: Any) -> EnvironmentParams:
        """A regime's, with explicit ones over it."""
        return cls(market_regime=regime, **checked(over))

    @classmethod
    def for_preset(cls, preset: str, **over: Any) -> EnvironmentParams:
        """A preset's, with explicit ones over it."""
        return cls(preset=preset, **checked(over))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def checked(said: dict[str, Any]) -> dict[str, Any]:
    """The same.  Raises UserError for a parameter that there is not, with the nearest name."""
    names = [f.name for f in fields(EnvironmentParams)]
    for name in said:
        if name not in names:
            near = nearest(name, names)
            raise UserError(
                f"a career has no parameter {name!r}: "
                + (f"did you mean {near}?" if near else f"expected one of {', '.join(names)}")
            )
    return said


def _named(table: dict[str, dict[str, float]], name: str, kind: str) -> dict[str, float]:
    if name not in table:
        near = nearest(str(name), table)
        raise UserError(
            f"unknown {kind} {name!r}: "
            + (f"did you mean {near}?" if near else f"expected one of {', '.join(table)}")
        )
    return table[name]
