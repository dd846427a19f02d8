"""Mlp: several linear layers in place of Default's one, for observations that are numbers."""

from itertools import pairwise
from math import prod

from gymnasium import Space
from torch import nn

from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies.registry import POLICIES, register

with quiet():
    from pufferlib.models import Default


def _complete(args: dict, observation: Space, action: Space) -> dict:
    args = POLICIES["Default"].complete(
        {**POLICIES.settings("Mlp", args), "hidden_size": 1}, observation, action
    )
    sizes = list(args["hidden_sizes"])
    if not sizes or not all(isinstance(n, int) and n >= 1 for n in sizes):
        raise UserError(f"Mlp's hidden_sizes are {sizes}: expected whole numbers of at least 1, as [64, 64]")
    return {"hidden_sizes": sizes, "hidden_size": sizes[-1]}


@register("Mlp", complete=_complete)
class Mlp(Default):
    """PufferLib's Default with more layers: relu after each, heads and value on the last.

    hidden_sizes: units of each layer; hidden_size is the last one's, and found.
    """

    def __init__(self, env, hidden_sizes=(64, 64), hidden_size: int | None = None):
        super().__init__(env, hidden_size=hidden_sizes[-1])
        widths = [prod(env.single_observation_space.shape), *hidden_sizes]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.encoder = nn.Sequential(*layers[:-1])  # Default's relu is the last
