"""Laws of names: what is written is read back, and nothing else is."""

import random

import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import names

KINDS = ["linear", "cnn", "lstm", "critic"]


def some_thresholds(rng, count=300):
    """Thresholds of every look: tenths, round decimals, and floats with all their digits."""
    yield from [0, 2, 0.0, 2.0, -0.0, 1e-6, 1e-300, 0.1 + 0.2, 1.9999999999999998]
    yield from [tenth / 10 for tenth in range(21)]
    for _ in range(count):
        yield rng.choice([rng.uniform(0, 2), round(rng.uniform(0, 2), rng.randint(1, 4))])


def test_one_threshold_comes_back_exactly():
    for threshold in some_thresholds(random.Random(0)):
        for epoch in (0, 51, 999999, 1234567):
            name = names.collapse_folder(threshold, epoch)
            assert names.parse_collapse_folder(name)[:2] == (threshold, epoch), name


def test_thresholds_by_kind_come_back_exactly_whatever_kinds_are_given():
    rng = random.Random(1)
    values = list(some_thresholds(rng))
    for _ in range(300):
        kinds = rng.sample(["default", *KINDS], rng.randint(1, 5))
        thresholds = {kind: rng.choice(values) for kind in kinds}
        name = names.collapse_folder(thresholds, 51)
        assert names.parse_collapse_folder(name)[:2] == (thresholds, 51), name


def test_different_thresholds_have_different_names():
    rng = random.Random(2)
    values = {float(t) for t in some_thresholds(rng)}
    assert len({names.threshold_tag(value) for value in values}) == len(values)


def test_the_names_that_the_guide_prints():
    assert names.collapse_folder(0.3, 51) == "collapsed_model_thr_03_000051"
    assert [names.threshold_tag(t) for t in (0, 1, 2, 0.25)] == ["00", "10", "20", "0p25"]
    by_kind = {"critic": 0.8, "linear": 0.3, "cnn": 0.5, "lstm": 1.0}
    assert names.collapse_folder(by_kind, 51) == "collapsed_model_thr_lin03_cnn05_lstm10_crit08_000051"
    assert names.model_file(50) == "model_000050.pt"
    assert names.model_file(51, collapsed=True, state=True) == "model_000051_collapsed.state.pt"
    assert names.run_folder("beam_rider", "e3d19a76") == "beam_rider-e3d19a76"


def test_two_digits_say_whole_tenths_only():
    for threshold in some_thresholds(random.Random(3)):
        tag = names.threshold_tag(threshold)
        assert (len(tag) == 2) == (threshold in [tenth / 10 for tenth in range(21)]), (threshold, tag)


@pytest.mark.parametrize("threshold", [-0.1, 2.1, float("nan"), float("inf"), "much", None, True, [0.3]])
def test_a_threshold_outside_0_to_2_is_refused_by_name(threshold):
    with pytest.raises(UserError, match="cosine distance from 0"):
        names.collapse_folder(threshold, 51)
    with pytest.raises(UserError, match="critic threshold"):
        names.collapse_folder({"critic": threshold}, 51)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'gru', expected some of default, linear"):
        names.threshold_tag({"gru": 0.3})
    with pytest.raises(UserError, match="no kind at all"):
        names.threshold_tag({})


@pytest.mark.parametrize(
    "name",
    [
        "collapsed_model_thr_25_000051",  # 2.5
        "collapsed_model_thr_3_000051",
        "collapsed_model_thr_03_51",
        "collapsed_model_thr_03_000051x",
        "collapsed_model_thr_lin03_lin05_000051",
        "collapsed_model_thr_gru03_000051",
        "collapsed_model_thr__000051",
        "model_000051.pt",
        "beam_rider-e3d19a76",
        "",
    ],
)
def test_other_names_are_no_collapse_folders(name):
    assert names.parse_collapse_folder(name) is None


@pytest.mark.parametrize("tag", ["", "3", "lin03_", "lin03_lin05", "0.3", "21"])
def test_other_texts_are_no_threshold_tags(tag):
    with pytest.raises(UserError):
        names.parse_threshold_tag(tag)


