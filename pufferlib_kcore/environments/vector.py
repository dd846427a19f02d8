"""Many envs stepped at once, in groups, on PufferLib's vectorization or ALE's: here, in workers, on Ray."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pufferlib_kcore.environments.quiet import quiet
from pufferlib_kcore.environments.seeds import env_seeds
from pufferlib_kcore.errors import UserError

with quiet():
    import pufferlib.vector


Seed = int | Sequence[int] | None  # entropy, see seeds; None: that which the envs were made with


class WorkerDied(RuntimeError):
    """An env worker ended before it was told to; the message holds its own traceback or last words."""


class Batch(NamedTuple):
    """What a group of B envs answers. Arrays are views, valid until the group's next send."""

    obs: np.ndarray  # (B, *obs) uint8 or float32
    rewards: np.ndarray  # (B,) float32
    terminals: np.ndarray  # (B,) bool
    truncations: np.ndarray  # (B,) bool
    infos: list[dict]  # one for each episode that ended, in the order of the envs
    env_ids: np.ndarray  # (B,) int


class VecEnv(Protocol):
    """Envs 0..num_envs-1 in contiguous groups, each received and sent by itself, in any rhythm.

    reset(seed, first) gives env i the seed of `seeds.env_seed(seed, first + i)` and starts all (first: of
    envs that are a part of more); each draws its later episodes from where it is. Then, for a group g,
    recv(g) and send(g, actions) alternate. Numbers depend on seed and actions alone, not on backend, workers
    or timing. The step after an episode's end is PufferLib's dummy step: its action is ignored, and it
    answers with the new episode's first observation and reward 0.
    """

    num_envs: int
    single_observation_space: Any
    single_action_space: Any
    driver_env: Any
    groups: list[np.ndarray]

    def reset(self, seed: Seed = None, first: int = 0) -> None: ...
    def recv(self, group: int) -> Batch: ...
    def send(self, group: int, actions: np.ndarray) -> None: ...
    def close(self) -> None: ...


class Turns:
    """Whose turn it is in each group: 'reset' first, then 'recv' and 'send' by turns."""

    def __init__(self, groups: int):
        self.next = ["reset"] * groups

    def take(self, group: int, what: str, then: str) -> None:
        if self.next[group] != what:
            raise RuntimeError(f"{what}({group}) was called where {self.next[group]} comes next")
        self.next[group] = then

    def start(self) -> None:
        self.next = ["recv"] * len(self.next)

    def close(self) -> None:
        self.next = ["nothing (it is closed)"] * len(self.next)


class Serial(pufferlib.vector.Serial):
    """All envs in this process, one after the other: for debugging, and for envs that take no time."""

    num_envs = 0  # in place of PufferLib's property

    def __init__(self, creators: list[Callable], seed: int):
        self.num_envs, self.seed = len(creators), seed
        nothing: list = [[]] * len(creators)
        super().__init__(creators, nothing, [{}] * len(creators), len(creators))
        self.groups = [np.arange(self.num_envs)]
        self.turns = Turns(1)

    def reset(self, seed: Seed = None, first: int = 0) -> None:
        self.async_reset(env_seeds(self.seed if seed is None else seed, first, self.num_envs))
        self.turns.start()

    def recv(self, group: int = 0) -> Batch:
        self.turns.take(group, "recv", then="send")
        obs, rewards, terminals, truncations, infos, ids, _ = super().recv()
        return Batch(obs, rewards, terminals, truncations, infos, ids)

    def send(self, group: int, actions: np.ndarray) -> None:
        actions = as_actions(actions, self.num_envs, self.single_action_space)
        self.turns.take(group, "send", then="recv")
        super().send(actions)

    def close(self) -> None:
        self.turns.close()
        while self.envs:
            self.envs.pop().close()


def as_actions(actions: np.ndarray, n: int, space: Any) -> np.ndarray:
    """Actions as the env buffers hold them: (n, *action) int32 or float32.  Raises ValueError."""
    continuous = isinstance(space, pufferlib.spaces.Box)
    actions = np.ascontiguousarray(actions, space.dtype if continuous else np.int32)
    if actions.shape != (n, *space.shape):
        raise ValueError(f"actions have shape {actions.shape}: expected {(n, *space.shape)}")
    return actions


def make(
    creator: Callable,
    backend: str = "multiprocessing",
    num_envs: int = 1,
    num_workers: int | None = None,
    env_batch_size: int | None = None,
    seed: int = 0,
) -> VecEnv:
    """num_envs envs, made by creator(), in num_envs / env_batch_size groups (serial: in one).

    num_workers: processes, each with num_envs / num_workers envs; a group is made of whole workers
    (`cores.share_cores` finds numbers that fit). With ale: threads, which the groups share. seed: for reset()
    without one. Raises UserError for an unknown backend, numbers that do not divide, and games that ale has
    not.
    """
    if num_envs < 1:
        raise UserError(f"num_envs is {num_envs}: expected 1 or more")
    creators = [creator] * num_envs
    if backend == "serial":
        return Serial(creators, seed)
    if backend not in ("multiprocessing", "ray", "ale"):
        raise UserError(f"unknown vectorization {backend!r}: expected serial, multiprocessing, ray or ale")
    num_workers = num_workers or num_envs
    if backend == "ale":
        from pufferlib_kcore.environments.ale_vector import Ale

        env_batch_size = env_batch_size or num_envs
        if num_envs % env_batch_size:
            raise UserError(f"groups of {env_batch_size} envs do not fit {num_envs} envs: choose a divisor")
        return Ale(creator, num_envs, num_workers, env_batch_size, seed)
    if num_envs % num_workers:
        raise UserError(f"{num_envs} envs cannot be shared evenly by {num_workers} workers: choose a divisor")
    env_batch_size = env_batch_size or num_envs
    if num_envs % env_batch_size or env_batch_size % (num_envs // num_workers):
        raise UserError(
            f"groups of {env_batch_size} envs do not fit {num_envs} envs in {num_workers} workers: "
            "env_batch_size must divide num_envs and be a multiple of num_envs / num_workers = "
            f"{num_envs // num_workers}"
        )
    if backend == "ray":
        from pufferlib_kcore.environments.ray_cluster import Ray

        return Ray(creators, num_workers, env_batch_size, seed)
    from pufferlib_kcore.environments.processes import Multiprocessing

    return Multiprocessing(creators, num_workers, env_batch_size, seed)
