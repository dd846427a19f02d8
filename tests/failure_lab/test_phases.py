"""Which trajectories are chosen, and that pictures show them."""

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import PhasePlotter

RETURNS = [3.0, 1.0, 5.0, 5.0, -2.0, 0.0]


def plotter(returns=RETURNS, steps=4, features=(0, 1)):
    made = PhasePlotter(features, names=["salary", "burnout", "tenure", "market"])
    rng = np.random.default_rng(0)
    for episode, total in enumerate(returns):
        states = rng.random((steps, 4)).cumsum(0)
        made.add_trajectory(states, rng.integers(2, size=steps), np.full(steps, total / steps), episode)
    return made


def episodes(chosen):
    return [one.episode for one in chosen]


@pytest.mark.parametrize(
    "selection, n, expected",
    [
        ("best", 2, [2, 3]),
        ("best", 1, [2]),
        ("worst", 2, [4, 5]),
        ("latest", 3, [3, 4, 5]),
        ("all", 1, [0, 1, 2, 3, 4, 5]),
        ("best", 99, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_selections_by_hand(selection, n, expected):
    assert episodes(plotter().select(n, selection)) == expected


def test_random_ones_are_drawn_with_a_seed_and_none_twice():
    drawn = [tuple(episodes(plotter().select(3, "random", seed))) for seed in range(20)]
    assert all(len(set(one)) == 3 for one in drawn) and len(set(drawn)) > 5
    assert episodes(plotter().select(3, "random", 4)) == list(drawn[4])


def test_features_are_chosen_and_the_last_state_may_be_there():
    made = PhasePlotter(features=(3, 1))
    made.add_trajectory(np.arange(12).reshape(3, 4), [0, 1], [1.0, 2.0], 7)
    (one,) = made.trajectories
    assert one.states.tolist() == [[3, 1], [7, 5], [11, 9]] and one.total == 3 and one.episode == 7
    made.add_trajectory(np.zeros((2, 2)), [0, 1], [0, 0])
    assert made.trajectories[1].episode == 1


def test_pictures_show_what_was_chosen(tmp_path):
    made = plotter()
    figure = made.plot_multiple(n_trajectories=2, selection="best", save_path=tmp_path / "several.png")
    ways = [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xydata()) > 1]
    assert [way.tolist() for way in ways] == [made.trajectories[i].states.tolist() for i in (2, 3)]
    assert figure.axes[0].get_xlabel() == "salary" and figure.axes[0].get_ylabel() == "burnout"
    figure = made.plot_single(episode=4, action_names=["STAY", "SWITCH"], save_path=tmp_path / "one.png")
    assert "episode 4: return -2" in figure._suptitle.get_text()
    assert figure.axes[1].lines[0].get_ydata().tolist() == made.trajectories[4].states[:, 0].tolist()
    assert "episode 5" in made.plot_single()._suptitle.get_text()
    for name in ("several.png", "one.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_an_evolution_splits_the_training_in_turn(tmp_path):
    figure = plotter(np.arange(10.0)).plot_evolution(3, n_trajectories=2, save_path=tmp_path / "e.png")
    titles = [axis.get_title() for axis in figure.axes[:3]]
    assert [title.partition(",")[0] for title in titles] == [
        "episodes 0 to 3", "episodes 4 to 6", "episodes 7 to 9"
    ]  # fmt: skip
    assert titles[0].endswith("mean return 1.5")
    shown = [sum(len(line.get_xydata()) > 1 for line in axis.lines) for axis in figure.axes[:3]]
    assert shown == [2, 2, 2]
    assert len({axis.get_xlim() for axis in figure.axes[:3]}) == 1
    assert plotter([1.0], steps=1).plot_evolution(3).axes


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda: PhasePlotter().plot_multiple(), "there is no trajectory"),
        (lambda: PhasePlotter().plot_single(), "there is no trajectory"),
        (lambda: plotter().plot_single(episode=99), "no trajectory of episode 99"),
        (lambda: plotter().plot_multiple(selection="longest"), "expected one of best, worst"),
        (lambda: plotter().plot_multiple(n_trajectories=0), "n_trajectories=0"),
        (lambda: plotter().plot_evolution(parts=0), "parts=0"),
        (lambda: PhasePlotter().add_trajectory(np.zeros((4, 2)), [0, 1], [0, 1]), "4 states for 2 rewards"),
        (lambda: PhasePlotter().add_trajectory(np.zeros((2, 2)), [0], [0, 1]), "1 actions for 2 states"),
        (lambda: PhasePlotter().add_trajectory(np.zeros((0, 2)), [], []), "0 rewards"),
        (lambda: PhasePlotter(features=(0, 0)), "two different places"),
    ],
)
def test_mistakes_are_told_in_one_sentence(mistake, said):
    with pytest.raises(UserError, match=said):
        mistake()
