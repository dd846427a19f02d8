"""Env creators by name: small picklable recipes, checked before any worker runs one."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from pufferlib_kcore.environments import (  # noqa: F401  register their packages
    atari,
    career,
    cartpole_variants,
    control,
    gridworld,
    memory,
    metta,
)
from pufferlib_kcore.environments.packages import PACKAGES
from pufferlib_kcore.environments.puffer2.serial import emulated
from pufferlib_kcore.environments.rewards import REWARDS
from pufferlib_kcore.environments.wrappers import adapt
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.registry import NEEDED, check


@dataclass(frozen=True)
class Creator:
    """creator() is one of PufferLib's envs, whose infos hold episode_return and episode_length."""

    package: str
    name: str
    settings: Mapping[str, Any]  # all that the package's environments have
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # their settings, the inmost first

    def __call__(self) -> Any:
        return emulated(self.gymnasium())

    def gymnasium(self) -> gymnasium.Env:
        """The environment as Gymnasium has it."""
        env: gymnasium.Env = adapt(PACKAGES[self.package].make(self.name, **self.settings))
        for reward, settings in self.rewards.items():
            env = REWARDS[reward](env, **settings)
        return env


def names() -> dict[str, tuple[str, ...]]:
    """The env names of each package."""
    return {name: package.listed() for name, package in PACKAGES.items()}


def find(env_name: str, package: str | None = None) -> tuple[str, str]:
    """(package, name) of an env, by name or Gymnasium's id.  Raises UserError with the nearest names."""
    spellings = {}
    for its_name, its in PACKAGES.items() if package is None else [(package, PACKAGES[package])]:
        if env_name in its.refused:
            raise UserError(f"{env_name} cannot be started: {its.refused[env_name]}")
        for name in its.listed():
            spellings[name] = spellings[its.ids.get(name, name)] = (its_name, name)
    for spelling, found in spellings.items():
        plain = not PACKAGES[found[0]].spelled and _plain(env_name) == _plain(found[1])
        if env_name == spelling or plain:
            return found
    near = difflib.get_close_matches(env_name.lower(), spellings, n=3, cutoff=0.5)
    cure = f"did you mean {' or '.join(near)}?" if near else "names() lists them all"
    raise UserError(f"unknown env {env_name!r}{f' in package {package}' if package else ''}: {cure}")


def make_creator(
    env_name: str, package: str | None = None, *, rewards: Sequence[str] = ("scaled",), **settings: Any
) -> Creator:
    """A picklable creator() -> PufferLib's env, whose infos hold episode_return and episode_length.

    env_name: a name of `names()`, PufferLib's (mountaincar-continuous) or Gymnasium's (CartPole-v1);
    rewards: names of those to learn from, each around the one before it (`rewards.REWARDS`); settings: what
    the package's `make` and the rewards take, and render_mode="rgb_array" for .render() -> (h, w, 3) uint8.
    Raises UserError for unknown names.
    """
    package, name = find(env_name, package)
    own, worn = PACKAGES.settings(package), {reward: REWARDS.settings(reward) for reward in rewards}
    check(settings, [*own, *(key for known in worn.values() for key in known)], f"{package} envs have")

    def over(known: Mapping[str, Any]) -> dict[str, Any]:
        said = {**known, **{key: value for key, value in settings.items() if key in known}}
        return {key: value for key, value in said.items() if value is not NEEDED}

    return Creator(package, name, over(own), {reward: over(known) for reward, known in worn.items()})


def _plain(name: str) -> str:
    """Mountain-Car_Continuous -> mountaincarcontinuous"""
    return re.sub(r"[^a-z0-9]", "", name.lower())
