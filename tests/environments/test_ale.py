"""ALE's vector environment: the same games as on the other backends, on screens of its own."""

import os
import re
import sys

import ale_py
import numpy as np
import pytest
import torch
from commands import demo

from pufferlib_kcore.cli import main
from pufferlib_kcore.environments import make_creator
from pufferlib_kcore.environments.vector import make
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import Run, checkpoints

from . import toys
from .rolling import roll

SHORT = {"max_num_frames_per_episode": 96}  # 24 steps of 4 frames


def played(creator, groups=1, threads=2, steps=60, seed=11, num_envs=4, backend="ale"):
    vec = make(creator, backend, num_envs, threads, num_envs // groups)
    try:
        assert len(vec.groups) == groups
        return roll(vec, steps, seed)
    finally:
        vec.close()


@pytest.mark.parametrize("seed", [0, -7, 2**31 + 5])
def test_any_whole_number_is_a_seed_and_each_env_has_its_own(seed):
    creator = make_creator("breakout", repeat_action_probability=0.5)
    records = []
    for _ in range(2):
        vec = make(creator, "ale", 3, 3, seed=seed)
        try:
            vec.reset()
            shown = []
            for t in range(60):
                shown.append(vec.recv(0).obs.copy())
                vec.send(0, np.full(3, (1, 2, 3)[t % 3]))  # the same in all
            records.append(np.array(shown))
        finally:
            vec.close()
    assert np.array_equal(*records)
    a, b, c = records[0].swapaxes(0, 1)
    assert not (np.array_equal(a, b) or np.array_equal(b, c) or np.array_equal(a, c))


@pytest.mark.parametrize(
    "game, settings",
    [
        ("breakout", {"frameskip": 12, "reward_scale": 0.5, "reward_clip": 0.75}),
        ("pong", {**SHORT, "full_action_space": True}),
        ("beam_rider", {"max_num_frames_per_episode": 41, "frameskip": 3}),
    ],
)
def test_rewards_ends_and_infos_are_those_of_the_other_backends(game, settings):
    creator = make_creator(game, **settings)
    ours = played(creator, groups=2, steps=120)
    theirs = played(creator, 1, backend="serial", steps=120)
    assert sum(len(infos) for infos in ours.infos) >= 3
    for name in ("rewards", "terminals", "truncations"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))
        assert getattr(ours, name)[0].dtype == getattr(theirs, name)[0].dtype
    assert ours.infos == theirs.infos
    assert {type(x) for infos in ours.infos for info in infos for x in info.values()} == {float, int}


def test_returns_are_of_unclipped_rewards():
    settings = {"frameskip": 12, "max_num_frames_per_episode": 480}
    raw = played(make_creator("space_invaders", **settings), steps=100)
    clipped = played(make_creator("space_invaders", reward_clip=1.0, **settings), steps=100)
    assert raw.infos == clipped.infos and max(np.max(r) for r in raw.rewards) > 1
    assert np.array_equal(np.clip(raw.rewards, -1, 1), clipped.rewards)


def test_a_pixel_is_the_mean_of_four():
    record = played(make_creator("breakout", framestack=2), steps=30, num_envs=1)
    game = ale_py.AtariEnv("breakout", obs_type="grayscale", frameskip=4, repeat_action_probability=0.0)
    screens = [game.reset()[0]]
    actions = np.random.default_rng(0).integers(0, 4, (30, 1))
    screens += [game.step(a)[0] for a in actions[:29, 0]]
    means = [screen.reshape(105, 2, 80, 2).mean((1, 3)) for screen in screens]
    for t, obs in enumerate(record.obs):
        assert obs.shape == (1, 2, 105, 80) and obs.dtype == np.uint8
        assert np.abs(obs[0, 1] - means[t]).max() <= 0.5
        assert np.abs(obs[0, 0] - (means[t - 1] if t else 0)).max() <= 0.5
    assert any((obs[0, 1] != screen[::2, ::2]).any() for obs, screen in zip(record.obs, screens, strict=True))


def test_spaces_are_those_of_the_other_backends():
    for game in ("pong", "air_raid"):  # 210 and 250 lines
        creator = make_creator(game, framestack=3)
        vec, other = make(creator, "ale", 2), make(creator, "serial", 2)
        try:
            assert vec.single_observation_space == other.single_observation_space
            assert vec.single_action_space == other.single_action_space
            vec.reset(0)
            assert vec.single_observation_space.contains(vec.recv(0).obs[1])
        finally:
            vec.close()
            other.close()


def test_actions_that_a_game_has_not_are_named():
    vec = make(make_creator("pong"), "ale", 2)
    try:
        vec.reset(0)
        vec.recv(0)
        for action in (-1, 6):
            with pytest.raises(ValueError, match="expected 0 to 5"):
                vec.send(0, np.array([0, action]))
        vec.send(0, np.zeros(2, int))
    finally:
        vec.close()


def test_closing_ends_the_threads():
    before = len(os.listdir("/proc/self/task"))
    vec = make(make_creator("pong"), "ale", 4, 4, 2)
    vec.reset(0)
    vec.recv(1)
    vec.send(1, np.zeros(2, int))
    during = len(os.listdir("/proc/self/task"))
    vec.close()
    assert during >= before + 2 and len(os.listdir("/proc/self/task")) == before


