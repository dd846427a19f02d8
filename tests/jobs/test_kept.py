"""A collapse that a run started from stays as it is; what nobody started from is made anew."""

from dataclasses import replace

import pytest
from saved import contents, of_collapse, saved_policy, source, started_from

from pufferlib_kcore import store
from pufferlib_kcore.jobs import CollapseRequest, ControlRequest, Over, collapse, control
from pufferlib_kcore.store import checkpoints

PLAIN = "collapsed_model_thr_10_000002"


def request(run, over=None, **keys):
    settings = of_collapse(**{"threshold": 1, "calibrate": 32, **keys})
    return CollapseRequest(source=source(run, over=over or Over()), settings=settings)


def spoiled(path):
    """Another policy under the same name."""
    file = store.ModelFile.load(path)
    replace(file, state_dict={name: 2 * tensor for name, tensor in file.state_dict.items()}).save(path)


@pytest.mark.parametrize(
    "keys, overrides, said",
    [
        ({"round_to": 8}, {}, "round_to = 1, here 8"),
        ({"distill": 2}, {}, "distill = None, here 2"),
        ({}, {"train.seed": "5"}, "seed = 1, here 5"),
        ({}, {"env.max_episode_steps": "9"}, "recorded with env ="),
    ],
)
def test_another_collapse_of_that_name_gets_a_number_and_is_found_again(keys, overrides, said, base):
    started_from(collapse(request(base)))
    first = contents(base.path / PLAIN)
    other = request(base, Over(overrides=overrides), **keys)
    done = collapse(other)
    assert f"{PLAIN} is kept" in done.text and said in done.text
    assert done.folder.model_path == base.path / f"{PLAIN}_2/model_000002_collapsed.pt"
    assert {path: path.read_bytes() for path in first} == first
    run = started_from(done)
    assert run.exp_id == f"base/{PLAIN}_2/{run.path.name}" and store.find_run(base.root, run.path.name) == run
    assert run.config()["collapse"]["digest"] == checkpoints.digest(base.model_path(2))
    second = contents(base.path / f"{PLAIN}_2")
    assert "collapsed before" in collapse(other).text
    assert {path: path.read_bytes() for path in second} == second
    assert len(base.collapses()) == 2


def test_the_same_again_is_the_same_file(base):
    started_from(collapse(request(base)))
    made = contents(base.path / PLAIN)
    for same in (Over(), Over(overrides={"train.learning_rate": "1e-4"})):
        assert "collapsed before" in collapse(request(base, same)).text
    assert {path: path.read_bytes() for path in made} == made


def test_what_nobody_started_from_is_made_anew_under_its_plain_name(base):
    collapse(request(base))
    collapse(request(base, round_to=8))
    (folder,) = base.collapses()
    assert folder.path.name == PLAIN
    assert store.ModelFile.load(folder.model_path).collapse["settings"]["round_to"] == 8


def test_a_changed_checkpoint_does_not_take_the_place_of_what_a_run_started_from(base):
    started_from(collapse(request(base)))
    made = contents(base.path / PLAIN)
    spoiled(base.model_path(2))
    done = collapse(request(base))
    assert "model_000002.pt has changed since" in done.text and done.folder.path.name == f"{PLAIN}_2"
    assert {path: path.read_bytes() for path in made} == made


def test_in_mettas_layout_a_run_beside_it_keeps_its_collapse(metta):
    run = started_from(collapse(request(metta)))
    made = contents(metta.path / PLAIN)
    text = collapse(request(metta, round_to=8)).text
    assert f"{PLAIN} is kept: {run.path} started from it" in text
    assert {path: path.read_bytes() for path in made} == made


def test_retrainings_of_every_seed_and_their_controls_share_one_collapse_also_where_it_has_moved(metta):
    collapse(request(metta))
    made = {path.name: path.read_bytes() for path in (metta.path / PLAIN).iterdir()}
    metta.path.rename(metta.path.with_name("moved"))
    moved = store.MettaFolder(metta.path.with_name("moved"))
    (moved.path / "base").rename(moved.path / "moved")
    for seed in ("2", "3"):
        asked = replace(request(moved, Over(overrides={"train.seed": seed})), again=False)
        done = collapse(asked)
        assert "collapsed before" in done.text and done.provenance["source"] == str(moved.model_path(2))
        for kind in ("ablated", "scratch"):
            made_ready = control(ControlRequest(kind=kind, collapse=asked))
            assert made_ready.policy.encoder.weight.shape == done.policy.encoder.weight.shape
    assert {path.name: path.read_bytes() for path in (moved.path / PLAIN).iterdir()} == made
    assert len(moved.collapses()) == 1 and saved_policy(moved, 2) is not None
