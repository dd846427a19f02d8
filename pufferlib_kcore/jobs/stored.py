"""Stored: what runs and checkpoints on disk say of themselves, and what may not contradict it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pufferlib_kcore import environments
from pufferlib_kcore import settings as settings_room
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import named, plain_to_space, spec_from
from pufferlib_kcore.settings import Settings, fitting, flag
from pufferlib_kcore.store import Facts, Run


@dataclass(frozen=True)
class Over:
    """What is said over the settings that a run was made with."""

    overrides: dict[str, str] = field(default_factory=dict)  # {"train.num_envs": "8"}
    env: str | None = None  # its environment, which no other may contradict
    config: str | None = None  # a folder of INI files over the project's own; None: ./config


def trained_on(file: Facts) -> str | None:
    """The environment's name, where a checkpoint says it."""
    return None if file.env is None else file.env.name


def same_env(one: str, other: str) -> bool:
    """Whether two names are one environment's: cartpole and CartPole-v1"""

    def known(name: str) -> tuple[str, str]:
        try:
            return environments.find(name)
        except UserError:  # of somebody else
            return "", name

    return known(one) == known(other)


def env_of(found: Run) -> str | None:
    """A run's environment; None where only its folder's name could say it, and does not."""
    if found.env is None:
        return None
    try:
        if "run" not in found.config():
            environments.find(found.env)
    except UserError:  # a damaged configuration, or a name that only looks like an environment's
        return None
    return found.env


def check_origin(env: str | None, found: Run, path: str | Path) -> None:
    """Raise UserError for a checkpoint of another environment than the run's in whose folder it lies."""
    own = env_of(found)
    if env and own and not same_env(env, own):
        raise UserError(
            f"{path} was trained on {env}, and {found.path} is a run of {own}: move that file away"
        )


def check_env(env: str | None, trained: str | None, source: str | Path) -> None:
    """Raise UserError where the command line names another environment than a run or checkpoint has."""
    if env and trained and not same_env(env, trained):
        raise UserError(
            f"{source} was trained on {trained}, not on --env {env}: leave --env out, or name what was "
            f"trained on {env}"
        )


def check_run(found: Run, over: Over, spec: dict[str, Any] | None = None) -> None:
    """Raise UserError where the command line contradicts a run that is there: its environment, its policy.

    spec  of its policy; None: as config.json has it
    """
    check_env(over.env, env_of(found), found.path)
    if any(map(is_architecture, over.overrides)) and (spec := spec or found.config().get("policy")):
        check_policy(
            spec,
            over.overrides,
            found.path,
            lambda overrides: settings_under(found, replace(over, overrides=overrides)),
        )


def check_policy(
    spec: dict[str, Any],
    overrides: dict[str, str],
    source: str | Path,
    settings_over: Callable[[dict[str, str]], Settings],
) -> None:
    """Raise UserError where the command line asks for another policy than a stored one.

    settings_over  the stored settings under these overrides
    """
    asked = [key for key in overrides if is_architecture(key)]
    if not asked:
        return
    without = {key: text for key, text in overrides.items() if key not in asked}
    stored, here = settings_over(without), settings_over(overrides)
    try:
        wanted = spec_of(here, *spaces_of(spec))
    except UserError:  # no such policy for these spaces
        wanted = None
    for key in asked:
        old, new = _part(spec, stored, key), wanted and _part(wanted, here, key)
        if old != new:
            raise UserError(
                f"{source} was trained with {key} = {old}, and {flag(*key.split('.', 1))} "
                f"{overrides[key]} is asked for: leave it out, or train a new run"
            )


def is_architecture(key: str) -> bool:
    """Whether a setting says which policy is built."""
    return key.startswith(("policy.", "rnn.")) or key in ("base.package", "base.policy_name", "base.rnn_name")


def _part(spec: dict[str, Any], settings: Settings, key: str) -> Any:
    """What an architecture's setting comes to in a spec, whatever words say it."""
    section, name = key.split(".", 1)
    if section == "base":
        return {"policy_name": spec["name"], "rnn_name": spec["rnn"]}.get(name, settings.base.package)
    args = spec["policy_args"] if section == "policy" else spec["rnn_args"]
    return args.get(name, getattr(settings, section).get(name))


def stored_settings(found: Run, over: Over, spec: dict[str, Any] | None = None) -> Settings:
    """The settings with which a run was started, and what is said over them.

    spec  of the policy that is trained on: where the settings say another one, they give way
    Raises UserError as `check_run` does.
    """
    check_run(found, over, spec)
    settings = settings_under(found, over)
    return settings if spec is None else truthful(settings, spec)


def truthful(settings: Settings, spec: dict[str, Any]) -> Settings:
    """The settings, their [base], [policy] and [rnn] as the spec has them where they would build another."""
    try:
        here = spec_of(settings, *spaces_of(spec))
    except UserError:
        here = {}
    if all(here.get(key) == spec[key] for key in ("name", "rnn", "policy_args", "rnn_args")):
        return settings
    policy, rnn = (
        {key: said[key] for key in own if key in said}
        for own, said in ((settings.policy, spec["policy_args"]), (settings.rnn, spec["rnn_args"]))
    )
    base = replace(settings.base, policy_name=spec["name"], rnn_name=spec["rnn"])
    return replace(settings, base=base, policy=policy, rnn=rnn)


def settings_under(found: Run, over: Over) -> Settings:
    """A run's settings with what is said over them, where its own policy gives way as well."""
    stored = found.config().get("settings")
    if stored is not None:
        return settings_room.from_plain(stored, over.overrides, over.config)
    return settings_room.resolve(over.env, fitting(over.env, over.overrides), over.config)


def spaces_of(spec: dict[str, Any]) -> tuple[Any, Any]:
    """The observation space and the action space of a stored policy."""
    return plain_to_space(spec["observation_space"]), plain_to_space(spec["action_space"])


def spec_of(settings: Settings, observation_space: Any, action_space: Any) -> dict[str, Any]:
    """The policy that the settings name, for these spaces, as plain data."""
    return spec_from(*_said(settings), observation_space, action_space)


def check_names(settings: Settings) -> None:
    """Raise UserError for a policy, or arguments of one, that are not known, before environments start."""
    named(*_said(settings))


def _said(settings: Settings) -> tuple[str | None, str, str | None, dict, dict]:
    """Of the policy: names and arguments."""
    base = settings.base
    rnn = settings.rnn if base.rnn_name else {}
    return base.package, base.policy_name, base.rnn_name, settings.policy, rnn
