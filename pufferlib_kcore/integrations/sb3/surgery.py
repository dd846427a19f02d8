"""Surgery: a smaller model in a model's place: its policy, targets, optimizers and memory."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration import quotient
from pufferlib_kcore.graph import Collapse, Traced, collapse_optimizer, search
from pufferlib_kcore.graph import trace as trace_policy
from pufferlib_kcore.graph.colorings import THRESHOLD
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.nested import tensors_of
from pufferlib_kcore.graph.running import chance_kept
from pufferlib_kcore.graph.states import State, cut
from pufferlib_kcore.integrations.sb3 import slots, states
from pufferlib_kcore.integrations.sb3.views import Q, view_of

MAX_KL = 0.01  # nats, of "auto" where no budget is given
TARGETS = {"q_net_target.": "q_net.", "critic_target.": "critic.", "actor_target.": "actor."}
SHARED = ("env", "_vec_normalize_env", "_logger", "policy")  # by a model and its copy; the policy is replaced


@overload
def collapse(model: Any, threshold: Any = ..., *, report: Literal[False] = ..., **how: Any) -> Any: ...
@overload
def collapse(
    model: Any, threshold: Any = ..., *, report: Literal[True], **how: Any
) -> tuple[Any, Collapse]: ...
def collapse(
    model: Any,
    threshold: float | Mapping[str, float] | Literal["auto"] = THRESHOLD,
    *,
    report: bool = False,
    env: Any = None,
    **how: Any,
) -> Any:
    """A model of the same class with a smaller policy, which learns on where this one is; this is untouched.

    model      of PPO, A2C, DQN, SAC, TD3, DDPG, or sb3-contrib's RecurrentPPO
    report     return (model, Collapse): what became of each space, `.report` to print
    env        an environment of its own; without it both step the same one, so let but one of them learn
    threshold, how  as `collapse_` has them

    Buffers, step counts, schedules, noise, the entropy coefficient with its optimizer and VecNormalize come
    along, buffers as copies.
    """
    _check(model)
    smaller = _twin(model)
    found = collapse_(smaller, threshold, **how)
    if env is not None:
        smaller.set_env(env)
    return (smaller, found) if report else smaller


def collapse_(
    model: Any,
    threshold: float | Mapping[str, float] | Literal["auto"] = THRESHOLD,
    *,
    target_params: float | None = None,
    max_kl: float | None = None,
    observations: Any = None,
    colors: str = "weights",
    round_to: int = 1,
) -> Collapse:
    """The same in place: the model's policy is replaced.  -> what became of each space

    threshold  cosine distance, or {kind or space: distance}, as `kcore.collapse` has it; or "auto": the
               search of `kcore.search`, down to the budgets that are given, or to a KL of 0.01 nats
    target_params, max_kl  of "auto": the part of the parameters to keep, without targets; and nats, in which
               values count by half their squared error in parts of their variance, beside the KL of actions
    observations  (N, ..) or a dict of such, as the policy gets them (normalized, if so), for "auto" and
               colors="activations"; by default what `states.recorded` finds
    colors, round_to  as `kcore.collapse` has them

    One number of Stable-Baselines3's may stand for several layers, such as both critics' of SAC: these merge
    each by its own weights and end at the width of the one that needs most, others keeping some fibers split.
    So nothing is lost that one of them needs. A target takes the partition of its online network.
    Raises UserError, the model as it was, where it cannot be traced, an argument means nothing, or the
    smaller policy would not be one that Stable-Baselines3 builds.
    """
    _check(model)
    auto = isinstance(threshold, str)
    if auto and threshold != "auto":
        raise UserError(f"threshold is {threshold!r}: expected 'auto', a number from 0 to 2, or a mapping")
    if not auto and (target_params is not None or max_kl is not None):
        raise UserError("target_params and max_kl are budgets of a search: give threshold='auto' with them")
    if auto:
        found = _searched(model, target_params, max_kl, observations, round_to)
    else:
        traced = trace(model)
        calibrate: tuple = ()
        if colors == "activations":
            seen = states.recorded(model, observations)
            calibrate = (states.inputs(model, traced.policy, *seen),)  # type: ignore[arg-type]
        coloring = traced.color(threshold, colors=colors, calibrate=calibrate, round_to=round_to)  # type: ignore[arg-type]
        found = traced.merge(coloring, calibrate=calibrate)
    _install(model, found)
    return found


def trace(model: Any, spread: float | None = None) -> Traced:
    """A model's policy, traced as the function of states that `views` says; nothing is done to it.

    spread  the deviation that values are compared by, where they are to count in divergences
    The other functions of `pufferlib_kcore` take it: `kcore.spaces(sb3.trace(model))`.
    """
    _check(model)
    view = view_of(model, spread)
    value = None if isinstance(view, Q) and spread is None else 1
    traced = trace_policy(view, states.inputs(model, view, states.drawn(model)), value=value)
    return replace(traced, network=slots.fitted(traced.network, model.policy))


def _check(model: Any) -> None:
    if importlib.util.find_spec("stable_baselines3") is None:
        raise UserError("Stable-Baselines3 is not installed: pip install stable-baselines3")
    from stable_baselines3.common.base_class import BaseAlgorithm

    if not isinstance(model, BaseAlgorithm):
        raise UserError(
            f"{type(model).__name__} is no model of Stable-Baselines3: expected one such as PPO(..)"
        )
    if getattr(model, "policy", None) is None:
        raise UserError(
            f"this {type(model).__name__} has no policy yet: it was made with _init_setup_model=False"
        )
    view_of(model)


def _searched(
    model: Any, target_params: float | None, max_kl: float | None, observations: Any, round_to: int
) -> Collapse:
    view = view_of(model)
    widest = max((space.units for space in trace(model).network.spaces if not space.whole), default=1)
    seen = states.recorded(model, observations, least=2 * widest)
    with torch.no_grad():
        answer = view(*states.inputs(model, view, *seen))
    values = torch.cat([v.flatten() for v in (answer[1] if isinstance(answer, tuple) else (answer,))])
    spread = float(values.std().clamp_min(1e-6))
    traced = trace(model, spread)
    calibrate, held_out = states.halves(model, view, *seen)
    max_kl = MAX_KL if max_kl is None and target_params is None else max_kl
    budgets = dict(max_kl=max_kl, target_params=target_params, round_to=round_to)
    return search(traced, None, calibrate, held_out, **budgets).collapse  # type: ignore[arg-type]


def _install(model: Any, found: Collapse) -> None:
    """Put the smaller policy into the model.  Edits nothing before all of it is made."""
    view = view_of(model)
    kwargs = slots.policy_kwargs(model, found.widths)
    policy = _built(model, kwargs)
    _fill(policy, _tensors(model.policy, found))
    optimizers = {}
    for owner in ("", "actor", "critic"):
        held = getattr(_part(model.policy, owner), "optimizer", None)
        if held is not None:
            optimizers[owner] = collapse_optimizer(held, found, view)
    for owner, state in optimizers.items():
        _part(policy, owner).optimizer.load_state_dict(state)
    memory = _memory(model, found)
    model.policy, model.policy_kwargs = policy, kwargs
    _aliases(model)
    for holder, name, value in memory:
        setattr(holder, name, value)


def _built(model: Any, kwargs: Mapping[str, Any]) -> Any:
    """A policy that is what the model's is but for its widths, its weights still to be filled in."""
    old, policy = model.policy, _built_at(model, kwargs)
    for module, before in zip(policy.modules(), old.modules(), strict=True):
        module.training = before.training
    for p, before in zip(policy.parameters(), old.parameters(), strict=True):
        p.requires_grad_(before.requires_grad)
        p.data = p.data.to(before.dtype)
    for module, before in zip(policy.modules(), old.modules(), strict=True):
        noise = getattr(before, "action_dist", None)
        if noise is not None and hasattr(noise, "exploration_mat"):  # gSDE's, along what stays whole
            module.action_dist = copy_of(noise)
    return policy


