"""Creators by name: what resolves to what, what is refused, and what an env then does."""

import importlib.util
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from pufferlib_kcore.environments import creators, make_creator, names, packages
from pufferlib_kcore.environments.memory import MemoryCue
from pufferlib_kcore.environments.packages import PACKAGES
from pufferlib_kcore.environments.rewards import REWARDS
from pufferlib_kcore.errors import UserError

from . import toys


@pytest.mark.parametrize(
    ("given", "package", "name"),
    [
        ("beam_rider", "atari", "beam_rider"),
        ("cartpole", "classic_control", "cartpole"),
        ("CartPole-v1", "classic_control", "cartpole"),
        ("mountaincar", "classic_control", "mountain_car"),
        ("Acrobot-v1", "classic_control", "acrobot"),
        ("mountaincar-continuous", "classic_control_continuous", "mountain_car_continuous"),
        ("MountainCarContinuous-v0", "classic_control_continuous", "mountain_car_continuous"),
        ("Pendulum-v1", "classic_control_continuous", "pendulum"),
        ("HalfCheetah-v5", "mujoco", "half_cheetah"),
        ("memory_cue", "memory", "memory_cue"),
    ],
)
def test_names_of_pufferlib_and_gymnasium_resolve(given, package, name):
    assert creators.find(given) == (package, name)
    assert creators.find(given, package) == (package, name)


