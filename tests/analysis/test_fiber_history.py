"""Laws of fibers over time: every way to tell a history tells the same."""

import json

import numpy as np
import pytest

from pufferlib_kcore.analysis.fibers import FiberHistory
from pufferlib_kcore.errors import UserError


def colorings(rng, count=8):
    """One coloring a checkpoint, in no order; one space appears late."""
    for epoch in rng.permutation(np.arange(1, count + 1) * 3):
        spaces = {}
        for name, kind in (("conv", "cnn"), ("lstm", "lstm"), ("late", "linear")):
            if name != "late" or epoch > 9:
                spaces[name] = {"kind": kind, "units": 64, "fibers": int(rng.integers(1, 65))}
        yield {"epoch": int(epoch), "thresholds": 0.3, "spaces": spaces, "params": 1000 + int(epoch)}


def test_a_history_of_colorings_has_each_in_its_place():
    given = list(colorings(np.random.default_rng(0)))
    history = FiberHistory.of(given)
    assert history.epochs.tolist() == sorted(coloring["epoch"] for coloring in given)
    for coloring in given:
        place = history.epochs.tolist().index(coloring["epoch"])
        assert history.params[place] == coloring["params"]
        for name, space in history.spaces.items():
            told = coloring["spaces"].get(name)
            if told:
                assert (space.kind, space.units[place]) == (told["kind"], told["units"])
                assert space.fibers[place] == told["fibers"]
            else:
                assert np.isnan(space.units[place]) and np.isnan(space.fibers[place])
    assert np.isnan(history.params_collapsed).all()


def test_a_history_comes_back_from_its_dict_and_its_file(tmp_path):
    history = FiberHistory.of(list(colorings(np.random.default_rng(1))))
    path = history.save(tmp_path / "fibers_over_time.json")
    for again in (FiberHistory.of(history.to_dict()), FiberHistory.of(path), FiberHistory.of(str(path))):
        assert again.to_dict() == history.to_dict()
    assert FiberHistory.of(history) is history
    json.loads(path.read_text(), parse_constant=pytest.fail)  # nan is null


def test_an_empty_history_is_a_history():
    assert FiberHistory.of([]).to_dict()["epochs"] == []


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
