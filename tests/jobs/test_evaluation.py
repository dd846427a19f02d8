"""What a job plays and exports: the newest checkpoint of a run, or a file alone."""

from dataclasses import replace

import numpy as np
import pytest
from saved import of_collapse, saved_policy, source

from pufferlib_kcore import settings, store
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import CollapseRequest, EvaluateRequest, FileSource, Over, collapse, evaluate, world
from pufferlib_kcore.training.acting import play


def alone(path, **over):
    return FileSource(path=path, vec="serial", over=Over(**over))


def same(one, other):
    pairs = zip((one.returns, one.lengths), (other.returns, other.lengths), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_what_is_played_is_what_acting_plays(base):
    found = evaluate(EvaluateRequest(source=source(base), episodes=5))
    said = source(base).settings()
    vec = world.one_group(said, "serial", 5)
    expected = play(saved_policy(base, 4), vec, said.train.seed, episodes=5)
    assert same(found.played, expected) and len(found.played.returns) == 5
    assert (found.path, found.env, found.film) == (base.model_path(4), "cartpole", None)
    assert str(found).startswith(f"checkpoint={base.model_path(4)} env=cartpole episode_return=")


def test_a_file_alone_plays_as_its_run_does(base):
    episodes = [
        evaluate(EvaluateRequest(source=which, episodes=3)).played
        for which in (source(base), alone(base.model_path(4)))
    ]
    assert same(*episodes)
    assert len(evaluate(EvaluateRequest(source=source(base))).played.returns) == 4  # as it has environments


def test_a_file_alone_has_the_environment_that_it_says_and_what_is_said_over_it(base):
    short = alone(base.model_path(4), overrides={"env.max_episode_steps": "3"})
    assert evaluate(EvaluateRequest(source=short, episodes=2)).played.lengths.max() <= 3
    for over, said in (
        ({"env": "pendulum"}, "trained on cartpole"),
        ({"overrides": {"policy.hidden_size": "8"}}, "policy.hidden_size = 16"),
    ):
        with pytest.raises(UserError, match=said):
            alone(base.model_path(4), **over).newest()


def test_what_a_collapse_wrote_plays_alone_as_the_original_where_only_twins_merged(base):
    done = collapse(CollapseRequest(source=source(base), settings=of_collapse(epoch=4)))
    whole = evaluate(EvaluateRequest(source=source(base), episodes=4)).played
    assert same(evaluate(EvaluateRequest(source=alone(done.folder.model_path), episodes=4)).played, whole)


def test_other_preprocessing_is_refused_by_both(base):
    for which in (source(base), alone(base.model_path(4))):
        with pytest.raises(UserError, match="use --vec multiprocessing"):
            replace(which, vec="ale").newest()


def test_a_run_without_settings_of_its_own_takes_those_that_are_said(base):
    (base.path / "config.json").unlink()
    plain = source(base, over=Over(env="cartpole", overrides={"policy.hidden_size": "16"})).settings()
    assert plain == settings.resolve("cartpole", {"policy.hidden_size": "16"})
    unnamed = source(base, over=Over(overrides={"policy.hidden_size": "16"})).settings()  # judged by no env
    assert unnamed == settings.resolve(None)


def test_nothing_to_play_is_one_sentence(tmp_path):
    empty = store.Run.create(tmp_path, "cartpole", "empty")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        source(empty).newest()
