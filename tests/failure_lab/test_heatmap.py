"""Cells counted by hand, ranges of any environment, and what a policy does where."""

import gymnasium
import numpy as np
import pytest

from pufferlib_kcore.environments.career import CareerEnv
from pufferlib_kcore.environments.gridworld import CoinGrid
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import StateHeatmap

UNIT = {"low": (0, 0), "high": (1, 1)}


def walked(env, heatmap, steps=300, seed=0):
    """A random walk's states and actions, also recorded."""
    rng = np.random.default_rng(seed)
    states, actions = [], []
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        action = int(rng.integers(env.action_space.n))
        heatmap.record(observation, action)
        states.append(observation)
        actions.append(action)
        observation, _, ended, cut, _ = env.step(action)
        if ended or cut:
            observation, _ = env.reset()
    return np.array(states), np.array(actions)


def test_a_grid_counted_by_hand():
    heatmap = StateHeatmap(bins=2, **UNIT)
    for state, action in [((0.1, 0.9), 1), ((0.2, 0.8), 1), ((0.3, 0.6), 0), ((1.0, 0.0), 0)]:
        heatmap.record(state, action)
    heatmap.record((0.6, 0.6))
    assert heatmap.visits.tolist() == [[0, 3], [1, 1]]
    assert heatmap.action_visits().tolist() == [[[0, 1], [1, 0]], [[0, 2], [0, 0]]]
    shares = heatmap.action_shares()
    assert np.allclose(shares[:, 0, 1], (1 / 3, 2 / 3)) and np.allclose(shares[:, 1, 0], (1, 0))
    assert np.isnan(shares[:, 0, 0]).all() and np.isnan(shares[:, 1, 1]).all()
    commonest = heatmap.commonest()
    assert commonest[0, 1] == 1 and commonest[1, 0] == 0
    assert commonest.mask.tolist() == [[True, False], [False, True]]


def test_twenty_bins_are_the_default_and_two_numbers_are_the_features_themselves():
    heatmap, other = StateHeatmap(features=(0, 3), **UNIT), StateHeatmap(features=(0, 3), **UNIT)
    state = np.array([0.5, 9.0, 9.0, 0.99], np.float32)
    heatmap.record(state, 0)
    other.record(state[[0, 3]], 0)
    assert heatmap.visits.shape == (20, 20) and heatmap.visits[10, 19] == 1
    assert np.array_equal(heatmap.visits, other.visits)


def test_many_at_once_are_as_many_one_by_one():
    rng = np.random.default_rng(0)
    states, actions = rng.random((500, 4)), rng.integers(3, size=500)
    many, single = StateHeatmap(features=(1, 2)), StateHeatmap(features=(1, 2))
    many.record(states, actions)
    for state, action in zip(states, actions, strict=True):
        single.record(state, action)
    assert np.array_equal(many.visits, single.visits)
    assert np.array_equal(many.action_visits(), single.action_visits())
    assert many.visits.sum() == len(many) == 500 and many.outside == 0
    assert np.array_equal(many.action_visits().sum(0), many.visits)


def test_the_range_is_that_of_what_was_recorded_however_late():
    heatmap = StateHeatmap(bins=4)
    heatmap.record([[0, 0], [1, 1]])
    assert heatmap.visits[3, 3] == 1
    heatmap.record([[4, 4], [3.5, -4]])
    assert heatmap.edges.tolist() == [[0, 1, 2, 3, 4], [-4, -2, 0, 2, 4]]
    assert heatmap.visits.sum() == 4 and heatmap.visits[[0, 1, 3, 3], [2, 2, 3, 0]].tolist() == [1] * 4


def test_a_feature_that_stays_has_a_range_too():
    heatmap = StateHeatmap(bins=3)
    heatmap.record([[2.0, 0.0], [2.0, 1.0]])
    assert heatmap.visits[1].tolist() == [1, 0, 1]


def test_what_is_outside_is_counted():
    heatmap = StateHeatmap(bins=2, low=(0, None), high=(1, np.inf))
    heatmap.record([[0.5, 5], [2, 6], [0.5, np.nan]])
    assert heatmap.outside == 2 and heatmap.visits.sum() == 1
    assert "2 outside" in heatmap.plot()._suptitle.get_text()


def test_environments_bring_their_bounds_and_names():
    heatmap = StateHeatmap.of(CareerEnv(), features=(1, 3))
    assert heatmap.names == ("burnout", "market")
    assert heatmap.edges[:, [0, -1]].tolist() == [[0, 1], [-1, 1]]
    states, actions = walked(CareerEnv(), heatmap)
    expected, *_ = np.histogram2d(states[:, 1], states[:, 3], 20, ((0, 1), (-1, 1)))
    assert np.array_equal(heatmap.visits, expected)
    grid = StateHeatmap.of(CoinGrid(), bins=5)
    states, actions = walked(CoinGrid(), grid)
    place = tuple(np.rint(2 * states + 2).astype(int).T)
    counts = np.zeros((4, 5, 5), int)
    np.add.at(counts, (actions, *place), 1)
    assert np.array_equal(grid.action_visits(4), counts)


