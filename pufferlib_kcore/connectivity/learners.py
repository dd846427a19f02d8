"""Learners: Stable-Baselines3's SAC and DDPG as forks need them: stepwise, taken down and put up again.

The programs are theirs; what is ours is when they are called. MLPs of 256-256 for actors and critics, and
observations in float32.
"""

from __future__ import annotations

import copy
import importlib.util
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from pufferlib_kcore.connectivity.plan import Plan
from pufferlib_kcore.connectivity.replay import Transitions, fill
from pufferlib_kcore.environments import control
from pufferlib_kcore.environments.creators import find
from pufferlib_kcore.environments.wrappers import Float32Observations
from pufferlib_kcore.errors import UserError

NETS = [256, 256]
NOISE = 0.1  # of DDPG's actions, in parts of half their range
PACKAGES = ("mujoco", "classic_control_continuous")


def check_env(name: str) -> str:
    """The plain name of an environment that SAC and DDPG can act in.  Raises UserError."""
    package, plain = find(name)
    if package not in PACKAGES:
        raise UserError(
            f"{name} cannot be learned by SAC or DDPG, whose actions are real numbers: "
            "take one such as Hopper-v5, or fork a run of demo.py by --mode fork"
        )
    return plain


def make_env(plan: Plan) -> gymnasium.Env:
    """One environment, its own observations in float32 and its own bounds of actions."""
    name = check_env(plan.env)
    return Float32Observations(control.make(name, max_episode_steps=plan.max_episode_steps))


def learner(plan: Plan, seed: int, capacity: int) -> Any:
    """A new one of Stable-Baselines3's, with an environment of its own."""
    if importlib.util.find_spec("stable_baselines3") is None:
        raise UserError(
            f"{plan.algo} is Stable-Baselines3's, which is not installed: "
            "install it with the extra, pip install -e .[connectivity]"
        )
    from stable_baselines3 import DDPG, SAC
    from stable_baselines3.common.noise import NormalActionNoise

    env = make_env(plan)
    assert isinstance(env.action_space, spaces.Box)
    kwargs: dict[str, Any] = {
        "buffer_size": capacity,
        "learning_starts": plan.learning_starts,
        "batch_size": plan.batch,
        "tau": 0.005,
        "gamma": 0.99,
        "train_freq": plan.train_freq,
        "gradient_steps": 1,
        "policy_kwargs": {"net_arch": list(NETS)},  # they write into what they are given
        "seed": seed,
        "device": plan.device,
    }
    if plan.algo == "SAC":
        return SAC("MlpPolicy", env, learning_rate=3e-4, ent_coef=plan.ent_coef, **kwargs)
    size = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(size), np.full(size, NOISE))
    return DDPG("MlpPolicy", env, learning_rate=1e-3, action_noise=noise, **kwargs)


def turns(model: Any, total: int) -> Iterator[int]:
    """Learn until `total` steps, pausing after every rollout with its update.  -> steps done so far

    What `model.learn` does, bit for bit; a child's updates wait until its buffer holds a batch.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = total - model.num_timesteps
        end, callback = model._setup_learn(left, None, reset_num_timesteps=model.num_timesteps == 0)
    callback.on_training_start(locals(), globals())
    while model.num_timesteps < end:
        model.collect_rollouts(
            model.env,
            train_freq=model.train_freq,
            action_noise=model.action_noise,
            callback=callback,
            learning_starts=model.learning_starts,
            replay_buffer=model.replay_buffer,
            log_interval=None,
        )
        enough = model.replay_buffer.size() >= min(model.batch_size, model.learning_starts + 1)
        if model.num_timesteps > model.learning_starts and enough:
            model.train(gradient_steps=1, batch_size=model.batch_size)
        yield model.num_timesteps
    callback.on_training_end()


# --- taken down, and put up again -----------------------------------------------------------------


def networks(model: Any) -> dict[str, nn.Module]:
    """Its networks and their targets, by the names that weights are stored under."""
    found = {"actor": model.actor, "critic": model.critic, "critic_target": model.critic_target}
    return {**found, **({"actor_target": model.actor_target} if hasattr(model, "actor_target") else {})}


def weights(model: Any, plan: Plan, **more: Any) -> dict[str, Any]:
    """Its networks as plain tensors, with what is needed to act with them; reads weights_only."""
    space = model.action_space
    found: dict[str, Any] = {
        name: {key: x.detach().cpu().clone() for key, x in net.state_dict().items()}
        for name, net in networks(model).items()
    }
    if getattr(model, "log_ent_coef", None) is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach().cpu().clone()
    bounds = {"low": torch.tensor(space.low), "high": torch.tensor(space.high)}
    told = {"env": plan.env, "algo": plan.algo, "max_episode_steps": plan.max_episode_steps}
    return {**found, **bounds, **told, "steps": int(model.num_timesteps), **more}


def taken_down(model: Any, plan: Plan) -> dict[str, Any]:
    """All that a fork copies but the buffer: weights, targets, and optimizers' states."""
    return {**weights(model, plan), "optimizers": {k: o.state_dict() for k, o in optimizers(model).items()}}


def put_up(model: Any, state: Mapping[str, Any], transitions: Transitions) -> None:
    """Make a new learner go on from there, in an episode of its own."""
    for name, net in networks(model).items():
        net.load_state_dict(state[name])
    if "log_ent_coef" in state:
        model.log_ent_coef.data.copy_(state["log_ent_coef"])
    for name, optimizer in optimizers(model).items():
        optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))  # else its tensors are shared
    fill(model.replay_buffer, transitions)
    model.num_timesteps = state["steps"]


def optimizers(model: Any) -> dict[str, torch.optim.Optimizer]:
    found = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    alpha = getattr(model, "ent_coef_optimizer", None)
    return {**found, **({"ent_coef": alpha} if alpha is not None else {})}


class Chance:
    """The random numbers that are global to a process, kept apart for two learners in one."""

    def __init__(self) -> None:
        self.states = (random.getstate(), np.random.get_state(), torch.get_rng_state())

    def back(self) -> None:
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])
        torch.set_rng_state(self.states[2])
