"""Chances: copies of an environment that go on with random numbers of their own."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Mapping
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from pufferlib_kcore.errors import UserError

Generator = np.random.Generator | np.random.RandomState | random.Random
GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
PLAIN = (type, ModuleType, str, bytes, int, float, np.ndarray)


def parts(root: Any) -> list[Any]:
    """Everything that an object holds, however deep, each once; functions, but not what these hold."""
    found: list[Any] = []
    seen: set[int] = set()
    todo: deque[Any] = deque([root])
    while todo:
        one = todo.popleft()
        if id(one) in seen or isinstance(one, PLAIN):
            continue
        seen.add(id(one))
        found.append(one)
        if isinstance(one, Mapping):
            todo.extend(one.values())
        elif isinstance(one, (list, tuple, deque)):
            todo.extend(one)
        elif isinstance(one, MethodType):
            todo.append(one.__self__)
        elif not isinstance(one, GENERATORS):
            todo.extend(getattr(one, "__dict__", {}).values())
    return found


def generators(root: Any) -> list[Generator]:
    """Those among its parts."""
    return [one for one in parts(root) if isinstance(one, GENERATORS)]


def kept_by_functions(root: Any) -> list[Generator]:
    """Those that deep copies share, as they share functions: of closures, and of methods written in C."""
    held: list[Any] = []
    for one in parts(root):
        if isinstance(one, FunctionType):
            held += [cell.cell_contents for cell in one.__closure__ or () if cell != CellType()]
        elif isinstance(one, BuiltinFunctionType):
            held.append(one.__self__)
    return generators(held)


def copied(env: Any, seed: np.random.SeedSequence) -> Any:
    """A deep copy in the same state, in which every generator is fresh, seeded by another child of the seed.

    A plain deep copy has the generators of the original where they are, and would meet the very same chances.
    Raises UserError for an environment that cannot be copied.
    """
    getattr(getattr(env, "unwrapped", env), "np_random", None)  # made when first asked for
    if kept_by_functions(env):
        raise _refused(env, "a function of it keeps a generator of random numbers")
    fresh = {id(one): _like(one, _child(seed, i)) for i, one in enumerate(generators(env))}
    try:
        made = copy.deepcopy(env, fresh)
    except Exception as error:  # whatever its parts raise: it is told
        raise _refused(env, f"{type(error).__name__}: {error}") from error
    if made is env or getattr(made, "unwrapped", made) is getattr(env, "unwrapped", env):
        raise _refused(env, "its copy is itself")
    return made


def _child(seed: np.random.SeedSequence, i: int) -> np.random.SeedSequence:
    """As `spawn` makes them, which would count on."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, i))


def _like(old: Generator, seed: np.random.SeedSequence) -> Generator:
    if isinstance(old, np.random.Generator):
        return np.random.Generator(type(old.bit_generator)(seed))  # type: ignore[call-arg]
    if isinstance(old, np.random.RandomState):
        return np.random.RandomState(np.random.MT19937(seed))
    return random.Random(int(seed.generate_state(1, np.uint64)[0]))


def _refused(env: Any, why: str) -> UserError:
    return UserError(
        f"cannot copy the environment {env} ({why}): counterfactuals need one that copy.deepcopy copies, so "
        "no window, and no simulator that is outside of Python"
    )
