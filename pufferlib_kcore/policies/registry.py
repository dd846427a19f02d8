"""Policies by registered name: how each is made, and which arguments its spaces decide."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pufferlib_kcore.errors import UserError


@dataclass(frozen=True)
class Entry:
    make: Callable[..., Any]  # make(env, **args), recurrent ones make(env, policy, **args)
    complete: Callable[..., dict]  # fills in the arguments that spaces or policy decide, see register


POLICIES: dict[str, Entry] = {}
RECURRENT: dict[str, Entry] = {}


def _as_given(args: dict, *_: Any) -> dict:
    return dict(args)


def register(name: str, *, recurrent: bool = False, complete: Callable[..., dict] = _as_given) -> Callable:
    """Let checkpoints name a policy class (or, recurrent=True, a wrapper around one).

        @register("Tiny")
        class Tiny(nn.Module):
            def __init__(self, env, hidden_size=32): ...

    `env` has single_observation_space and single_action_space and nothing that runs. A policy has
    forward(x) -> (logits | list of logits | Normal, value), and, to be wrapped, PufferLib's
    encode_observations and decode_actions. `complete(args, observation_space, action_space)` fills in
    arguments that the spaces decide; a wrapper's `complete(args, policy name, policy args)` those that the
    policy decides. Registering a name twice is refused.
    """
    entries = RECURRENT if recurrent else POLICIES

    def put(make: Callable) -> Callable:
        if name in entries and entries[name].make is not make:
            raise UserError(f"a policy named {name!r} is registered already: choose another name")
        entries[name] = Entry(make, complete)
        return make

    return put


def find(name: str, *, recurrent: bool = False) -> Entry:
    """The entry of that name. Raises UserError with the nearest names."""
    entries = RECURRENT if recurrent else POLICIES
    if name in entries:
        return entries[name]
    kind = "recurrent policy" if recurrent else "policy"
    near = difflib.get_close_matches(str(name), entries, n=3) or sorted(entries)
    raise UserError(
        f"unknown {kind} {name!r}: expected one of {', '.join(near)}, or register yours with "
        "@pufferlib_kcore.policies.register"
    )


def check_arguments(name: str, make: Callable, args: dict) -> None:
    """Refuse arguments that the constructor does not name, even where it swallows any (**kwargs)."""
    parameters = inspect.signature(make).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [p.name for p in parameters if p.kind in kinds and p.name not in ("self", "env", "policy")]
    for key in args:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or known
            raise UserError(f"{name} takes no argument {key!r}: did you mean {', '.join(near)}?")