def test_an_unbounded_environment_is_seen_whole():
    """CartPole's speeds have no bounds."""
    env = gymnasium.make("CartPole-v1")
    heatmap = StateHeatmap.of(env, features=(0, 1))
    states, _ = walked(env, heatmap)
    low, high = heatmap.edges[:, 0], heatmap.edges[:, -1]
    assert np.allclose((low[0], high[0]), (-4.8, 4.8)) and low[1] == states[:, 1].min()
    assert heatmap.outside == 0 and heatmap.visits.sum() == 300


def test_a_policy_is_asked_in_the_middle_of_each_cell_with_the_rest_given():
    heatmap = StateHeatmap(bins=4, features=(0, 2), low=(0, 0), high=(1, 10))

    class Threshold:
        def act(self, observation):
            assert observation.shape == (4,) and observation[1] == 7 and observation[3] == 8
            assert observation.dtype == np.float32
            action = int(observation[0] > 0.5) + 2 * int(observation[2] > 7.5)
            observation[:] = 0
            return action

    at = np.array([9.0, 7.0, 9.0, 8.0])
    found = heatmap.policy_map(Threshold(), at)
    assert found.tolist() == [[0, 0, 0, 2]] * 2 + [[1, 1, 1, 3]] * 2
    assert at.tolist() == [9, 7, 9, 8]
    plain = StateHeatmap(bins=2, **UNIT).policy_map(lambda o: o.sum())
    assert np.allclose(plain, [[0.5, 1], [1, 1.5]])


def test_pictures_are_written_and_blank_where_nobody_was(tmp_path):
    heatmap = StateHeatmap.of(CareerEnv())
    walked(CareerEnv(), heatmap)
    figure = heatmap.plot(include_actions=True, action_names=["STAY", "SWITCH"], save_path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    cells = [axis.collections[0].get_array() for axis in figure.axes[:3]]
    assert all(np.array_equal(np.ma.getmaskarray(c), (heatmap.visits == 0).T) for c in cells)
    assert np.array_equal(cells[0].filled(0), heatmap.visits.T)
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert texts == ["STAY", "SWITCH"]
    at = np.zeros(4)
    heatmap.plot_policy(lambda o: int(o[1] > 0.6), at, ["STAY", "SWITCH"], tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")
    heatmap.plot_policy(lambda o: np.tanh(o[1]), at, save_path=tmp_path / "c.png")
    one = StateHeatmap()
    one.record((0.0, 0.0), 0)
    one.plot(True, save_path=tmp_path / "d.png")


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda: StateHeatmap(bins=0), "bins=0"),
        (lambda: StateHeatmap(features=(1, 1)), "two different places"),
        (lambda: StateHeatmap(low=(0, 0), high=(1, 0)), "is not below"),
        (lambda: StateHeatmap(low=(0, 0, 0)), "expected two numbers"),
        (lambda: StateHeatmap(names=["x", "y", "z"], features=(0, 5)), "name these two, or all"),
        (lambda: StateHeatmap().plot(), "no state was recorded"),
        (lambda: StateHeatmap().visits, "nothing tells the range of feature 0"),
        (lambda: StateHeatmap().record("state"), "no vector of numbers"),
        (lambda: StateHeatmap().record(np.zeros((2, 2, 2))), "expected .d,. or"),
        (lambda: StateHeatmap(features=(0, 5)).record(np.zeros(4)), "no feature 5"),
        (lambda: StateHeatmap().record((0, 0), 0.5), "whole numbers"),
        (lambda: StateHeatmap().record((0, 0), -1), "an action is -1"),
        (lambda: StateHeatmap().record((0, 0), [0, 1]), "2 actions for 1 states"),
        (lambda: StateHeatmap(features=(0, 2), **UNIT).policy_map(lambda o: 0), "give at="),
        (
            lambda: StateHeatmap(features=(0, 2), **UNIT).policy_map(lambda o: 0, np.zeros(2)),
            "expected an obs",
        ),
        (lambda: StateHeatmap(**UNIT).policy_map(lambda o: o), "single numbers"),
        (lambda: StateHeatmap(**UNIT).policy_map(7), "no policy"),
        (lambda: StateHeatmap.of(gymnasium.make("FrozenLake-v1")), "needs vectors"),
        (lambda: StateHeatmap.of(CareerEnv(), features=(0, 4)), "of 4 numbers"),
    ],
)
def test_mistakes_are_told_in_one_sentence(mistake, said):
    with pytest.raises(UserError, match=said):
        mistake()


def test_names_are_needed_for_every_action():
    heatmap = StateHeatmap()
    heatmap.record((0, 0), 2)
    with pytest.raises(UserError, match="2 action_names for 3 actions"):
        heatmap.plot(True, ["STAY", "SWITCH"])
    plain = StateHeatmap()
    plain.record((0, 0))
    with pytest.raises(UserError, match="no action was recorded"):
        plain.plot(True)
