"""Registry: things of one kind by name, each with the settings that it takes."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Generic, TypeVar

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import nearest

T = TypeVar("T")
Thing = TypeVar("Thing")

NEEDED = inspect.Parameter.empty  # in the place of a setting's value: it has no default


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things, which modules fill as they are imported.

        packages = Registry("environment package", given=("name",))

        @packages.register("memory")
        def make(name, *, n_cues=4, delay=8): ...

        packages["memory"]("memory_cue", **packages.settings("memory", {"delay": 2}))

    kind: what its things are, in the sentences about them; given: parameters that are no settings, since
    whoever calls a thing gives them; cure: ends the sentence about an unknown name.
    """

    def __init__(self, kind: str, given: Collection[str] = (), cure: str = ""):
        self.kind, self.given, self.cure = kind, given, cure
        self._things: dict[str, T] = {}
        self._declarations: dict[str, Any] = {}

    def register(self, name: str, *, settings: Callable | None = None) -> Callable[[Thing], Thing]:
        """Enter what this decorates, or is called with; it is returned as it is.

        settings: a dataclass, or a function or class whose keyword parameters they are; None: the thing
        itself. Raises UserError for a name that is taken.
        """

        def put(thing: Thing) -> Thing:
            if name in self._things:
                raise UserError(f"the {self.kind} {name!r} is registered already: choose another name")
            self._declarations[name] = thing if settings is None else settings
            self._things[name] = thing  # type: ignore[assignment]  # decorators keep what they decorate
            return thing

        return put

    def settings(self, name: str, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The values of all settings of a thing: what is said, else their defaults, else NEEDED.

        Raises UserError with the nearest name for a setting that it has not.
        """
        self[name]  # or its sentence
        known = declared(self._declarations[name], self.given)
        check(said or {}, known, f"the {self.kind} {name} has")
        return {**known, **(said or {})}

    def __getitem__(self, name: str) -> T:
        """The thing of that name.  Raises UserError with the nearest name"""
        if name not in self._things:
            also = f" ({self.cure})" if self.cure else ""
            raise UserError(f"unknown {self.kind} {name!r}: {_cure(str(name), self._things)}{also}")
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def get(self, name: str, default: Any = None) -> Any:
        return self._things.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)


def check(said: Collection[str], known: Collection[str], who: str) -> None:
    """Raise UserError with the nearest name for a setting that is not known.  who: "pong has" """
    for key in said:
        if key not in known:
            raise UserError(f"{who} no setting {key!r}: {_cure(key, known)}")


def declared(what: Any, given: Collection[str] = ()) -> dict[str, Any]:
    """The settings that a dataclass's fields, or a function's or class's parameters declare: their defaults.

    NEEDED where there is none. Not among them are those in `given`, and what **kwargs would swallow.

    >>> declared(lambda env, size=3, *, speed, **others: None, given=["env"])
    {'size': 3, 'speed': <class 'inspect._empty'>}
    """
    if not dataclasses.is_dataclass(what):
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(what).parameters.values()
        return {p.name: p.default for p in parameters if p.kind in named and p.name not in given}
    return {f.name: _default(f) for f in dataclasses.fields(what) if f.init and f.name not in given}


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return NEEDED if field.default is dataclasses.MISSING else field.default


def _cure(word: str, names: Collection[str]) -> str:
    near = nearest(word, names)
    return f"did you mean {near}?" if near else f"expected one of {', '.join(sorted(names)) or 'none'}"