def test_model_files_come_back_and_unfinished_ones_do_not():
    for epoch in (0, 7, 50, 999999, 1000000):
        for collapsed in (False, True):
            for state in (False, True):
                name = names.model_file(epoch, collapsed=collapsed, state=state)
                assert names.parse_model_file(name) == (epoch, collapsed, state)
                assert names.parse_model_file(f".{name}.0a1b2c3d.tmp") is None
    for name in ("model_50.pt", "model_000050.pth", "xmodel_000050.pt", "model_000050.state", "fibers.pkl"):
        assert names.parse_model_file(name) is None


def test_run_folders_come_back_whatever_the_env_is_called():
    for env in ("beam_rider", "beam", "HalfCheetah-v5", "a-0123abcd", "x.y"):
        assert names.parse_run_folder(names.run_folder(env, "e3d19a76")) == (env, "e3d19a76")
    assert "/" not in names.run_folder("ALE/Pong-v5", "e3d19a76")
    assert not names.env_tag("../x").startswith(".")
    assert names.parse_run_folder("my_run") is None
    assert names.parse_run_folder("beam_rider-E3D19A76") is None


def test_metta_checkpoints_come_back():
    rng = random.Random(4)
    for run in ("t1", "a__e5__s3", "t1_epoch_340_base_0.7_0.5_1.0_0.8_seed2"):
        checkpoint = names.MettaCheckpoint(run, *(rng.randrange(10**9) for _ in range(3)))
        assert names.parse_metta_checkpoint(names.metta_checkpoint(checkpoint)) == checkpoint
    printed = names.MettaCheckpoint("t1", 340, 512000, 59)
    assert names.metta_checkpoint(printed) == "t1__e340__s512000__t59__sc0.pt"
    assert names.parse_metta_checkpoint("t1__e340__s512000.pt") is None


def test_metta_runs_and_their_controls_come_back():
    rng = random.Random(5)
    values = list(some_thresholds(rng))
    for experiment in ("t1", "a_b", "t1_epoch_340_base_0.7_0.5_1.0_0.8_seed2"):
        for role in names.METTA_ROLES:
            for seed in (None, 0, 12):
                for count in (0,) if role == "original" else (1, 4):
                    setting = tuple(float(rng.choice(values)) for _ in range(count))
                    run = names.MettaRun(experiment, rng.randrange(1000), role, setting, seed)
                    assert names.parse_metta_run(names.metta_run(run)) == run
    assert names.metta_run(names.MettaRun("t1", 340, "scratch", (0.7, 0.5, 1, 0.8), 3)) == (
        "t1_epoch_340_scratch_0.7_0.5_1.0_0.8_seed3"
    )
    assert names.parse_metta_run("t1") is None
    for role, setting in (("control", (0.7, 0.5, 1.0, 0.8)), ("base", ()), ("original", (0.2,))):
        with pytest.raises(UserError, match="is one of base"):
            names.metta_run(names.MettaRun("t1", 340, role, setting))


@pytest.mark.parametrize(
    "budget", [{"max_kl": 0.01}, {"target_params": 0.2}, {"max_kl": 1.0, "target_params": 1}]
)
def test_what_a_search_found_has_a_folder_of_its_own(budget):
    name = names.search_folder(budget, 51)
    assert names.parse_collapse_folder(name) == (None, 51, "weights")
    assert len({name, names.collapse_folder(0.3, 51), names.collapse_folder(0.3, 51, "activations")}) == 3


def test_a_numbered_folder_is_a_collapse_folder_of_the_same_meaning():
    plain = [names.collapse_folder(0.3, 51), names.collapse_folder({"lstm": 0.25}, 1234567, "activations")]
    for name in [*plain, names.search_folder({"max_kl": 0.01}, 51)]:
        made = {names.numbered(name, number) for number in range(1, 30)}
        assert len(made) == 29 and name in made
        assert {str(names.parse_collapse_folder(one)) for one in made} == {
            str(names.parse_collapse_folder(name))
        }
        for wrong in ("_1", "_0", "_02", "_", "_x", "_2_2"):
            assert names.parse_collapse_folder(name + wrong) is None


def test_a_folder_says_what_its_thresholds_are_of():
    name = names.collapse_folder({"lstm": 0.25}, 7, "activations")
    assert names.parse_collapse_folder(name) == ({"lstm": 0.25}, 7, "activations")
    assert names.parse_collapse_folder("collapsed_model_auto__000051") is None
