"""Policies by registered name: how each is made, and which arguments its spaces decide."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pufferlib_kcore.registry import Registry


@dataclass(frozen=True)
class Entry:
    make: Callable[..., Any]  # make(env, **args), recurrent ones make(env, policy, **args)
    complete: Callable[..., dict]  # fills in the arguments that spaces or policy decide, see register


CURE = "register yours with @pufferlib_kcore.policies.register"
POLICIES: Registry[Entry] = Registry("policy", given=("env",), cure=CURE)
RECURRENT: Registry[Entry] = Registry("recurrent policy", given=("env", "policy"), cure=CURE)


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
        entries.register(name, settings=make)(Entry(make, complete))
        return make

    return put
