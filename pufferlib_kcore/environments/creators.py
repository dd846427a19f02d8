"""Env creators by name: small picklable recipes, checked before any worker runs one."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import gymnasium

from pufferlib_kcore.environments import atari, control, memory, metta
from pufferlib_kcore.environments.puffer2.serial import emulated
from pufferlib_kcore.environments.wrappers import adapt
from pufferlib_kcore.errors import UserError

Creator = Callable[..., gymnasium.Env]

MAKERS: dict[str, Callable] = {
    "atari": atari.make,
    "classic_control": control.make,
    "classic_control_continuous": control.make,
    "mujoco": control.make,
    "memory": memory.make,
    "mettagrid": metta.make,
}
COMMON = {"reward_scale": 1.0, "reward_clip": None}  # settings that every env takes


def names() -> dict[str, tuple[str, ...]]:
    """The env names of each package."""
    return {
        "atari": atari.names(),
        "classic_control": tuple(control.CLASSIC),
        "classic_control_continuous": tuple(control.CLASSIC_CONTINUOUS),
        "mujoco": tuple(control.MUJOCO),
        "memory": memory.NAMES,
        "mettagrid": metta.NAMES,
    }


def find(env_name: str, package: str | None = None) -> tuple[str, str]:
    """(package, name) of an env, by name or Gymnasium's id.  Raises UserError with the nearest names."""
    known = names()
    if package is not None and package not in known:
        near = difflib.get_close_matches(package, known, n=1) or list(known)
        raise UserError(f"unknown package {package!r}: expected {' or '.join(near)}")
    if env_name in atari.TWO_PLAYERS and package in (None, "atari"):
        raise UserError(f"{env_name} cannot be started: it needs two players, and ALE starts games for one")
    spellings = {}
    for a_package, its_names in known.items():
        if package in (None, a_package):
            for name in its_names:
                spellings[name] = spellings[control.IDS.get(name, name)] = (a_package, name)
    for spelling, found in spellings.items():
        if env_name == spelling or (found[0] != "atari" and _plain(env_name) == _plain(found[1])):
            return found
    near = difflib.get_close_matches(env_name.lower(), spellings, n=3, cutoff=0.5)
    cure = f"did you mean {' or '.join(near)}?" if near else "names() lists them all"
    raise UserError(f"unknown env {env_name!r}{f' in package {package}' if package else ''}: {cure}")


def make_creator(env_name: str, package: str | None = None, **env_kwargs: Any) -> Creator:
    """A picklable creator() -> PufferLib's env, whose infos hold episode_return and episode_length.

    env_name: a name of `names()`, PufferLib's (mountaincar-continuous) or Gymnasium's (CartPole-v1);
    env_kwargs: what the package's `make` takes, reward_scale and reward_clip (see EpisodeStats), and
    render_mode="rgb_array" for .render() -> (h, w, 3) uint8. Raises UserError for unknown names.
    """
    package, name = find(env_name, package)
    known = {**inspect.signature(MAKERS[package]).parameters, **COMMON}
    del known["name"]
    for key in env_kwargs:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or sorted(known)
            raise UserError(f"{package} envs have no setting {key!r}: did you mean {', '.join(near)}?")
    return functools.partial(_create, package, name, **env_kwargs)


def described(creator: Callable) -> tuple[str | None, str, dict[str, Any]]:
    """(package, name, all of its settings) of what `make_creator` made; (None, .., {}) of another creator."""
    if not isinstance(creator, functools.partial) or creator.func is not _create:
        return None, str(creator), {}
    package, name = creator.args
    parameters = inspect.signature(MAKERS[package]).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items() if key != "name"}
    return package, name, {**defaults, **COMMON, **creator.keywords}


def _create(
    package: str,
    name: str,
    *,
    reward_scale: float = 1.0,
    reward_clip: float | None = None,
    **kwargs: Any,
) -> gymnasium.Env:
    env = MAKERS[package](name, **kwargs)
    return emulated(adapt(env, reward_scale, reward_clip))


def _plain(name: str) -> str:
    """Mountain-Car_Continuous -> mountaincarcontinuous"""
    return re.sub(r"[^a-z0-9]", "", name.lower())
