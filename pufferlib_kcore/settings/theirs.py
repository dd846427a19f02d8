"""Theirs: what other projects' studies call our settings, so that such a file runs as it is written.

defaults: [{base: default}]
env: {name: CartPole-v1}
train: {total_steps: 200_000, seed: 42}
model: {type: ppo, policy_hidden_sizes: [64, 64]}
logging: {backend: tensorboard}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings.values import nearest

SETTINGS = {  # their section and key: ours
    "env.name": "base.env_name",
    "env.id": "base.env_name",
    "train.total_steps": "train.total_timesteps",
    "train.max_steps": "train.total_timesteps",
    "train.lr": "train.learning_rate",
    "train.entropy_coef": "train.ent_coef",
    "train.clip_range": "train.clip_coef",
    "train.epochs": "train.update_epochs",
    "trainer.max_steps": "train.total_timesteps",
    "trainer.total_steps": "train.total_timesteps",
    "trainer.seed": "train.seed",
    "trainer.lr": "train.learning_rate",
    "model.policy_hidden_sizes": "policy.hidden_sizes",
    "model.hidden_sizes": "policy.hidden_sizes",
    "model.type": "",  # which algorithm: the one there is
    "logging.backend": "",  # a tracker
}
SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in SETTINGS))
ALGORITHMS = ("ppo",)
TRACKERS = ("wandb", "tensorboard", "none")


def typed(name: str) -> str | None:
    """Our name of their setting on the command line; None of ours, and of a train.x, which may be a slip."""
    return None if name.startswith("train.") else SETTINGS.get(name) or None


def translated(plain: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str | None]:
    """Sections with our names for theirs.  -> them, and the tracker that is asked for

    Raises UserError with the nearest name for a key of `model` or `logging` that is none, and for an
    algorithm or a backend that there is not.
    """
    found: dict[str, Any] = {}
    tracker = None
    for section, keys in plain.items():
        own = section in ("model", "logging", "trainer")
        if not isinstance(keys, Mapping):
            if own:
                raise UserError(f"{where}: {section} = {keys!r}: expected keys and values")
            found[section] = keys
            continue
        for key, value in keys.items():
            name = f"{section}.{key}"
            if name == "model.type":
                _one_of(value, ALGORITHMS, f"{where}: {name}")
            elif name == "logging.backend":
                tracker = _one_of("none" if value is None else value, TRACKERS, f"{where}: {name}")
            elif name in SETTINGS:
                _put(found, SETTINGS[name], value)
            elif own:
                near = nearest(str(key), [n.partition(".")[2] for n in SETTINGS if n.startswith(section)])
                cure = f"did you mean {near}?" if near else "there are " + ", ".join(SETTINGS)
                raise UserError(f"{where}: unknown key {name!r}: {cure}")
            else:
                _put(found, name, value)
    if "hidden_sizes" in found.get("policy", {}):
        found.setdefault("base", {}).setdefault("policy_name", "Mlp")
    return found, tracker


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    section, _, key = name.partition(".")
    found.setdefault(section, {})[key] = value


def _one_of(value: Any, names: tuple[str, ...], where: str) -> str:
    if str(value).lower() in names:
        return str(value).lower()
    near = nearest(str(value), names)
    cure = f"did you mean {near}?" if near else f"expected {' or '.join(names)}"
    raise UserError(f"{where} = {value!r}: {cure}")
