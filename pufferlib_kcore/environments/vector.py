"""Many envs stepped at once: here, in workers, on Ray, or in ALE's threads."""

from collections.abc import Callable

from pufferlib_kcore.environments.contract import VecEnv
from pufferlib_kcore.errors import UserError


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
    num_workers, env_batch_size = num_workers or num_envs, env_batch_size or num_envs
    # Each backend is imported where it is asked for: Ray and ALE may not be there
    if backend == "serial":
        from pufferlib_kcore.environments.puffer2.serial import Serial

        return Serial([creator] * num_envs, seed)
    if backend == "ale":
        from pufferlib_kcore.environments.ale_vector import Ale

        return Ale(creator, num_envs, num_workers, env_batch_size, seed)
    if backend not in ("multiprocessing", "ray"):
        raise UserError(f"unknown vectorization {backend!r}: expected serial, multiprocessing, ray or ale")
    check_workers(num_envs, num_workers, env_batch_size)
    if backend == "ray":
        from pufferlib_kcore.environments.puffer2.ray import Ray

        return Ray([creator] * num_envs, num_workers, env_batch_size, seed)
    from pufferlib_kcore.environments.puffer2.processes import Multiprocessing

    return Multiprocessing([creator] * num_envs, num_workers, env_batch_size, seed)


def check_workers(num_envs: int, num_workers: int, env_batch_size: int) -> None:
    """Raise UserError unless workers share the envs evenly, and groups the workers."""
    if num_envs % num_workers:
        raise UserError(f"{num_envs} envs cannot be shared evenly by {num_workers} workers: choose a divisor")
    if num_envs % env_batch_size or env_batch_size % (num_envs // num_workers):
        raise UserError(
            f"groups of {env_batch_size} envs do not fit {num_envs} envs in {num_workers} workers: "
            "env_batch_size must divide num_envs and be a multiple of num_envs / num_workers = "
            f"{num_envs // num_workers}"
        )
