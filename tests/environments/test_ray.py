"""Envs on Ray: what has no room, no address or no package is one sentence; every worker gets its part."""

import math

import numpy as np
import pytest

from pufferlib_kcore.environments import make_creator
from pufferlib_kcore.environments.contract import WorkerDied
from pufferlib_kcore.environments.puffer2 import ray as actors
from pufferlib_kcore.environments.vector import make
from pufferlib_kcore.errors import UserError

from . import toys


@pytest.mark.slow
def test_what_went_wrong_in_an_actor_is_told_and_a_cluster_that_was_here_stays():
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)  # half a CPU for each worker
    try:
        vec = make(make_creator("cartpole"), "ray", 4, 2, 2)
        vec.reset(1)
        for action in (0, 9):
            vec.recv(1)
            vec.send(1, np.full(2, action))
        with pytest.raises(WorkerDied, match=r"AssertionError: 9 .* invalid"):
            vec.recv(1)
        vec.close()
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_workers_that_ray_has_no_room_for_or_cannot_make_are_one_sentence(monkeypatch):
    import ray

    class Other:
        """Somebody else's actor."""

        def here(self):
            return True

    monkeypatch.setattr(actors, "PATIENCE", 3)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        other = ray.remote(num_cpus=1)(Other).remote()
        ray.get(other.here.remote())
        with pytest.raises(UserError, match=r"2 of 2 env workers .* has 1 CPUs on 1 nodes; free some"):
            make(make_creator("cartpole"), "ray", 2, 2)
        ray.kill(other)
        monkeypatch.setattr(actors, "PATIENCE", 120)
        with pytest.raises(UserError, match=r"could not start \(ModuleNotFoundError: .*environments"):
            make(toys.three, "ray", 2, 2)  # the tests' own folder is no package that Ray's workers know
    finally:
        ray.shutdown()


def test_every_worker_gets_a_part_of_a_small_cluster():
    for cpus in range(1, 9):
        for workers in range(1, 40):
            part = actors.share(workers, cpus)
            assert 0 < part <= 1 and cpus * math.floor(1 / part) >= workers
            assert part == 1 or cpus < workers
    assert actors.share(3, 0) == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1"])
def test_no_cluster_at_the_address_is_one_sentence(monkeypatch, address):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        UserError, match=rf"^no Ray cluster answers at RAY_ADDRESS={address} \(.*\): start one"
    ):
        make(toys.three, "ray", 2)
