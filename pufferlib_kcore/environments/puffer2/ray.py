"""Envs on Ray, PufferLib's serial backend in each actor, spread over a cluster, in groups."""

import math
import re
from collections.abc import Callable

import numpy as np

from pufferlib_kcore.environments.contract import Batch, Seed, Turns, WorkerDied, as_actions
from pufferlib_kcore.environments.puffer2.serial import Serial
from pufferlib_kcore.environments.ray_cluster import connect, cpus_of_nodes, disconnect, package
from pufferlib_kcore.errors import UserError

PATIENCE = 180.0  # seconds that the workers get to start: a node may be slow, or busy with others' work


class Ray:
    """Envs in Ray actors, here or on a cluster (RAY_ADDRESS). Group g is the actors of its envs."""

    def __init__(self, creators: list[Callable], num_workers: int, env_batch_size: int, seed: int):
        self.num_envs, self.seed = len(creators), seed
        self.driver_env = creators[0]()
        self.single_observation_space = self.driver_env.single_observation_space
        self.single_action_space = self.driver_env.single_action_space
        self.groups = list(np.arange(self.num_envs).reshape(-1, env_batch_size))
        self.turns = Turns(len(self.groups))
        self.each = self.num_envs // num_workers
        connect()
        self.ray = package()
        cpus = cpus_of_nodes(self.ray)
        options = {"num_cpus": share(num_workers, sum(cpus)), "scheduling_strategy": "SPREAD"}
        actor = self.ray.remote(**options)(EnvWorker)
        self.workers = [actor.remote(creators[i : i + self.each]) for i in range(0, self.num_envs, self.each)]
        self.asked: list[list] = [[] for _ in self.groups]  # the answers that each group waits for
        try:
            self.nodes = self._start(cpus)  # of each worker, its node's id
        except BaseException:
            self.close()
            raise

    def reset(self, seed: Seed = None, first: int = 0) -> None:
        """Start a new episode in every env, without waiting. Steps under way are dropped."""
        seed = self.seed if seed is None else seed
        for group, ids in enumerate(self.groups):
            workers = self._workers(group)
            self.asked[group] = [
                worker.reset.remote(seed, first + int(ids[i * self.each])) for i, worker in enumerate(workers)
            ]
        self.turns.start()

    def recv(self, group: int = 0) -> Batch:
        """Wait for the group's actors.  Raises WorkerDied: an env's traceback, or that an actor was lost"""
        self.turns.take(group, "recv", then="send")
        try:
            answers = self.ray.get(self.asked[group])
        except self.ray.exceptions.RayTaskError as error:
            self.close()
            raise WorkerDied(f"an env worker on Ray failed:\n{_plain(error)}") from None
        except self.ray.exceptions.RayError:
            self.close()
            raise WorkerDied(
                "an env worker on Ray was lost: its process was killed, or its node has left the cluster"
            ) from None
        obs, rewards, terminals, truncations, infos = zip(*(answer[:5] for answer in answers), strict=True)
        return Batch(
            np.concatenate(obs),
            np.concatenate(rewards),
            np.concatenate(terminals),
            np.concatenate(truncations),
            [info for some in infos for info in some],
            self.groups[group],
        )

    def send(self, group: int, actions: np.ndarray) -> None:
        """Start the group's next step.  actions: (B, *action)"""
        actions = as_actions(actions, len(self.groups[group]), self.single_action_space)
        self.turns.take(group, "send", then="recv")
        workers = self._workers(group)
        parts = np.split(actions, len(workers))
        self.asked[group] = [worker.step.remote(part) for worker, part in zip(workers, parts, strict=True)]

    def close(self) -> None:
        """End the actors, and leave Ray if it was joined for them. May be called again."""
        self.turns.close()
        while self.workers:
            self.ray.kill(self.workers.pop())
        disconnect()

    def _workers(self, group: int) -> list:
        ids = self.groups[group]
        return self.workers[ids[0] // self.each : ids[-1] // self.each + 1]

    def _start(self, cpus: list[int]) -> list[str]:
        """Wait until all actors have made their envs.  -> the node of each"""
        handles = [worker.node.remote() for worker in self.workers]
        try:
            ready, waiting = self.ray.wait(handles, num_returns=len(handles), timeout=PATIENCE)
            nodes = self.ray.get(ready)
        except self.ray.exceptions.RayError as error:
            why = [line for line in _plain(error).splitlines() if line.strip()][-1].strip(" .")
            raise UserError(
                f"an env worker on Ray could not start ({why}): every node needs the packages of this one"
            ) from None
        if waiting:
            raise UserError(
                f"{len(waiting)} of {len(handles)} env workers on Ray did not start within {PATIENCE:.0f} s: "
                f"the cluster has {sum(cpus)} CPUs on {len(cpus)} nodes; free some of them, or ask for fewer "
                "with --train.num-workers"
            )
        return nodes


class EnvWorker:
    """In an actor: some of the envs, one after the other."""

    def __init__(self, creators: list[Callable]):
        self.envs = Serial(creators, seed=0)

    def node(self) -> str:
        """The id of the node that this runs on."""
        return package().get_runtime_context().get_node_id()

    def reset(self, seed: Seed, first: int) -> Batch:
        """Start new episodes in envs that are first, first + 1, .. of all."""
        self.envs.reset(seed, first)
        return self.envs.recv()

    def step(self, actions: np.ndarray) -> Batch:
        """actions: (n, *action) of this actor's n envs"""
        self.envs.send(0, actions)
        return self.envs.recv()


def share(workers: int, cpus: int) -> float:
    """CPUs to ask for each worker: 1, or where there are fewer than workers, a part by which all fit.

    >>> share(4, 8), share(4, 2), share(3, 2), share(4, 0)
    (1.0, 0.5, 0.5, 0.0)
    """
    if cpus < 1:
        return 0.0
    return math.floor(10_000 / math.ceil(workers / cpus)) / 10_000  # Ray counts in ten-thousandths


def _plain(error: Exception) -> str:
    """An error's text without terminal colors."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))
