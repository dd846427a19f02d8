"""How env workers and torch share the cores that this process may use."""

import math
import os
from pathlib import Path
from typing import NamedTuple


class Plan(NamedTuple):
    """What share_cores chose."""

    workers: int  # env worker processes
    env_batch_size: int  # envs in a group
    rollout_threads: int  # torch's while workers step environments
    update_threads: int  # and while they sleep
    text: str  # the choice, as a sentence


def available_cores() -> int:
    """Cores by affinity mask, or fewer where a cgroup's quota allows less CPU time."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota()
    return cores if quota >= cores else max(1, math.ceil(quota))


def share_cores(
    requested_workers: int | None,
    num_envs: int,
    env_batch_size: int | None = None,
    cores: int | None = None,
    elsewhere: int | None = None,
) -> Plan:
    """Workers, groups and torch threads for num_envs envs.

    Workers share the envs evenly and groups share the workers evenly; of what fits, the plan keeps most
    cores busy, has groups of nearly the size asked for (by default two groups where there are two cores:
    one steps while the policy computes the other's actions), and no more workers than that takes. Workers
    sleep when they wait: torch gets half of the cores beside them, and all of them when it learns.
    requested_workers: at most so many, or None. elsewhere: the cores of the workers, where they have others.
    """
    own = available_cores() if cores is None else cores
    cores = elsewhere or own
    limit = max(1, min(requested_workers or num_envs, num_envs, 4 * cores))
    wanted = num_envs / env_batch_size if env_batch_size else min(2, cores)
    wanted = min(wanted, max(2, cores))

    def cost(plan: tuple[int, int]) -> tuple:
        workers, groups = plan
        return (-min(workers, cores), abs(groups - wanted), workers, groups)

    workers, groups = min(((w, g) for w in _divisors(num_envs) if w <= limit for g in _divisors(w)), key=cost)
    size = num_envs // groups
    rollout = max(1, own // 2)  # torch's threads wait by spinning: with more, the workers starve
    place = " on Ray" if elsewhere else ""
    text = (
        f"{cores} cores{place}: {num_envs} envs in {workers} worker{'s' * (workers > 1)}, "
        f"{groups} group{'s' * (groups > 1)} of {size}, "
        f"{rollout} torch thread{'s' * (rollout > 1)} in rollouts and {own} in updates"
    )
    changed = []
    if requested_workers and requested_workers != workers:
        changed.append(f"{requested_workers} workers")
    if env_batch_size and env_batch_size != size:
        changed.append(f"groups of {env_batch_size}")
    if changed:
        text += f" (asked for: {', '.join(changed)})"
    return Plan(workers, size, rollout, own, text)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _quota(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float:
    """CPU seconds a second that the cgroups of this process allow; infinity where there is no limit."""
    allowed = math.inf
    try:
        groups = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return allowed
    for _, controllers, path in groups:
        version2 = not controllers
        if not version2 and "cpu" not in controllers.split(","):
            continue
        base = root if version2 else root / "cpu"
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            try:
                if version2:
                    quota, period = (place / "cpu.max").read_text().split()
                else:
                    quota = (place / "cpu.cfs_quota_us").read_text()
                    period = (place / "cpu.cfs_period_us").read_text()
                if quota != "max" and float(quota) > 0:
                    allowed = min(allowed, float(quota) / float(period))
            except (OSError, ValueError):
                pass
            if place == base:
                break
    return allowed
