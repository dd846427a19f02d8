"""Laws of fibers over time: every way to tell a history tells the same."""

import json
from pathlib import Path

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import Count, FiberHistory, SpaceCount

WRITTEN = Path(__file__).parent / "written"


def counts(rng, count=8):
    """The fibers of some checkpoints, in no order; one space appears late."""
    for epoch in rng.permutation(np.arange(1, count + 1) * 3):
        spaces = {}
        for name, kind in (("conv", "cnn"), ("lstm", "lstm"), ("late", "linear")):
            if name != "late" or epoch > 9:
                spaces[name] = SpaceCount(kind, 64, int(rng.integers(1, 65)))
        yield Count(epoch=int(epoch), spaces=spaces, params=1000 + int(epoch), digest=f"of {epoch}")


def test_a_history_of_counts_has_each_in_its_place():
    given = list(counts(np.random.default_rng(0)))
    history = FiberHistory.from_counts(given)
    assert history.epochs.tolist() == sorted(count.epoch for count in given)
    for count in given:
        place = history.epochs.tolist().index(count.epoch)
        assert history.params[place] == count.params
        for name, space in history.spaces.items():
            told = count.spaces.get(name)
            if told:
                assert (space.kind, space.units[place], space.fibers[place]) == (
                    told.kind,
                    told.units,
                    told.fibers,
                )
            else:
                assert np.isnan(space.units[place]) and np.isnan(space.fibers[place])
    assert np.isnan(history.params_collapsed).all()


def test_a_history_comes_back_from_its_dict_and_its_file(tmp_path):
    history = FiberHistory.from_counts(list(counts(np.random.default_rng(1))), {"linear": 0.3})
    path = history.save(tmp_path / "fibers_over_time.json")
    for again in (FiberHistory.of(history.to_dict()), FiberHistory.of(path), FiberHistory.of(str(path))):
        assert again.to_dict() == history.to_dict()
    assert FiberHistory.of(history) is history and FiberHistory.of(path).counts == history.counts
    json.loads(path.read_text(), parse_constant=pytest.fail)  # nan is null


def test_counts_are_known_by_their_thresholds(tmp_path):
    history = FiberHistory.from_counts(list(counts(np.random.default_rng(2))), 0.3)
    path = history.save(tmp_path / "fibers_over_time.json")
    assert FiberHistory.known(path, 0.3) == list(history.counts)
    assert FiberHistory.known(path, 0.4) == FiberHistory.known(tmp_path / "none.json", 0.3) == []


def test_the_file_of_an_earlier_version_comes_out_as_it_went_in(tmp_path):
    path = WRITTEN / "experiments/small/fibers_over_time.json"
    again = FiberHistory.of(path).save(tmp_path / "fibers_over_time.json")
    assert again.read_text() == path.read_text()


def test_an_empty_history_is_a_history():
    assert FiberHistory.from_counts([]).to_dict()["epochs"] == []


def test_bad_histories_are_one_sentence(tmp_path):
    path = tmp_path / "fibers_over_time.json"
    for text, words in [("{", "damaged"), ("[]", "no fiber history"), ('{"epochs": []}', "no fiber history")]:
        path.write_text(text)
        with pytest.raises(UserError, match=f"{words}.*--mode fibers"):
            FiberHistory.of(path)
    with pytest.raises(UserError, match="cannot read .*--mode fibers"):
        FiberHistory.of(tmp_path / "none.json")
    space = {"kind": "cnn", "units": [3, 3], "fibers": [2]}
    with pytest.raises(UserError, match="not all 2 epochs long"):
        FiberHistory.of({"epochs": [1, 2], "spaces": {"a": space}})
    for wrong in ({"epochs": ["x"], "spaces": {}}, {"epochs": [1], "spaces": {"a": {"kind": "cnn"}}}):
        with pytest.raises(UserError, match="not as expected"):
            FiberHistory.of(wrong)
