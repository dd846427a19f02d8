"""World: an environment by name and settings, and what is known of the best that one can do in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pufferlib_kcore import settings as settings_room
from pufferlib_kcore.environments.career import BASE, EnvironmentParams
from pufferlib_kcore.environments.creators import Creator, find, make_creator
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.optimum import Optimum, optimum
from pufferlib_kcore.settings import Settings

CAREER = "career"


@dataclass(frozen=True)
class World:
    """World("career", {"regime": "boom"}, "short_term_v1"): settings are those of config/<package>.ini."""

    env: str = CAREER
    settings: Mapping[str, Any] = field(default_factory=dict)
    reward: str = BASE  # base, or one of a career's, with its settings in brackets

    def __post_init__(self) -> None:
        if self.env != CAREER and self.reward != BASE:
            raise UserError(f"reward {self.reward!r} is a career's: {self.env} has only {BASE!r}")

    @property
    def name(self) -> str:
        """career regime=boom short_term_v1"""
        said = [f"{key}={value}" for key, value in self.settings.items()]
        return " ".join([self.env, *said, *([self.reward] if self.reward != BASE else [])])

    @property
    def own(self) -> dict[str, Any]:
        """What its environment is made with."""
        return {**self.settings, **({"reward": self.reward} if self.env == CAREER else {})}

    @property
    def creator(self) -> Creator:
        """Raises UserError for an environment, or a setting, that there is not."""
        package, _ = find(self.env)
        return make_creator(self.env, package, **self.own)

    def resolved(self, overrides: Mapping[str, Any]) -> Settings:
        """A run's settings in this world."""
        own = {f"env.{key}": value for key, value in self.own.items()}
        return settings_room.resolve(find(self.env)[1], {**own, **overrides})

    def paid(self, reward: str) -> World:
        """The same with another reward."""
        return replace(self, reward=reward)

    @property
    def params(self) -> EnvironmentParams:
        """Of a career.  Raises UserError for another world."""
        if self.env != CAREER:
            raise UserError(f"{self.env} is no career: it has no optimum by dynamic programming")
        known = {key: value for key, value in self.settings.items() if key in _FIELDS}
        return EnvironmentParams(market_regime=self.settings.get("regime", "stable"), **known)

    def optimum(self) -> Optimum | None:
        """What a career pays at best, by its own reward; None of another world, or with hidden parts."""
        if self.env != CAREER or self.settings.get("hidden"):
            return None
        return _optimum(self.params)


_FIELDS = tuple(EnvironmentParams.__dataclass_fields__)


@cache
def _optimum(params: EnvironmentParams) -> Optimum:
    return optimum(params)
