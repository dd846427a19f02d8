"""Laws of fibers.pkl: what is saved is loaded, and loading runs nothing."""

import os
import pickle

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store.fibers import load_fibers, save_fibers


def space(labels, kind="linear", reason=None):
    labels = np.asarray(labels, dtype=np.int64)
    counts = {"units": len(labels), "fibers": len(set(labels))}
    return {"kind": kind, "labels": labels, **counts, "reason": reason}


def coloring(**spaces):
    return {"epoch": 51, "thresholds": {"linear": 0.3, "lstm": 0.5}, "spaces": spaces}


def first_member_labels(rng, units):
    """Random labels, numbered by first member."""
    raw = rng.integers(0, max(1, units // 2), units)
    number = {}
    return [number.setdefault(int(label), len(number)) for label in raw]


def test_what_is_saved_is_loaded(tmp_path):
    rng = np.random.default_rng(0)
    spaces = {f"net.{i}": space(first_member_labels(rng, int(rng.integers(1, 300)))) for i in range(30)}
    spaces["value"] = space([0, 1, 2], "critic", "an output is never merged")
    fibers = load_fibers(save_fibers(tmp_path / "fibers.pkl", coloring(**spaces)))
    assert fibers["version"] == 1 and fibers["epoch"] == 51
    assert fibers["thresholds"] == {"linear": 0.3, "lstm": 0.5}
    assert list(fibers["spaces"]) == list(spaces)
    for name, saved in spaces.items():
        loaded = fibers["spaces"][name]
        assert loaded["labels"].dtype == np.int64 and np.array_equal(loaded["labels"], saved["labels"])
        assert {**loaded, "labels": 0} == {**saved, "labels": 0}


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"labels": [0, 1, 0]}, "no flat int64 array"),
        ({"labels": np.zeros(3, dtype=np.int32)}, "no flat int64 array"),
        ({"labels": np.zeros((3, 1), dtype=np.int64)}, "no flat int64 array"),
        ({"labels": np.array([0, 0])}, "2 labels for 3 units"),
        ({"labels": np.array([1, 0, 1])}, "numbered by first member"),
        ({"labels": np.array([0, 2, 2])}, "numbered by first member"),
        ({"labels": np.array([0, -1, 0])}, "numbered by first member"),
        ({"fibers": 3}, "numbered by first member"),
    ],
)
def test_labels_that_disagree_with_their_counts_are_neither_written_nor_read(tmp_path, wrong, words):
    path = tmp_path / "fibers.pkl"
    bad = coloring(net={**space([0, 1, 0]), **wrong})
    with pytest.raises(ValueError, match=words):
        save_fibers(path, bad)
    assert not path.exists()
    path.write_bytes(pickle.dumps({"version": 1, **bad}))
    with pytest.raises(UserError, match=words):
        load_fibers(path)


def test_missing_fields_and_other_versions_are_named(tmp_path):
    path = tmp_path / "fibers.pkl"
    with pytest.raises(ValueError, match="'net' lacks one of fibers, kind"):
        save_fibers(path, coloring(net={"labels": np.zeros(1, dtype=np.int64)}))
    newer = {"version": 2, **coloring()}
    for content, words in [([1], "expected a dict"), (newer, "version is 2, expected 1")]:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=words):
            load_fibers(path)


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Poisoned:
    """A call of a name that is admitted, with arguments that no array has."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype(object), b"\x01" * 8)


def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path):
    path, target = tmp_path / "fibers.pkl", tmp_path / "touched"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(coloring(net=Hostile(target)), protocol=protocol))
        with pytest.raises(UserError, match="would run posix.mkdir"):
            load_fibers(path)
        assert not target.exists()
    path.write_bytes(pickle.dumps(coloring(net=Poisoned())))
    with pytest.raises(UserError):
        load_fibers(path)


def test_damage_is_one_sentence(tmp_path):
    path = save_fibers(tmp_path / "fibers.pkl", coloring(net=space([0, 1, 0])))
    whole = path.read_bytes()
    for content in [b"", b"text\n", *(whole[:length] for length in range(1, len(whole), 11))]:
        path.write_bytes(content)
        with pytest.raises(UserError, match="--mode collapse") as error:
            load_fibers(path)
        assert "\n" not in str(error.value)
    for missing in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(UserError, match="cannot read .*--mode collapse"):
            load_fibers(missing)