def _tensors(policy: nn.Module, found: Collapse) -> dict[str, Tensor]:
    """Every parameter and buffer of the smaller policy.

    A target's is its own, merged as the online one is, plus what a refit did to that one's: it follows.
    """
    before = tensors_of(policy)
    after = {name.removeprefix("policy."): x for name, x in tensors_of(found.policy).items()}
    table = {name.removeprefix("policy."): axes for name, axes in found.network.table.items()}
    merges = {name: merge for name, merge in found.merges.items() if merge.changes}
    whole = policy.state_dict(keep_vars=True)  # by every name that shared modules have
    known = {id(x): name for name, x in before.items()}
    tensors = {}
    for name, x in before.items():
        start = next((target for target in TARGETS if name.startswith(target)), None)
        if start is None:
            tensors[name] = after[name].detach()
            continue
        online = known[id(whole[TARGETS[start] + name.removeprefix(start)])]
        axes = table.get(online, ())
        own, plain = (quotient.carry(t, axes, merges, quotient.COLLAPSE) for t in (x, before[online]))
        tensors[name] = own + (after[online].detach() - plain)
    return tensors


def _built_at(model: Any, kwargs: Mapping[str, Any]) -> Any:
    """A policy as the algorithm itself would make it, chance left as it is."""
    more = (
        {"use_sde": model.use_sde} if hasattr(model.policy, "mlp_extractor") else {}
    )  # others keep it in kwargs
    with chance_kept(model.policy):
        return model.policy_class(
            model.observation_space, model.action_space, model.lr_schedule, **more, **copy.deepcopy(kwargs)
        ).to(model.device)


