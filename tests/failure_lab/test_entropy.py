"""Kinds of courses, planted; in nats, and in parts of log(n_actions)."""

import json
import math

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.introspection import EntropyTracker, Rules
from pufferlib_kcore.failure_lab.introspection.entropy import KINDS

N = 200
T = np.arange(N) / N


def noise(size=0.02, seed=0):
    return size * np.random.default_rng(seed).standard_normal(N)


def tracked(values, **settings):
    tracker = EntropyTracker(**settings)
    for episode, value in enumerate(values):
        tracker.update(value, episode)
    return tracker


COURSES = {
    "collapsed": np.where(T < 0.5, 0.6, 0.01) + np.abs(noise()),
    "always low": 0.03 + np.abs(noise()),
    "increasing": 0.2 + 0.3 * T + noise(),
    "decreasing": 0.6 - 0.3 * T + noise(),
    "stable": 0.5 + noise(),
}


@pytest.mark.parametrize("kind", COURSES)
def test_each_kind_of_course_is_told(kind):
    assert tracked(COURSES[kind], n_actions=2).kind == kind
    assert tracked(COURSES[kind]).kind == kind
    assert set(COURSES) < set(KINDS)


@pytest.mark.parametrize("kind", COURSES)
@pytest.mark.parametrize("n_actions", [2, 18, 1000])
def test_kinds_are_told_by_parts_of_the_largest_entropy(kind, n_actions):
    scale = math.log(n_actions) / math.log(2)
    assert tracked(scale * COURSES[kind], n_actions=n_actions).kind == kind


def test_0_15_nats_are_low_of_a_thousand_actions_alone():
    assert tracked(np.full(N, 0.15), n_actions=1000).kind == "always low"
    assert tracked(np.full(N, 0.15), n_actions=2).kind == "stable"


def test_since_when_it_is_low_is_the_episode_at_which_half_a_window_is():
    course = tracked(np.where(np.arange(N) < 120, 0.6, 0.0), window=11).course()
    assert course.kind == "collapsed" and course.since == 125  # 6 of 11 are low

    assert course.now == 0 and course.peak == 0.6


def test_what_fell_and_came_back_has_not_collapsed():
    assert tracked(np.where((T > 0.3) & (T < 0.5), 0.0, 0.6)).kind == "stable"


def test_a_single_high_entropy_at_first_was_no_open_policy():
    assert tracked(np.where(np.arange(N) == 0, 0.69, 0.01)).kind == "always low"


def test_the_slope_is_that_of_an_update():
    course = tracked(0.2 + 0.3 * np.arange(N) / N).course()
    assert np.isclose(course.slope, 0.3 / N, rtol=1e-6)
    longer = tracked(0.2 + 0.3 * np.arange(10 * N) / (10 * N)).course()
    assert np.isclose(longer.slope, 0.03 / N, rtol=1e-6)


def test_noise_alone_is_no_trend():
    kinds = {tracked(0.4 + noise(0.07, seed), n_actions=2).kind for seed in range(40)}
    assert kinds == {"stable"}


def test_noise_of_few_is_no_trend_either():
    kinds = [tracked(0.4 + noise(0.09, seed)[:15]).kind for seed in range(100)]
    assert kinds.count("stable") >= 98


def test_what_was_never_clearly_open_is_always_low():
    for before, kind in ((0.19, "always low"), (0.21, "collapsed")):
        assert tracked(np.where(T < 0.5, before, 0.01)).kind == kind


def test_a_short_course_is_not_hidden_by_a_long_window():
    assert tracked(np.where(np.arange(40) < 24, 0.6, 0.0), window=100).kind == "collapsed"


def test_negative_entropies_of_continuous_actions_have_a_trend_alone():
    assert tracked(-1 - 2 * T).kind == "decreasing"
    assert tracked(np.full(N, -3.0)).kind == "stable"


def test_agents_without_an_entropy_are_holes_and_no_collapse(tmp_path):
    """A rule has none: told as 0, all of them would be failures."""
    tracker = tracked([None] * N)
    assert tracker.kind == "unknown"
    with pytest.raises(UserError, match="no entropy was tracked"):
        tracker.plot()
    mixed = tracked([None if i % 2 else 0.5 for i in range(N)])
    assert mixed.kind == "stable"
    plain = json.loads(json.dumps(mixed.to_plain(), allow_nan=False))
    assert plain["kind"] == "stable" and plain["entropies"][:2] == [0.5, None] and len(plain["episodes"]) == N
    assert json.dumps(tracker.to_plain(), allow_nan=False)


def test_few_are_unknown_and_rules_can_be_others():
    assert tracked(np.full(9, 0.5)).kind == "unknown"
    assert tracked(np.full(9, 0.5), rules=Rules(fewest=5)).kind == "stable"
    assert tracked(np.full(N, 0.5), rules=Rules(low=0.6, high=0.65)).kind == "always low"


def test_episodes_count_on_by_themselves():
    tracker = EntropyTracker()
    for value in (0.5, 0.4, 0.3):
        tracker.update(np.float32(value))
    tracker.update(0.2, 10)
    tracker.update(0.1)
    assert tracker.episodes == [0, 1, 2, 10, 11]


@pytest.mark.parametrize("name", ["entropy.png", "entropy.svg", "entropy.pdf"])
def test_its_picture(name, tmp_path):
    figure = tracked(COURSES["collapsed"], n_actions=2).plot(save_path=tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000
    assert figure._suptitle.get_text().startswith("entropy: collapsed since episode")


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda: EntropyTracker(n_actions=2).update(1.0, 0), "is it in bits"),
        (lambda: EntropyTracker().update("high", 0), "expected a number of nats"),
        (lambda: EntropyTracker(window=0), "window=0"),
        (lambda: EntropyTracker(n_actions=1), "one action has no entropy"),
        (lambda: tracked(np.full(N, 0.5)).plot("entropy"), "ends in .png"),
        (lambda: tracked(np.full(N, 0.5)).plot("no/such/folder/entropy.png"), "cannot write"),
    ],
)
def test_mistakes_are_told_in_one_sentence(mistake, said):
    with pytest.raises(UserError, match=said):
        mistake()
