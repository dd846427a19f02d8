"""PufferLib's Ray backend, with a seed for each env and its actors' errors as ours."""

import logging
import re
from collections.abc import Callable

import numpy as np

from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.environments.vector import Batch, Turns, WorkerDied, as_actions
from pufferlib_kcore.errors import UserError

with quiet():
    import pufferlib.vector


class Ray(pufferlib.vector.Ray):
    """Envs in Ray actors, here or on a cluster (RAY_ADDRESS), in one group."""

    num_envs = 0

    def __init__(self, creators: list[Callable], num_workers: int, seed: int):
        try:
            import ray
        except ImportError:
            raise UserError('--vec ray needs Ray, which is not installed: pip install "ray"') from None
        self.num_envs, self.seed = len(creators), seed
        self.started = not ray.is_initialized()
        if self.started:
            ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        nothing: list = [[]] * self.num_envs
        super().__init__(creators, nothing, [{}] * self.num_envs, self.num_envs, num_workers=num_workers)
        self.groups = [np.arange(self.num_envs)]
        self.turns = Turns(1)

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode in every env, without waiting."""
        seed = self.seed if seed is None else int(seed)
        each = self.num_envs // self.num_workers
        self._ask(
            "async_reset", [[seed + i * each + k for k in range(each)] for i in range(self.num_workers)]
        )
        self.turns.start()

    def recv(self, group: int = 0) -> Batch:
        """Wait for all actors.  Raises WorkerDied with the actor's traceback, or why Ray lost it."""
        self.turns.take(group, "recv", then="send")
        try:
            answers = self.ray.get(self.async_handles)[self.num_workers :]
        except self.ray.exceptions.RayError as error:
            self.close()
            raise WorkerDied(f"an env worker on Ray failed:\n{_plain(error)}") from None
        obs, rewards, terminals, truncations, infos, _, _ = zip(*answers, strict=True)
        return Batch(
            np.concatenate(obs),
            np.concatenate(rewards),
            np.concatenate(terminals),
            np.concatenate(truncations),
            [info for some in infos for info in some],
            self.groups[0],
        )

    def send(self, group: int, actions: np.ndarray) -> None:
        """Start the next step of all.  actions: (num_envs, *action)"""
        actions = as_actions(actions, self.num_envs, self.single_action_space)
        self.turns.take(group, "send", then="recv")
        self._ask("send", np.split(actions, self.num_workers))

    def _ask(self, method: str, arguments: list) -> None:
        """Start a method of every actor and then its recv; the handles of both, whose errors recv raises."""
        asked = [getattr(a, method).remote(arg) for a, arg in zip(self.envs, arguments, strict=True)]
        self.async_handles = asked + [actor.recv.remote() for actor in self.envs]

    def close(self) -> None:
        """End the actors, and Ray if it was started here. May be called again."""
        self.turns.close()
        while self.envs:
            self.ray.kill(self.envs.pop())
        if self.started:
            self.ray.shutdown()
            self.started = False


def _plain(error: Exception) -> str:
    """An error's text without terminal colors."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))