@pytest.mark.parametrize(
    ("given", "package", "says"),
    [
        ("beamrider", None, "beam_rider"),
        ("BeamRider", "atari", "beam_rider"),
        ("CartPole-v0", None, "CartPole-v1"),  # another version is another task
        ("cartpol", "classic_control", "cartpole"),
        ("cartpole", "atari", "package atari"),
        ("joust", None, "two players"),
        ("beam_rider", "atary", "atari"),
        ("no such thing at all", None, "names()"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(given, package, says):
    with pytest.raises(UserError) as refused:
        make_creator(given, package)
    assert says in str(refused.value)


def test_unknown_settings_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="frameskip"):
        make_creator("pong", "atari", framskip=4)
    with pytest.raises(UserError, match="no setting 'name'"):
        make_creator("pong", "atari", name="breakout")


def test_every_listed_name_resolves_to_itself():
    for package, its_names in names().items():
        for name in its_names:
            assert creators.find(name, package) == (package, name)
            assert creators.find(name)[1] == name


def test_a_creator_survives_pickling():
    creator = pickle.loads(pickle.dumps(make_creator("memory_cue", n_cues=3, delay=2)))
    env = creator()
    assert env.single_observation_space.shape == (4,)
    assert env.single_action_space == spaces.Discrete(3)


@pytest.mark.parametrize(
    "name", ["cartpole", "acrobot", "mountain_car", "pendulum", "mountain_car_continuous"]
)
def test_classic_control_runs_in_float32(name):
    env = make_creator(name, max_episode_steps=5)()
    observation, _ = env.reset(seed=1)
    assert observation.dtype == np.float32
    for _ in range(5):
        action = env.single_action_space.sample()
        observation, _, terminated, truncated, info = env.step(np.array(action))
        assert observation.dtype == np.float32
    assert truncated and not terminated
    assert info["episode_length"] == 5


def test_mujoco_runs_where_it_is_installed_and_says_what_to_install_where_not():
    if importlib.util.find_spec("mujoco") is None:
        with pytest.raises(UserError, match=r"gymnasium\[mujoco\]"):
            make_creator("half_cheetah")()
        return
    env = make_creator("half_cheetah")()
    observation, _ = env.reset(seed=1)
    assert observation.dtype == np.float32 and observation.shape == (17,)
    assert env.step(np.full((1, 6), 9, np.float32))[0].dtype == np.float32


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gymnasium\[mujoco\]"):
        make_creator("Ant-v5")()
    with pytest.raises(UserError, match=r"gymnasium\[classic-control\]"):
        make_creator("cartpole", render_mode="rgb_array")()


def test_pictures_of_classic_control_and_memory():
    shape = (32, 160, 3)
    env = make_creator("memory_cue", render_mode="rgb_array")()
    env.reset(seed=1)
    assert env.render().shape == shape and env.render().dtype == np.uint8
    if importlib.util.find_spec("pygame") is not None:
        env = make_creator("cartpole", render_mode="rgb_array")()
        env.reset(seed=1)
        assert env.render().ndim == 3 and env.render().shape[2] == 3


def test_episode_statistics_are_raw_sums_at_the_last_step_and_what_the_env_tells_of_it_in_numbers():
    env = toys.puffer(toys.Three(), reward_scale=0.5, reward_clip=0.75)
    _, info = env.reset()
    assert info == {}
    got = [env.step(np.array([action]))[1:] for action in (0, 1, 0)]
    # raw rewards 1, 2, 1; learned from: 0.5, clip(1.0), 0.5
    assert [reward for reward, *_ in got] == [0.5, 0.75, 0.5]
    own = {"time": 3.0, "half": 1.5, "odd": 0.0}
    assert [info for *_, info in got] == [{}, {}, {"episode_return": 4.0, "episode_length": 3, **own}]
    env.reset()
    assert env.step(np.array([1]))[4] == {}
    env.reset()  # cut short: counts start anew
    last = [env.step(np.array([0]))[4] for _ in range(3)][2]
    assert last == {"episode_return": 3.0, "episode_length": 3, **own}
    assert {type(value) for value in last.values()} == {float, int}  # plain, to be sent and stored


def test_a_reward_is_registered_put_on_by_name_in_order_and_counted_raw(monkeypatch):
    monkeypatch.setattr(REWARDS, "_things", dict(REWARDS))

    @REWARDS.register("offset")
    class Offset(gymnasium.RewardWrapper):
        def __init__(self, env, by=0.0):
            super().__init__(env)
            self.by = by

        def reward(self, reward):
            return reward + self.by

    def learned_from(*rewards, **settings):
        env = make_creator("memory_cue", delay=0, n_cues=1, rewards=rewards, **settings)()
        env.reset(seed=1)
        *_, (_, reward, _, _, info) = (env.step(np.array([0])) for _ in range(2))
        assert info["episode_return"] == 1
        return reward

    assert learned_from() == learned_from("offset") == 1
    assert learned_from("offset", by=2) == 3
    assert learned_from("offset", "scaled", by=2, reward_scale=10) == 30
    assert learned_from("scaled", "offset", by=2, reward_scale=10) == 12
    with pytest.raises(UserError, match="unknown reward 'ofset': did you mean offset?"):
        learned_from("ofset")
    with pytest.raises(UserError, match="no setting 'by'"):
        learned_from("scaled", by=2)


def test_a_package_is_registered_with_names_and_settings_of_its_own(monkeypatch):
    monkeypatch.setattr(PACKAGES, "_things", dict(PACKAGES))
    refused = {"two": "it needs a second one"}

    @packages.register("toys", ["three_steps"], ids={"three_steps": "Three-v1"}, refused=refused)
    def make(name, *, spare=0):
        return toys.Three()

    assert names()["toys"] == ("three_steps",)
    for spelling in ("three_steps", "Three-v1", "Three Steps"):
        creator = make_creator(spelling, spare=1)
        assert (creator.package, creator.name, creator.settings) == ("toys", "three_steps", {"spare": 1})
    assert pickle.loads(pickle.dumps(creator))().reset()[0] == [0]
    with pytest.raises(UserError, match="two cannot be started: it needs a second one"):
        make_creator("two")
    with pytest.raises(UserError, match="toys envs have no setting 'spair': did you mean spare?"):
        make_creator("three_steps", spair=1)
    with pytest.raises(UserError, match="the environment package 'toys' is registered already"):
        packages.register("toys", ["other"])(make)


def test_any_real_action_is_clipped_to_what_the_env_allows():
    inner = toys.Mixed(spaces.Box(np.float32([-1, -2]), np.float32([1, 2])))
    env = toys.puffer(inner)
    assert env.single_action_space.contains(np.float32([1e9, -1e9]))
    env.reset()
    env.step(np.float32([[5.0, -0.5]]))
    assert inner.taken.tolist() == [1.0, -0.5]


class TestMemoryCue:
    def test_is_a_sound_gymnasium_env(self):
        check_env(MemoryCue(), skip_render_check=True)

    def test_hand_worked_episode(self):
        env = MemoryCue(n_cues=3, delay=2)
        first, _ = env.reset(seed=5)
        cue = env.cue
        seen, rewards, ends = [first], [], []
        for action in (cue, cue, cue, cue):  # only the last is an answer
            observation, reward, terminated, truncated, _ = env.step(action)
            seen.append(observation)
            rewards.append(reward)
            ends.append((terminated, truncated))
        one_hot = np.eye(3, 4)[cue]
        assert np.array_equal(seen[:4], [one_hot, np.zeros(4), np.zeros(4), [0, 0, 0, 1]])
        assert rewards == [0, 0, 0, 1]
        assert ends == [(False, False)] * 3 + [(True, False)]

    def test_wrong_answers_earn_nothing(self):
        env = MemoryCue(n_cues=3, delay=0)
        env.reset(seed=5)
        wrong = (env.cue + 1) % 3
        assert [env.step(wrong)[1] for _ in range(2)] == [0, 0]

    def test_without_a_memory_chance_is_all_there_is(self):
        env = MemoryCue(n_cues=4, delay=1)
        env.reset(seed=0)
        cues = []
        for _ in range(2000):
            env.reset()
            cues.append(env.cue)
            seen = [tuple(env.step(0)[0]) for _ in range(2)]
            assert seen == [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1)]  # at the answer, every cue looks the same
        share = np.bincount(cues, minlength=4) / 2000
        assert np.abs(share - 0.25).max() < 0.05
