"""Recordings: of the run's own environments, each from seeds of its own, the same for the same seed."""

from dataclasses import replace

import pytest
import torch
from saved import Told, source

from pufferlib_kcore import settings
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import Over, RecordRequest, record_states
from pufferlib_kcore.jobs.recording import ENVS


def request(run, states=64, **overrides):
    taken = source(run, over=Over(overrides=overrides))
    restored = taken.read(run.model_path(2))
    return RecordRequest(
        restored=restored, settings=taken.settings(), vec="serial", states=states, source="x"
    )


def observations(inputs):
    """All of them, (states, 4)"""
    return torch.cat([given[0].reshape(-1, 4) for given in inputs])


def test_three_recordings_of_states_that_differ_and_the_same_again_by_seed(base):
    told = Told()
    found, again = record_states(request(base), told), record_states(request(base))
    parts = [observations(part) for part in (found.calibrate, found.held_out, found.test)]
    assert [len(part) for part in parts] == [64, 32, 16]
    seen = {tuple(row.tolist()) for row in torch.cat(parts)}
    assert len(seen) == 64 + 32 + 16
    assert torch.equal(parts[0], observations(again.calibrate))
    other = record_states(request(base, **{"train.seed": "2"}))
    assert not seen & {tuple(row.tolist()) for row in observations(other.calibrate)}
    assert found.by["seed"] == 1 and other.by["seed"] == 2 and found.by["envs"] == ENVS
    shares = [part for _, part, *_ in told.said]
    assert shares == sorted(shares) and shares[0] == 0 and 0.7 < shares[-1] <= 1
    assert found.text.startswith("recorded 64 states to calibrate on")


def test_without_states_observations_are_made_up_and_measure_nothing(base):
    found = record_states(request(base, states=0))
    assert found.test == [] and not torch.equal(*map(observations, (found.calibrate, found.held_out)))
    assert "made-up" in found.text


def test_a_policy_that_cannot_play_there_is_one_sentence(base):
    asked = request(base)
    pendulum = settings.resolve("pendulum")
    with pytest.raises(UserError, match="x was trained with the observation_space"):
        record_states(replace(asked, settings=pendulum))
    with torch.no_grad():
        asked.restored.policy.value_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="x cannot play cartpole"):
        record_states(asked)
