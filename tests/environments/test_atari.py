"""Atari: the same pixels, rewards and ends as PufferLib's own pipeline, for every game that starts."""

import ale_py
import numpy as np
import pytest

from pufferlib_kcore.environments import atari, make_creator
from pufferlib_kcore.environments.quiet import quiet

with quiet():
    import pufferlib.environments.atari.environment as puffers


def play(env, steps, seed=3):
    rng = np.random.default_rng(seed)
    seen = [env.reset(seed=seed)[0].copy()]
    told = []
    for _ in range(steps):
        if env.done:
            seen.append(env.reset()[0].copy())
            continue
        observation, *rest = env.step(np.array([rng.integers(env.single_action_space.n)]))
        seen.append(observation.copy())
        told.append(rest)
    return np.array(seen), told


@pytest.mark.parametrize("game", ["beam_rider", "pong"])
@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_same_as_pufferlib(game, sticky):
    kwargs = {"repeat_action_probability": sticky, "frameskip": 3}
    ours, our_rest = play(make_creator(game, **kwargs)(), 200)
    theirs, their_rest = play(puffers.make(game, **kwargs), 200)
    assert ours.shape == theirs.shape == (201, 1, 105, 80)
    assert ours.dtype == theirs.dtype == np.uint8
    assert np.array_equal(ours, theirs)
    assert [r[:3] for r in our_rest] == [r[:3] for r in their_rest]


def test_no_end_at_a_lost_life_and_statistics_at_the_real_one():
    env = make_creator("breakout", frameskip=16)()
    env.reset(seed=0)
    lives = {env.unwrapped.env.unwrapped.ale.lives()}
    ended = False
    rewards, steps = 0.0, 0
    while not ended:
        _, reward, terminated, truncated, info = env.step(np.array([1 + steps % 3]))
        lives.add(env.unwrapped.env.unwrapped.ale.lives())
        rewards, steps = rewards + reward, steps + 1
        ended = terminated or truncated
        assert bool(info) == ended
    assert lives >= {5, 4, 3, 2, 1}
    assert terminated
    counted = {"episode_return": rewards, "episode_length": steps, "lives": 0}
    assert info.items() >= counted.items()


def test_a_frame_limit_truncates():
    env = make_creator("pong", max_num_frames_per_episode=40)()
    env.reset(seed=0)
    ends = [env.step(np.array([0]))[2:4] for _ in range(10)]
    assert ends == [(False, False)] * 9 + [(False, True)]


def test_stacked_screens_are_the_last_ones_newest_last():
    single, _ = play(make_creator("pong")(), 20)
    stacked, _ = play(make_creator("pong", framestack=4)(), 20)
    assert stacked.shape == (21, 4, 105, 80)
    for t in range(21):
        expected = [single[max(0, t - back), 0] for back in (3, 2, 1, 0)]
        assert np.array_equal(stacked[t], expected)


def test_an_observation_keeps_what_it_showed():
    env = make_creator("beam_rider")()
    observation, _ = env.reset(seed=0)
    first = observation.copy()
    for _ in range(30):
        later = env.step(np.array([3]))[0]
    assert np.array_equal(observation, first) and not np.array_equal(later, first)
    kept = later.copy()
    env.step(np.array([3]))
    assert np.array_equal(later, kept)


def test_full_action_space():
    assert make_creator("pong")().single_action_space.n == 6
    assert make_creator("pong", full_action_space=True)().single_action_space.n == 18


def test_pictures_are_in_color():
    env = make_creator("beam_rider", render_mode="rgb_array")()
    env.reset(seed=0)
    for _ in range(30):
        env.step(np.array([0]))
    picture = env.render()
    assert picture.shape == (210, 160, 3) and picture.dtype == np.uint8
    assert (picture[..., 0] != picture[..., 1]).any()


def test_every_rom_is_listed_or_needs_two_players():
    assert sorted((*atari.names(), *atari.TWO_PLAYERS)) == sorted(ale_py.roms.get_all_rom_ids())


@pytest.mark.slow
@pytest.mark.parametrize("game", atari.names())
def test_every_game_starts(game):
    env = make_creator(game)()
    observation, _ = env.reset(seed=1)
    assert env.single_observation_space.contains(observation)
    lit = False
    for t in range(60):  # some show a black screen first
        lit |= bool(env.step(np.array([t % env.single_action_space.n]))[0].any())
    assert lit
