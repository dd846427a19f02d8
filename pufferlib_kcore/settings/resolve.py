"""Resolve: from INI layers, a stored run and overrides to one Settings."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.layers import Schema, unknown
from pufferlib_kcore.settings.sections import FIXED, FREE, RETIRED, SECTIONS, SHORT, Settings, section_of


def resolve(
    env: str | None = None, overrides: Mapping[str, Any] | None = None, config: str | Path | None = None
) -> Settings:
    """The settings of `env` with `overrides` on top: resolve("pong", {"train.batch_size": 4096}).

    Override values are typed values or their text. Raises UserError for an unknown env or setting and for a
    value of the wrong type.
    """
    overrides = overrides or {}
    return _settled(Schema(env, config, overrides.get("base.policy_name")), overrides)


def from_plain(
    plain: Mapping[str, Mapping[str, Any]],
    overrides: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
) -> Settings:
    """The settings that `Settings.to_plain` gave, with `overrides` on top: how a run is resumed.

    A setting that is newer than the run takes its default; an argument of [env], [policy] or [rnn] that the
    run did not have stays out.
    """
    overrides = overrides or {}
    policy = overrides.get("base.policy_name", plain["base"]["policy_name"])
    schema = Schema(plain["base"]["env_name"], config, policy)
    stored = {f"{section}.{key}": None for section, key in schema.keys if section in FREE}
    stored |= {f"{section}.{key}": value for section, keys in plain.items() for key, value in keys.items()}
    return _settled(schema, stored | dict(overrides))


def fitting(env: str | None, overrides: Mapping[str, str]) -> dict[str, str]:
    """The overrides that can be judged: without an environment, none of [env], [policy] and [rnn]."""
    return {key: text for key, text in overrides.items() if env or key.split(".")[0] not in FREE}


def _settled(schema: Schema, overrides: Mapping[str, Any]) -> Settings:
    texts = {}
    for name, value in overrides.items():
        if name in RETIRED:
            continue
        section, _, key = name.partition(".")
        if (section, key) not in schema.keys:
            known = [flag(*setting) for setting in schema.keys]
            raise UserError(unknown(f"setting {name!r}", name, known))
        texts[section, key] = str(value)
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, key in schema.keys:
        values[section][key] = schema.value(section, key, flag(section, key), texts.get((section, key)))
    for section, kind in FIXED.items():
        missing = [name for name in kind.__dataclass_fields__ if name not in values[section]]
        if missing:
            raise UserError(f"config/default.ini: no {missing[0]} in [{section}]: add it, with its default")
    fixed: dict[str, Any] = {section: kind(**values[section]) for section, kind in FIXED.items()}
    free: dict[str, Any] = {
        section: {key: value for key, value in values[section].items() if value is not None}
        for section in FREE
    }
    given = fixed | free
    return Settings(**{f.name: given[section_of(f.name)] for f in fields(Settings)})


def flag(section: str, key: str) -> str:
    """A setting as the command line writes it: --train.learning-rate, --seed"""
    return SHORT.get(f"{section}.{key}", f"--{section}.{key}".replace("_", "-"))
