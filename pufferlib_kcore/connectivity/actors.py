"""Actors: the policies of SAC and DDPG as this project plays them, from weights in plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore.connectivity.learners import NOISE
from pufferlib_kcore.distributions import ActionDistribution, Continuous, Squashed
from pufferlib_kcore.errors import UserError

LOG_STD = (-20.0, 2.0)


class Actor(nn.Module):
    """An MLP of ReLUs to the mean of its actions, before tanh; with SAC to their deviation, too."""

    def __init__(self, sizes: list[int], low: Tensor, high: Tensor, deviates: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for one, other in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(one, other), nn.ReLU()]
        self.trunk, self.mu = nn.Sequential(*layers), nn.Linear(sizes[-1], len(low))
        self.log_std = nn.Linear(sizes[-1], len(low)) if deviates else None
        self.low, self.high = low.clone(), high.clone()  # the environment's: no part of what is learned

    def forward(self, obs: Tensor) -> tuple[ActionDistribution, Tensor]:
        """obs (B, d) -> actions as the environment takes them, and no value (B,)"""
        hidden = self.trunk(obs.to(self.mu.weight.dtype))
        mean, none = self.mu(hidden), hidden.new_zeros(len(hidden))
        if self.log_std is None:
            half = (self.high - self.low) / 2
            action = self.low + half * (torch.tanh(mean) + 1)
            return Continuous(action, (NOISE * half).expand_as(action)), none
        return Squashed(mean, self.log_std(hidden).clamp(*LOG_STD).exp(), self.low, self.high), none


def actor(weights: Mapping[str, Any], source: str | Path = "weights") -> Actor:
    """The policy in weights as `learners.weights` has them.

    Raises UserError, naming the source, where they are not such, or not finite.
    """
    try:
        own, low, high = dict(weights["actor"]), weights["low"], weights["high"]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{source} holds no weights of an experiment: expected what experiments.run_env writes, such as "
            "model_weights/../final.pt"
        ) from None
    body = "latent_pi" if "mu.weight" in own else "mu"
    places = sorted({int(name.split(".")[1]) for name in own if name.startswith(f"{body}.")})
    if not places:
        raise UserError(f"{source} holds an actor of no MLP: there is no {body}.0.weight")
    names = {f"{body}.{place}": f"trunk.{place}" for place in places}
    if body == "mu":
        names[f"mu.{places[-1]}"] = "mu"
    renamed = {}
    for name, x in own.items():
        layer, _, which = name.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{which}"] = x
        if not torch.isfinite(x).all():
            raise UserError(f"{source} has numbers in actor.{name} that are not finite")
    trunk = [renamed[f"trunk.{place}.weight"] for place in places if f"trunk.{place}.weight" in renamed]
    sizes = [trunk[0].shape[1], *(w.shape[0] for w in trunk)]
    with torch.device("meta"):  # so that no random numbers are drawn: training goes on beside it
        made = Actor(sizes, low, high, "log_std.weight" in renamed)
    made.load_state_dict({name: x.clone() for name, x in renamed.items()}, assign=True)
    return made.eval()


def read(path: str | Path) -> dict[str, Any]:
    """Weights of a file, or of the final.pt in a folder.  Raises UserError where there are none to read."""
    path = Path(path)
    path = path / "final.pt" if path.is_dir() else path
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a file of weights, or a folder with final.pt") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as weights ({reason})") from error
    if not isinstance(held, dict):
        raise UserError(f"{path} holds no weights of an experiment, but a {type(held).__name__}")
    return held


def check_same(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> None:
    """Raise UserError, naming what differs, unless both act in one environment with one architecture."""
    for key in ("env", "algo"):
        if one.get(key) != other.get(key):
            raise UserError(
                f"{names[0]} is of {one.get(key)}, {names[1]} of {other.get(key)}: no line lies between them"
            )
    shapes = [{name: tuple(x.shape) for name, x in w["actor"].items()} for w in (one, other)]
    for name in {**shapes[0], **shapes[1]}:
        a, b = (s.get(name, "none") for s in shapes)
        if a != b:
            raise UserError(
                f"actor.{name} is {a} in {names[0]} and {b} in {names[1]}: a line lies between policies of "
                "one architecture alone"
            )
