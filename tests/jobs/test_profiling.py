"""A profile's parts add up to all the time, of the policy that it is given."""

import re

import pytest
from saved import SMALL

from pufferlib_kcore import settings
from pufferlib_kcore.jobs import ProfileRequest, profile
from pufferlib_kcore.policies import build


def test_the_parts_add_up_and_the_policy_that_is_given_is_trained():
    said, made = settings.resolve("cartpole", SMALL), []

    def make(world):
        made.append(build(world.spec(said)))
        made.append({name: weights.clone() for name, weights in made[0].state_dict().items()})
        return made[0]

    found = profile(ProfileRequest(settings=said, vec="serial", epochs=2, make=make))
    policy, before = made
    assert found.wall > 0 and found.steps == 2 * said.train.batch_size
    assert found.speed == found.steps / found.wall
    assert all((policy.state_dict()[name] != weights).any() for name, weights in before.items())
    rows = dict(re.findall(r"^(\w+) +([-\d.]+) ", str(found), re.M))
    total = float(rows.pop("total"))
    assert {"env", "learn", "other"} <= rows.keys()
    assert float(rows["other"]) >= 0  # nothing is counted that was done before
    assert sum(map(float, rows.values())) == pytest.approx(total, abs=0.05)
