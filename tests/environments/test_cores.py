"""Sharing cores: plans that always fit, what they choose, and what they say."""

import itertools

import pytest

from pufferlib_kcore.environments import cores
from pufferlib_kcore.environments.cores import share_cores
from pufferlib_kcore.environments.vector import make

from . import toys


def test_every_plan_fits():
    for n, c, requested, size in itertools.product(
        range(1, 70), (1, 2, 3, 4, 13), (None, 1, 5), (None, 1, 4)
    ):
        plan = share_cores(requested, n, size, c)
        assert n % plan.workers == 0  # the same number of envs in each worker
        assert plan.env_batch_size % (n // plan.workers) == 0  # groups of whole workers
        assert n % plan.env_batch_size == 0  # groups of one size
        assert 1 <= plan.workers <= max(1, min(requested or n, 4 * c))
        assert (plan.rollout_threads, plan.update_threads) == (max(1, c // 2), c)


@pytest.mark.parametrize(
    ("arguments", "workers", "env_batch_size"),
    [
        ((None, 64, None, 4), 4, 32),  # a worker a core, two groups
        ((None, 8, None, 2), 2, 4),
        ((None, 8, None, 1), 1, 8),
        ((None, 1, None, 4), 1, 1),
        ((2, 64, None, 4), 2, 32),  # no more workers than asked for
        ((4, 64, 16, 4), 4, 16),  # groups as asked for
        ((4, 64, 64, 4), 4, 64),
        ((13, 65, 5, 13), 13, 5),  # the published settings, where there are the cores
        ((13, 65, 5, 4), 5, 13),  # and where there are not
        ((None, 7, None, 4), 7, 7),  # sleeping workers may outnumber the cores
    ],
)
def test_choices(arguments, workers, env_batch_size):
    assert share_cores(*arguments)[:2] == (workers, env_batch_size)


def test_the_sentence_says_what_was_chosen_and_what_was_asked_for():
    assert share_cores(13, 65, 5, 4).text == (
        "4 cores: 65 envs in 5 workers, 5 groups of 13, 2 torch threads in rollouts and 4 in updates "
        "(asked for: 13 workers, groups of 5)"
    )
    assert share_cores(None, 1, None, 1).text == (
        "1 cores: 1 envs in 1 worker, 1 group of 1, 1 torch thread in rollouts and 1 in updates"
    )


def test_a_plan_is_what_make_takes():
    plan = share_cores(None, 6, None, 2)
    vec = make(toys.three, "multiprocessing", 6, plan.workers, plan.env_batch_size)
    try:
        assert [ids.tolist() for ids in vec.groups] == [[0, 1, 2], [3, 4, 5]]
    finally:
        vec.close()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_quota_of_the_tightest_group_above_this_process(tmp_path, monkeypatch):
    proc = tmp_path / "cgroup"
    root = tmp_path / "sys"
    write(proc, "0::/outer/inner\n")
    assert cores._quota(root, proc) == float("inf")
    write(root / "outer/inner/cpu.max", "max 100000\n")
    assert cores._quota(root, proc) == float("inf")
    write(root / "outer/cpu.max", "250000 100000\n")
    assert cores._quota(root, proc) == 2.5
    write(root / "cpu.max", "150000 100000\n")
    assert cores._quota(root, proc) == 1.5


def test_quota_of_the_first_version_of_cgroups(tmp_path):
    proc = tmp_path / "cgroup"
    write(proc, "4:memory:/a\n3:cpu,cpuacct:/a\n")
    write(tmp_path / "cpu/a/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu/a/cpu.cfs_period_us", "100000\n")
    assert cores._quota(tmp_path, proc) == float("inf")
    write(tmp_path / "cpu/a/cpu.cfs_quota_us", "50000\n")
    assert cores._quota(tmp_path, proc) == 0.5


def test_cores_are_those_of_the_affinity_mask_and_the_quota(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    for quota, expected in ((float("inf"), 3), (7.0, 3), (2.0, 2), (1.2, 2), (0.1, 1)):
        monkeypatch.setattr(cores, "_quota", lambda quota=quota: quota)
        assert cores.available_cores() == expected
