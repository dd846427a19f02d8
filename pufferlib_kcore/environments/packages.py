"""Packages: kinds of environments by registered name, each with its environments' names and settings."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import gymnasium

from pufferlib_kcore.registry import Registry

Make = Callable[..., gymnasium.Env]


@dataclass(frozen=True)
class Package:
    """What is known of a kind of environments."""

    make: Make  # make(name, **settings)
    names: Collection[str] | Callable[[], Collection[str]]  # a function where it takes time to list them
    ids: Mapping[str, str] = field(default_factory=dict)  # what Gymnasium calls them, by name
    spelled: bool = False  # names are taken as they are: Mountain-Car is not mountain_car
    refused: Mapping[str, str] = field(default_factory=dict)  # why an environment of that name cannot be

    def listed(self) -> tuple[str, ...]:
        return tuple(self.names() if callable(self.names) else self.names)


PACKAGES: Registry[Package] = Registry("environment package", given=("name",))


def register(
    package: str,
    names: Collection[str] | Callable[[], Collection[str]],
    *,
    ids: Mapping[str, str] | None = None,
    spelled: bool = False,
    refused: Mapping[str, str] | None = None,
) -> Callable[[Make], Make]:
    """Let environments of a package be found by name, made, and set up by make's other arguments.

        @register("memory", ("memory_cue",))
        def make(name, *, n_cues=4, delay=8, render_mode=None): ...

    The other arguments: see Package. Raises UserError for a package that is registered already.
    """

    def put(make: Make) -> Make:
        PACKAGES.register(package, settings=make)(Package(make, names, ids or {}, spelled, refused or {}))
        return make

    return put
