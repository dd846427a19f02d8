"""Learning: agents by name, trained in a world: PPO by this project's trainer, DQN and A2C by others'."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium import spaces

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.agents import (
    HEURISTICS,
    Agent,
    ModelAgent,
    PolicyAgent,
    create_heuristic_agent,
)
from pufferlib_kcore.failure_lab.recorder import recorder
from pufferlib_kcore.failure_lab.worlds import World
from pufferlib_kcore.jobs.commands import Home
from pufferlib_kcore.jobs.source import RunSource
from pufferlib_kcore.jobs.training import TrainRequest, resumed, train
from pufferlib_kcore.settings import nearest
from pufferlib_kcore.store import Run, metrics

PPO_TRAIN = {
    "num_envs": 8,
    "batch_size": 512,
    "minibatch_size": 128,
    "bptt_horizon": 8,
    "update_epochs": 4,
    "learning_rate": 1e-3,
    "anneal_lr": False,
    "threads": 1,
    "ent_coef": 0.01,
    "precision": "float32",
    "checkpoint_interval": 10,
}
DQN = {
    "learning_rate": 1e-3,
    "buffer_size": 20_000,
    "batch_size": 64,
    "learning_starts": 500,
    "target_update_interval": 500,
    "exploration_fraction": 0.5,
    "exploration_final_eps": 0.01,
    "policy_kwargs": {"net_arch": [64, 64]},
}


@dataclass(frozen=True)
class Learned:
    """An agent, and the metrics of its training, one record every so many steps; none of a rule."""

    agent: Agent
    records: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: Mapping[int, Callable[[], Agent]] = field(default_factory=dict)  # by steps


Learner = Callable[[World, int, int, Path, dict[str, Any], int], Learned]


def learn(
    kind: str,
    world: World,
    steps: int,
    seed: int,
    folder: Path,
    params: Mapping[str, Any] | None = None,
    every: int | None = None,
) -> Learned:
    """An agent of that kind, trained so many steps; its files, checkpoints every so many, go into `folder`.

    Given again it goes on, or is read where it is done. Raises UserError for a kind, a setting or a world
    that cannot be.
    """
    check_agent(kind)
    env = world.creator.gymnasium()
    space, action = env.observation_space, env.action_space
    env.close()
    if kind == "sac" or not isinstance(action, spaces.Discrete):
        raise UserError(
            f"{kind} cannot act in {world.env}: "
            + ("SAC's actions are real numbers, and here one of a few is chosen: take dqn, ppo or a2c"
               if isinstance(action, spaces.Discrete) else "the lab's agents choose one of a few actions")
        )  # fmt: skip
    assert space.shape is not None
    if kind in HEURISTICS:
        made = create_heuristic_agent(kind, space.shape[0], int(action.n), seed=seed, **(params or {}))
        return Learned(made)
    folder.mkdir(parents=True, exist_ok=True)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # runs keep logs of their own
        return LEARNERS[kind](world, steps, seed, folder, dict(params or {}), every or steps)


def check_agent(kind: str) -> None:
    """Raise UserError with the nearest name for an agent that there is not."""
    if kind not in AGENTS:
        near = nearest(kind, AGENTS)
        raise UserError(
            f"unknown agent {kind!r}: "
            + (f"did you mean {near}?" if near else f"expected one of {', '.join(AGENTS)}")
        )


def ppo(world: World, steps: int, seed: int, folder: Path, params: dict[str, Any], every: int) -> Learned:
    """This project's, its run in folder/ppo.

    params: of [train], or section.name; recurrent: with an LSTM; broken: of [train], beyond what is allowed
    """
    recurrent, broken = params.pop("recurrent", False), params.pop("broken", {})
    own = {key if "." in key else f"train.{key}": value for key, value in {**PPO_TRAIN, **params}.items()}
    own |= {"train.seed": seed, "train.total_timesteps": steps}
    own |= {"base.rnn_name": "Recurrent" if recurrent else "None"}  # whatever the world's file says
    own |= {"train.checkpoint_interval": max(1, every // own["train.batch_size"])}
    home, run = Home(data_dir=str(folder), vec="serial"), Run(folder / "ppo")
    source = RunSource(run=run, vec="serial")
    if not run.checkpoints():
        settings = world.resolved(own)
        settings = replace(settings, train=replace(settings.train, **broken))
        train(TrainRequest(settings=settings, home=home, root=folder, name="ppo"))
    elif not done(run, steps):
        train(resumed(source, home))

    def agent(path: Path) -> Agent:
        restored = source.read(path)
        size = restored.spec["observation_space"]["shape"][0]
        return PolicyAgent(restored.policy, size, int(restored.spec["action_space"]["n"]), seed=seed)

    records = run.metrics()
    taken = {row["epoch"]: row["agent_steps"] for row in records}
    files = {taken[epoch]: partial(agent, path) for epoch, path in run.checkpoints() if epoch in taken}
    return Learned(agent(run.latest()[1]), records, files)


def done(run: Run, steps: int) -> bool:
    records = run.metrics()
    return bool(records) and records[-1]["agent_steps"] >= steps


def model(kind: str) -> Learner:
    """One of Stable-Baselines3's."""

    def learned(
        world: World, steps: int, seed: int, folder: Path, params: dict[str, Any], every: int
    ) -> Learned:
        if importlib.util.find_spec("stable_baselines3") is None:
            raise UserError(
                f"{kind} is Stable-Baselines3's, which is not installed: "
                "install it with the extra, pip install -e .[connectivity]"
            )
        import stable_baselines3

        cls = getattr(stable_baselines3, kind.upper())
        path, told = folder / f"{kind}.zip", folder / "metrics.jsonl"

        def agent(path: Path) -> Agent:
            return ModelAgent(cls.load(path, device="cpu"))

        if not path.is_file():
            told.unlink(missing_ok=True)
            own = {**DQN, **params} if kind == "dqn" else params
            scale = float(world.settings.get("reward_scale", 1.0))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    made = cls(
                        "MlpPolicy", world.creator.gymnasium(), seed=seed, device="cpu", **_copied(own)
                    )
                except TypeError as error:
                    raise UserError(f"{kind} cannot be made so: {error}") from error
                made.learn(steps, callback=recorder(told, folder, every, scale))
            half = path.with_name(f".{kind}.part.zip")
            made.save(half)
            half.replace(path)
        files = {int(p.stem.split("_")[1]): partial(agent, p) for p in sorted(folder.glob("model_*.zip"))}
        return Learned(agent(path), metrics.read(told), files)

    return learned


LEARNERS: dict[str, Learner] = {"dqn": model("dqn"), "ppo": ppo, "a2c": model("a2c")}
AGENTS = ("dqn", "ppo", *HEURISTICS, "a2c", "sac")
NINE = ("dqn", "ppo", *HEURISTICS)


def _copied(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in params.items()}
