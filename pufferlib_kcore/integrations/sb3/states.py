"""States: observations of a model, as its policy gets them, and the inputs of its view made of them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.integrations.sb3.views import Continuous, Recurrent, View

COUNT = 1024  # states, at most
EXAMPLES = 3  # states that a policy is traced on


def recorded(model: Any, observations: Any = None, count: int = COUNT, least: int = 1) -> tuple[Any, Any]:
    """Observations, (N, ..) or a dict of such, and what else is known of them.

    -> beside them the actions (N, d) taken there, of a replay buffer; the four states (N, layers, units) of
    LSTMs, of a recurrent rollout; or None. Those observations that are given; else of the model's buffer,
    spread evenly, normalized as its VecNormalize does it by now; else of a copy of its environment, played by
    the model. The model and its environment are left as they are.
    least  so many are needed: as many states as units, or units would seem to follow from each other
    Raises UserError where there are fewer.
    """
    found: tuple[Any, Any] | None
    if observations is not None:
        found = _picked(_checked(model, observations), max(count, least)), None
    else:
        found = _buffered(model, max(count, least))
        if found is None or len(_first(found[0])) < least and not hasattr(model.policy, "lstm_actor"):
            found = _played(model, max(least, 256)), None
    if len(_first(found[0])) < least:
        raise UserError(
            f"{len(_first(found[0]))} recorded states are too few to search on: expected {least} or more, "
            "twice as many as the widest layer has units; learn first, with more n_steps or environments"
        )
    return found


def _buffered(model: Any, count: int) -> tuple[Any, Any] | None:
    """What the model's buffer holds; None where that is nothing."""
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None and buffer.size():
        rows = buffer.buffer_size if buffer.full else buffer.pos
        seen = _map(buffer.observations, lambda x: x[:rows].reshape(-1, *x.shape[2:]))
        actions = buffer.actions[:rows].reshape(-1, *buffer.actions.shape[2:])
        some, taken = _picked(seen, count), _picked(actions, count)
        normalizer = model.get_vec_normalize_env()
        return (some if normalizer is None else normalizer.normalize_obs(some)), taken
    buffer = getattr(model, "rollout_buffer", None)
    if buffer is None or not (buffer.full or buffer.pos):
        return None
    flat = getattr(buffer, "generator_ready", False)

    def rows_of(x: np.ndarray) -> np.ndarray:
        return x if flat else x[: len(x) if buffer.full else buffer.pos].reshape(-1, *x.shape[2:])

    seen = _picked(_map(buffer.observations, rows_of), count)
    if not hasattr(buffer, "hidden_states_pi"):
        return seen, None
    names = ("hidden_states_pi", "cell_states_pi", "hidden_states_vf", "cell_states_vf")
    held = [getattr(buffer, name) for name in names]
    return seen, [_picked(x if flat else rows_of(x.swapaxes(1, 2)), count) for x in held]


def _played(model: Any, count: int) -> Any:
    """What the model sees in a copy of its environment, its own actions drawn from a seed of their own."""
    cure = "give observations=..., or learn for some steps first"
    if model.env is None:
        raise UserError(f"this {type(model).__name__} has no recorded states and no environment: {cure}")
    try:
        env = copy.deepcopy(model.env)
        env.seed(0)
        now = env.reset()
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} has no recorded states, and its environment cannot be copied "
            f"({type(error).__name__}): {cure}"
        ) from error
    seen: list[Any] = []
    state, starts = None, np.ones(env.num_envs, bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        while len(seen) * env.num_envs < count:
            seen.append(copy.deepcopy(now))
            actions, state = model.predict(now, state, starts)
            now, _, starts, _ = env.step(actions)
    together = {k: np.concatenate([s[k] for s in seen]) for k in now} if isinstance(now, dict) else None
    return _channels_first(model, together or np.concatenate(seen))


def drawn(model: Any, count: int = EXAMPLES) -> Any:
    """Observations from a model's space, for a trace: any will do."""
    space = copy.deepcopy(model.observation_space)
    space.seed(0)
    some = [space.sample() for _ in range(count)]
    return (
        {k: np.stack([s[k] for s in some]) for k in some[0]} if isinstance(some[0], dict) else np.stack(some)
    )


def inputs(model: Any, view: View, observations: Any, beside: Any = None) -> tuple:
    """Positional arguments of a view.  beside: as `recorded` has it; else actions are drawn, memories 0"""
    device = model.policy.device
    seen = _map(observations, lambda x: torch.as_tensor(np.asarray(x), device=device))
    n = len(_first(seen))
    if isinstance(view, Continuous):
        if beside is None:
            space = copy.deepcopy(model.action_space)
            space.seed(0)
            beside = model.policy.scale_action(np.stack([space.sample() for _ in range(n)]))
        return seen, torch.as_tensor(beside, dtype=torch.float32, device=device)
    if isinstance(view, Recurrent):
        lstm = model.policy.lstm_actor
        if beside is None:
            beside = [np.zeros((n, lstm.num_layers, lstm.hidden_size), np.float32)] * 4
        h, c, also_h, also_c = (torch.tensor(x, device=device).swapaxes(0, 1).contiguous() for x in beside)
        return seen, (h, c), (also_h, also_c), torch.zeros(n, device=device)
    return (seen,)


def halves(model: Any, view: View, observations: Any, beside: Any) -> tuple[list, list]:
    """Inputs to calibrate on, and as many held out: every other state."""
    parts = []
    for start in (0, 1):
        some = _map(observations, lambda x, start=start: x[start::2])
        with_it = [x[start::2] for x in beside] if isinstance(beside, list) else beside
        with_it = beside[start::2] if isinstance(beside, np.ndarray) else with_it
        parts.append([inputs(model, view, some, with_it)])
    return parts[0], parts[1]


def _checked(model: Any, observations: Any) -> Any:
    seen = _channels_first(model, observations)
    space = model.observation_space
    wanted = {k: s.shape for k, s in space.spaces.items()} if isinstance(seen, dict) else {"": space.shape}
    for key, shape in wanted.items():
        x = np.asarray(seen[key] if key else seen) if not key or key in seen else np.empty(0)
        if x.shape[1:] != shape or not len(x):
            where = f"observations['{key}']" if key else "observations"
            raise UserError(f"{where} have shape {x.shape}: expected (N, {', '.join(map(str, shape))})")
    return seen


def _channels_first(model: Any, observations: Any) -> Any:
    from stable_baselines3.common.preprocessing import is_image_space
    from stable_baselines3.common.vec_env import VecTransposeImage

    def one(x: Any, space: Any) -> np.ndarray:
        x = np.asarray(x)
        turn = is_image_space(space) and x.ndim == 4 and x.shape[1:] != space.shape
        return VecTransposeImage.transpose_image(x) if turn else x

    space = model.observation_space
    if isinstance(observations, dict):
        return {k: one(x, space[k]) for k, x in observations.items()}
    return one(observations, space)


def _picked(x: Any, count: int) -> Any:
    n = len(_first(x))
    places = np.unique(np.linspace(0, n - 1, min(n, count)).astype(int))
    return _map(x, lambda one: np.asarray(one)[places])


def _map(x: Any, f: Any) -> Any:
    return {key: f(one) for key, one in x.items()} if isinstance(x, dict) else f(x)


def _first(x: Any) -> np.ndarray | Tensor:
    return next(iter(x.values())) if isinstance(x, dict) else x
