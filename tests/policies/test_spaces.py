"""Spaces as plain data: there and back again, also through JSON."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import plain_to_space, space_to_plain

INF = np.inf


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (1, 105, 80), np.uint8),
        spaces.Box(-INF, INF, (3,), np.float32),
        spaces.Box(np.float32([-INF, -0.1, 0]), np.float32([1e-30, INF, 3.3])),
        spaces.Box(np.array([[-1, 0], [-INF, 2]]), np.array([[1, INF], [0, 2.1]]), dtype=np.float64),
        spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
        spaces.Box(-2.5, 2.5, (), np.float32),
        spaces.Discrete(7),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 5, 3]),
        spaces.MultiDiscrete([2, 5], start=[1, -1]),
    ],
    ids=str,
)
def test_round_trip(space):
    plain = space_to_plain(space)
    assert plain_to_space(plain) == space
    strict = json.loads(json.dumps(plain, allow_nan=False))
    back = plain_to_space(strict)
    assert back == space and back.dtype == space.dtype


def test_a_screen_is_described_in_a_line():
    plain = space_to_plain(spaces.Box(0, 255, (1, 105, 80), np.uint8))
    assert plain == {"type": "Box", "shape": [1, 105, 80], "dtype": "uint8", "low": 0, "high": 255}


def test_other_spaces_are_refused_by_name():
    with pytest.raises(UserError, match="Text"):
        space_to_plain(spaces.Text(5))
    with pytest.raises(UserError, match="'Graph'"):
        plain_to_space({"type": "Graph"})
