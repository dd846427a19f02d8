"""Selection: what is picked makes up the rest, and nothing is picked that others make up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pufferlib_kcore.fibration.selection import Reader, gather, ranked, select


def reader(activations, weights):
    x = activations - activations.mean(0)
    return Reader(x.T @ x / len(x), weights.T @ weights)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_as_many_are_picked_as_are_independent():
    made = random(500, 4) @ random(4, 12, seed=1) + 3  # 12 units that 4 make up, and a constant each
    one = reader(made, random(7, 12, seed=2))
    assert len(select([one])) == 4
    assert len(select([one], 2.0)) == 1


def test_what_is_picked_makes_up_all_others_to_the_threshold():
    x = random(400, 10) * torch.linspace(1, 0.01, 10).double() @ random(10, 30, seed=1)
    x = x - x.mean(0)
    for threshold in (0.3, 0.1, 0.01):
        picked = select([reader(x, random(5, 30, seed=2))], threshold)
        fitted = x[:, picked] @ torch.linalg.lstsq(x[:, picked], x).solution
        cosine = torch.nn.functional.cosine_similarity(fitted, x, dim=0)
        assert (1 - cosine).max() <= threshold + 1e-9
        assert len(picked) < 30


def test_no_more_is_picked_than_the_threshold_asks_for():
    a, b = random(4000, 2).T
    x = torch.stack([a, 0.8 * a + 0.6 * b], 1)  # cosine 0.8
    one = reader(x, torch.eye(2).double())
    assert len(select([one], 0.25)) == 1 and len(select([one], 0.15)) == 2


def test_a_unit_that_nobody_weighs_is_picked_last():
    x, weights = random(300, 6), random(4, 6, seed=1)
    weights[:, 2] = 0
    order, count = ranked([reader(x, weights)])
    assert count == 6 and order[-1] == 2 and sorted(order) == list(range(6))


def test_constant_units_cost_nothing_and_a_dead_space_keeps_one():
    x = random(300, 3)
    x[:, 1] = 5
    assert sorted(select([reader(x, torch.eye(3).double())])) == [0, 2]
    assert list(select([reader(torch.ones(10, 3).double(), torch.eye(3).double())])) == [0]


def test_what_rounding_alone_moves_is_constant():
    x = torch.cat([random(300, 2), 5 + 1e-4 * random(300, 2, seed=1)], 1)
    one = reader(x, torch.eye(4).double())
    assert one.moving().all()
    one = replace(one, rounding=torch.full((4,), 1e-6).double())
    assert one.moving().tolist() == [True, True, False, False] and sorted(select([one])) == [0, 1]
    merge = gather([one], np.array([0, 1]))
    assert merge.gain.tolist() == [1, 1, 0, 0]  # the readers' biases take what is constant over


@pytest.mark.parametrize("constant", [[0], [0, 2], [0, 1, 2]])
def test_gains_are_finite_however_many_units_are_constant(constant):
    x = random(50, 3)
    x[:, constant] = 3
    still, moves = reader(x, torch.eye(3).double()), reader(random(50, 3, seed=1), torch.eye(3).double())
    merge = gather([still], select([still]))
    assert np.isfinite(merge.gain).all() and (merge.gain[constant] == merge.pick[constant]).all()
    both = gather([still, moves], np.array([0, 1]))  # where a unit is still for one reader, the other decides
    if len(constant) == 3:
        np.testing.assert_allclose(both.gain, gather([moves], np.array([0, 1])).gain)


def test_all_readers_count():
    """A unit that is still for one reader and moves for the other is picked for the other."""
    still, moves = random(300, 2), random(300, 2, seed=1)
    still[:, 1] = 0
    readers = [reader(still, torch.eye(2).double()), reader(moves, torch.eye(2).double())]
    assert sorted(select(readers)) == [0, 1]


def test_units_join_the_picked_one_that_they_move_with_at_their_own_size():
    x = random(500, 2)
    x = torch.stack([x[:, 0], x[:, 1], -3 * x[:, 0], 2 * x[:, 1]], 1)
    merge = gather([reader(x, torch.eye(4).double())], np.array([3, 0]))
    np.testing.assert_array_equal(merge.labels, [0, 1, 0, 1])
    np.testing.assert_allclose(merge.gain, [1, 0.5, -3, 1], atol=0.02)
    np.testing.assert_array_equal(merge.pick, [1, 0, 0, 1])


@pytest.mark.parametrize("seed", range(5))
def test_over_each_fiber_picks_and_gains_make_one(seed):
    x = random(200, 9, seed=seed)
    one = reader(x, random(4, 9, seed=seed + 10))
    merge = gather([one], ranked([one])[0][:4])
    np.testing.assert_allclose(np.bincount(merge.labels, merge.pick * merge.gain), 1)