def test_what_ale_has_not_is_refused(monkeypatch):
    with pytest.raises(UserError, match="steps Atari games, not cartpole: use --vec multiprocessing"):
        make(make_creator("cartpole"), "ale", 4)
    with pytest.raises(UserError, match="steps Atari games"):
        make(toys.three, "ale", 4)
    with pytest.raises(UserError, match="groups of 3 envs do not fit 4"):
        make(make_creator("pong"), "ale", 4, 2, 3)
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    with pytest.raises(UserError, match="needs ale_py.vector_env.*pip install -U ale-py"):
        make(make_creator("pong"), "ale", 4)


# --- the command line ---------------------------------------------------------------------------

SMALL = (
    "--train.num-envs 4 --train.num-workers 2 --train.batch-size 128 --train.minibatch-size 64 "
    "--train.bptt-horizon 8 --train.update-epochs 1 --train.checkpoint-interval 1 --policy.hidden-size 32"
).split()


def train(folder, vec, name, *more):
    return demo(folder, "--mode", "train", "--vec", vec, "--env", "pong", "--exp-id", name, *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of 2 epochs on each preprocessing: `of_ale` and `of_pufferlib`."""
    folder = tmp_path_factory.mktemp("ale")
    for vec, name in (("ale", "of_ale"), ("serial", "of_pufferlib")):
        status, out, err = train(folder, vec, name, *SMALL, "--train.total-timesteps", 256)
        assert (status, err) == (0, "")
        assert f"vec={vec}" in out and out.count(" --vec ale") == (vec == "ale")
    return folder


def checkpoint(folder, name, epoch=2):
    return Run.open(folder / "experiments" / name).model_path(epoch)


def test_a_run_is_trained_collapsed_evaluated_and_resumed(trained):
    payload = torch.load(checkpoint(trained, "of_ale"), weights_only=True)
    assert payload["env"]["preprocessing"] == "ale"
    assert payload["policy"]["observation_space"]["shape"] == [1, 105, 80]

    status, out, err = train(trained, "ale", "of_ale", "--resume", "--train.total-timesteps", 512)
    assert (status, err) == (0, "")
    assert re.findall(r"^epoch=(\d+) ", out, re.M) == ["3", "4"]

    status, out, err = train(
        trained, "ale", "of_ale", "--collapse", 1.0, "--collapse.calibrate", 64,
        "--train.total-timesteps", 640,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "recorded 64 states" in out and re.findall(r"^epoch=(\d+) ", out, re.M) == ["5"]
    nested = next((trained / "experiments/of_ale").glob("collapsed_*/pong-*/model_000005.pt"))
    assert torch.load(nested, weights_only=True)["env"]["preprocessing"] == "ale"

    status, out, err = demo(
        trained, "--mode", "eval", "--vec", "ale", "--eval-model-path", nested, "--episodes", 2,
        "--env.max-num-frames-per-episode", 80,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "episode_length=20 episodes=2" in out


@pytest.fixture
def here(trained, monkeypatch, capsys):
    """Runs a command in this process, in the folder of `trained`.  -> (exit status, stdout, stderr)"""
    monkeypatch.chdir(trained)

    def run(*words):
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "name, vec, other", [("of_ale", "multiprocessing", "ale"), ("of_pufferlib", "ale", "multiprocessing")]
)
def test_preprocessings_do_not_mix(trained, here, name, vec, other):
    files = sorted((trained / "experiments" / name).rglob("*"))
    run = ("--vec", vec, "--env", "pong", "--exp-id", name)
    for words in (
        ("--mode", "train", "--resume", "--train.total-timesteps", 1024),
        ("--mode", "train", "--collapse", 0.9, "--train.total-timesteps", 1024),
        ("--mode", "collapse", "--collapse", 0.9, "--collapse.calibrate", 0),
        ("--mode", "collapse", "--collapse", "auto", "--collapse.target-params", 0.5),
        ("--mode", "eval", "--episodes", 1),
    ):
        status, out, err = here(*words, *run)
        assert (status, out) == (2, "")
        said = rf"demo.py: experiments/{name}/model_\S+ was trained on .*: use --vec {other}\n"
        assert re.fullmatch(said, err)
    assert sorted((trained / "experiments" / name).rglob("*")) == files


def test_a_checkpoint_that_says_nothing_is_pufferlib_s(trained, here, tmp_path):
    payload = torch.load(checkpoint(trained, "of_pufferlib"), weights_only=True)
    assert payload["env"].pop("preprocessing") == "pufferlib"
    old = checkpoints.save(tmp_path / "model_000009.pt", payload)
    words = "--mode", "eval", "--eval-model-path", old, "--episodes", 1
    status, out, err = here(*words, "--vec", "ale")
    assert (status, out) == (2, "") and err.endswith("use --vec multiprocessing\n")
    status, out, _ = here(*words, "--env.max-num-frames-per-episode", 40)
    assert status == 0 and "episode_length=10 episodes=1" in out


def test_films_are_refused(trained, here):
    path = checkpoint(trained, "of_ale")
    status, _, err = here("--mode", "eval", "--vec", "ale", "--eval-model-path", path, "--capture-video")
    assert status == 2 and err.startswith("demo.py: --vec ale has no pictures to film")