def _fill(policy: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = tensors_of(policy)
    for name in sorted(own.keys() | tensors.keys()):
        ours, theirs = (tuple(x[name].shape) if name in x else None for x in (own, tensors))
        if ours != theirs:
            raise UserError(
                f"{name} of the smaller policy would have shape {theirs}, and {type(policy).__name__} makes "
                f"it {ours}: leave it whole with a threshold of 0 for its space"
            )
        own[name].data.copy_(tensors[name])


def _part(policy: Any, owner: str) -> Any:
    return getattr(policy, owner, None) if owner else policy


def _aliases(model: Any) -> None:
    """What an algorithm keeps of its policy's parts."""
    from stable_baselines3.common.utils import get_parameters_by_name

    if hasattr(model, "_create_aliases"):
        model._create_aliases()
    for name in [n for n in vars(model) if "batch_norm_stats" in n]:
        prefix, _, suffix = name.partition("batch_norm_stats")
        net = (prefix.rstrip("_") or ("q_net" if hasattr(model, "q_net") else "critic")) + suffix
        setattr(model, name, get_parameters_by_name(getattr(model, net), ["running_"]))


def _memory(model: Any, found: Collapse) -> list[tuple[Any, str, Any]]:
    """Recurrent states cut to fibers: (holder, attribute, value), the model's last and its buffer's."""
    last = getattr(model, "_last_lstm_states", None)
    if last is None:
        return []
    states_of = found.network.state_inputs
    places = sorted(states_of)
    flat = [*last.pi, *last.vf]
    ways = _ways(places, states_of, flat, model)
    small = [x if way is None else cut(x, way, found.merges) for x, way in zip(flat, ways, strict=True)]
    changes = [(model, "_last_lstm_states", type(last)(tuple(small[:2]), tuple(small[2:])))]
    buffer = model.rollout_buffer
    for name, way in zip(
        ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf"), ways, strict=True
    ):
        held = getattr(buffer, name, None)
        if held is not None and way is not None and held.shape[-1] == flat[0].shape[-1]:
            lead = _flattened(buffer)
            changes.append((buffer, name, _cut_array(held, way, found, lead)))
    shape = (*buffer.hidden_state_shape[:-1], small[0].shape[-1])
    return [*changes, (buffer, "hidden_state_shape", shape)]


def _ways(places: list[int], known: Mapping[int, State], flat: list, model: Any) -> list[State | None]:
    """Of h and c of the actor and of the critic: how each is cut. What a critic without an LSTM is given in
    place of its states is the actor's."""
    ranked = [known[i] for i in places]
    actor = ranked[:2]
    critic = ranked[2:4] if model.policy.lstm_critic is not None else actor
    return [*actor, *critic] if len(actor) == 2 and len(critic) == 2 else [None] * 4


def _flattened(buffer: Any) -> bool:
    return bool(getattr(buffer, "generator_ready", False))


def _cut_array(held: np.ndarray, way: State, found: Collapse, flattened: bool) -> np.ndarray:
    """(steps, layers, envs, units), or (steps * envs, layers, units) once a buffer was read."""
    x = torch.as_tensor(held)
    small = cut(x[..., None, :], way, found.merges)[..., 0, :] if flattened else cut(x, way, found.merges)
    return small.numpy()


def _twin(model: Any) -> Any:
    """A copy that shares with the model its environment, its logger, and what will be replaced."""
    twin = object.__new__(type(model))
    own = vars(model)
    modules = {n for n, x in own.items() if isinstance(x, nn.Module) or "batch_norm_stats" in n}
    kept = {n: x for n, x in own.items() if n in SHARED or n in modules}
    buffer = own.get("replay_buffer")
    world = vars(buffer).get("env") if buffer is not None else None
    if world is not None:
        buffer.env = None  # HerReplayBuffer's: it is not to be copied
    try:
        vars(twin).update(copy_of({n: x for n, x in own.items() if n not in kept}) | kept)
    finally:
        if world is not None:
            buffer.env = world
    if world is not None:
        twin.replay_buffer.env = world
    return twin
