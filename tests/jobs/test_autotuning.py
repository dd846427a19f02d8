"""Autotuning tries what fits, and writes the fastest; how fast is made up here."""

from itertools import chain

import pytest

from pufferlib_kcore import settings
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import AutotuneRequest, autotune, autotuning, profiling

BATCH = {
    "train.batch_size": 24_576,
    "train.minibatch_size": 512,
    "train.bptt_horizon": 16,
}
SIZES = {**BATCH, "train.num_envs": 12}


def test_every_share_fits_the_environments_and_the_batch():
    said = settings.resolve("cartpole", SIZES)
    tried = list(autotuning.shares(said, 6))
    assert len({tuple(choice.items()) for choice in tried}) == len(tried)
    for choice in chain(tried, *(autotuning.env_counts(said, choice) for choice in tried)):
        short = autotuning.short(said, choice).train  # which its sections check
        groups = short.num_envs // short.env_batch_size
        assert short.num_envs % (short.num_workers * groups) == 0
        assert (
            said.train.batch_size % short.batch_size == 0 and short.batch_size <= 2 * autotuning.EPOCH_STEPS
        )


def test_the_fastest_is_written_where_every_run_reads_it(tmp_path, monkeypatch):
    config, tried = str(tmp_path), []

    def made_up(request):
        t = request.settings.train
        tried.append((t.num_envs, t.num_workers, t.env_batch_size, t.threads))
        speed = t.num_envs - abs(t.num_workers - 2) + (t.threads == "auto") / 2
        return profiling.Profile(seconds={}, wall=1.0, steps=round(100 * speed), header="")

    monkeypatch.setattr(autotuning, "profile", made_up)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
    said, lines = settings.resolve("cartpole", SIZES), []
    done = autotune(AutotuneRequest(settings=said, vec="serial", config=config), lines.append)
    assert len(lines) == len(tried) and done.choice["num_workers"] == 2 and done.choice["num_envs"] == 24
    assert done.speed == 100 * 24.5 and (24, 2, done.choice["env_batch_size"], "auto") in tried
    read = settings.resolve("cartpole", BATCH, config).train
    assert (read.num_envs, read.num_workers, read.threads) == (24, 2, "auto")


def test_it_needs_an_environment():
    with pytest.raises(UserError, match="needs an environment"):
        autotune(AutotuneRequest(settings=settings.resolve(None), vec="serial"))
