"""Ray sets its own answer to SIGTERM as it starts: a program keeps the one that saves first."""

import signal

import pytest

from pufferlib_kcore.environments import ray_cluster
from pufferlib_kcore.jobs.batch import clusters

ray = pytest.importorskip("ray")


@pytest.fixture
def mine(monkeypatch):
    def answer(*_):
        """What this program does."""

    def start(*_, **__):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, answer)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, fake in dict(init=start, nodes=list, is_initialized=bool, shutdown=lambda: None).items():
        monkeypatch.setattr(ray, name, fake)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda function: function)
    return answer


def test_of_workers_of_environments(mine, monkeypatch):
    monkeypatch.setattr(ray_cluster, "_joined", False)
    ray_cluster.connect()
    assert signal.getsignal(signal.SIGTERM) is mine


def test_of_a_batch(mine):
    with clusters.on_ray(1):
        assert signal.getsignal(signal.SIGTERM) is mine
