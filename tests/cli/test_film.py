"""A film shows the episodes that are reported, whole, at the environment's pace; in this process."""

import ctypes.util
import os

import gymnasium
import pytest
import torch

from pufferlib_kcore import cli, environments, settings
from pufferlib_kcore.environments import control
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import stored
from pufferlib_kcore.policies import build
from pufferlib_kcore.store import EnvFacts, ModelFile

cv2 = pytest.importorskip("cv2")


@pytest.fixture
def untrained(tmp_path):
    """untrained(env, **settings of the environment) -> the checkpoint of a policy that has learned nothing"""

    def write(env, **kwargs):
        words = [word for key, value in kwargs.items() for word in (f"--env.{key}", str(value))]
        said = settings.load(["--env", env, *words, "--policy.hidden-size", "8"]).settings
        world = environments.make_creator(env, said.base.package, **said.env)()
        torch.manual_seed(0)
        spec = stored.spec_of(said, world.single_observation_space, world.single_action_space)
        world.close()
        played = EnvFacts(name=env, package=said.base.package, kwargs=dict(said.env))
        weights = build(spec).state_dict()
        file = ModelFile(policy=spec, state_dict=weights, epoch=1, agent_steps=0, env=played)
        return file.save(tmp_path / "model_000001.pt")

    return write


def watched(path):
    """(frames, frames a second) of a film"""
    film, frames = cv2.VideoCapture(str(path)), 0
    while film.read()[0]:
        frames += 1
    return frames, film.get(cv2.CAP_PROP_FPS)


def played(out):
    return {key: value for key, _, value in (word.partition("=") for word in out.split()) if value}


@pytest.mark.parametrize(
    "env, kwargs, pace",
    [
        ("cartpole", {}, 50),
        ("memory_cue", {"delay": 2}, 4),
        ("pong", {"frameskip": 8, "max_num_frames_per_episode": 64}, 7.5),
        ("pong", {"max_num_frames_per_episode": 40}, 15),
        ("half_cheetah", {"max_episode_steps": 5}, 20),
    ],
)
def test_a_film_has_every_frame_of_the_episodes_that_are_reported(env, kwargs, pace, untrained, capsys):
    if env == "half_cheetah":
        pytest.importorskip("mujoco")
        if not any(map(ctypes.util.find_library, ("EGL", "OSMesa"))) and "DISPLAY" not in os.environ:
            pytest.skip("nothing here can draw")
    path = untrained(env, **kwargs)
    status = cli.main(
        ["--mode", "eval", "--eval-model-path", str(path), "--episodes", "3", "--capture-video"]
    )
    said = played(capsys.readouterr().out)
    assert status == 0 and said["episodes"] == said["film_episodes"] == "3"
    frames, fps = watched(said["film"])
    assert frames == int(said["film_frames"]) == round(3 * float(said["episode_length"])) + 3
    assert fps == pytest.approx(pace) and float(said["film_fps"]) == pytest.approx(pace)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model_000001.mp4", "model_000001.pt"]


def test_what_cannot_be_drawn_is_one_sentence_and_leaves_no_film(untrained, capsys, monkeypatch):
    path = untrained("cartpole")

    def broken(self):
        raise RuntimeError("no OpenGL\nat all")

    monkeypatch.setattr(gymnasium.Wrapper, "render", broken)
    status = cli.main(
        ["--mode", "eval", "--eval-model-path", str(path), "--episodes", "1", "--capture-video"]
    )
    err = capsys.readouterr().err
    assert status == 2 and len(err.splitlines()) == 1, err
    assert "cannot draw cartpole here (no OpenGL at all)" in err and "MUJOCO_GL" in err
    assert [file.name for file in path.parent.iterdir()] == ["model_000001.pt"]


def test_mujoco_without_a_display_takes_what_library_there_is_unless_the_user_chose(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    libraries = {"EGL": "libEGL.so", "OSMesa": "libOSMesa.so"}
    monkeypatch.setattr("ctypes.util.find_library", libraries.get)
    assert control._offscreen("hopper") == {"MUJOCO_GL": "egl"}
    del libraries["EGL"]
    assert control._offscreen("hopper") == {"MUJOCO_GL": "osmesa"}
    libraries.clear()
    with pytest.raises(UserError, match="Hopper-v5 need a display, EGL or OSMesa"):
        control._offscreen("hopper")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "glfw")
            assert control._offscreen("hopper") == {}


def test_a_mujoco_that_cannot_be_loaded_is_one_sentence(monkeypatch):
    monkeypatch.setattr(control, "_need", lambda *about: None)
    monkeypatch.setenv("MUJOCO_GL", "banana")
    monkeypatch.setitem(__import__("sys").modules, "mujoco", None)
    with pytest.raises(UserError, match="MuJoCo cannot be loaded here .*MUJOCO_GL is banana"):
        control.make("hopper")
