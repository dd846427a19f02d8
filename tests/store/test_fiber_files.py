"""Laws of fibers.pkl: what is saved is loaded, and loading runs nothing."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import FibersFile, SpaceFibers

WRITTEN = Path(__file__).parent / "written"


def space(labels, kind="linear", reason=None):
    return SpaceFibers(kind, np.asarray(labels, dtype=np.int64), reason)


def coloring(**spaces):
    return FibersFile(epoch=51, thresholds={"linear": 0.3, "lstm": 0.5}, spaces=spaces)


def held(**spaces):
    """What a file would hold, as plain data."""
    return {"version": 1, "epoch": 51, "thresholds": 0.3, "spaces": spaces}


def first_member_labels(rng, units):
    """Random labels, numbered by first member."""
    raw = rng.integers(0, max(1, units // 2), units)
    number = {}
    return [number.setdefault(int(label), len(number)) for label in raw]


def test_what_is_saved_is_loaded(tmp_path):
    rng = np.random.default_rng(0)
    spaces = {f"net.{i}": space(first_member_labels(rng, int(rng.integers(1, 300)))) for i in range(30)}
    spaces["value"] = space([0, 1, 2], "critic", "an output is never merged")
    fibers = FibersFile.load(coloring(**spaces).save(tmp_path / "fibers.pkl"))
    assert fibers.epoch == 51 and fibers.thresholds == {"linear": 0.3, "lstm": 0.5}
    assert list(fibers.spaces) == list(spaces)
    for name, saved in spaces.items():
        loaded = fibers.spaces[name]
        assert loaded.labels.dtype == np.int64 and np.array_equal(loaded.labels, saved.labels)
        assert {**vars(loaded), "labels": 0} == {**vars(saved), "labels": 0}
        assert (loaded.units, loaded.fibers) == (len(saved.labels), len(set(saved.labels)))


def test_the_file_of_an_earlier_version_comes_out_as_it_went_in(tmp_path):
    (path,) = WRITTEN.rglob("fibers.pkl")
    assert pickle.loads(path.read_bytes()).keys() == {"version", "epoch", "thresholds", "spaces"}
    assert FibersFile.load(path).save(tmp_path / "fibers.pkl").read_bytes() == path.read_bytes()


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
def test_labels_that_disagree_with_their_counts_are_not_read(tmp_path, wrong, words):
    path = tmp_path / "fibers.pkl"
    entry = {"kind": "linear", "labels": np.array([0, 1, 0]), "units": 3, "fibers": 2, "reason": None}
    path.write_bytes(pickle.dumps(held(net=entry)))
    assert FibersFile.load(path).spaces["net"].fibers == 2
    path.write_bytes(pickle.dumps(held(net={**entry, **wrong})))
    with pytest.raises(UserError, match=words):
        FibersFile.load(path)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0, 1, 0], "no flat int64 array"),
        (np.zeros(3, dtype=np.int32), "no flat int64 array"),
        (np.array([1, 0, 1]), "numbered by first member"),
        (np.array([0, 2, 2]), "numbered by first member"),
        (np.array([0, -1, 0]), "numbered by first member"),
    ],
)
def test_labels_that_are_none_are_not_written(tmp_path, labels, words):
    path = tmp_path / "fibers.pkl"
    with pytest.raises(ValueError, match=words):
        coloring(net=SpaceFibers("linear", labels)).save(path)
    assert not path.exists()


def test_missing_fields_and_other_versions_are_named(tmp_path):
    path = tmp_path / "fibers.pkl"
    bare = held(net={"labels": np.zeros(1, dtype=np.int64)})
    for content, words in [
        (bare, "'net' lacks one of fibers, kind"),
        ([1], "expected a dict"),
        (held() | {"version": 2}, "version is 2, expected 1"),
    ]:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=words):
            FibersFile.load(path)


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
        path.write_bytes(pickle.dumps(held(net=Hostile(target)), protocol=protocol))
        with pytest.raises(UserError, match="would run posix.mkdir"):
            FibersFile.load(path)
        assert not target.exists()
    path.write_bytes(pickle.dumps(held(net=Poisoned())))
    with pytest.raises(UserError):
        FibersFile.load(path)


def test_damage_is_one_sentence(tmp_path):
    path = coloring(net=space([0, 1, 0])).save(tmp_path / "fibers.pkl")
    whole = path.read_bytes()
    for content in [b"", b"text\n", *(whole[:length] for length in range(1, len(whole), 11))]:
        path.write_bytes(content)
        with pytest.raises(UserError, match="--mode collapse") as error:
            FibersFile.load(path)
        assert "\n" not in str(error.value)
    for missing in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(UserError, match="cannot read .*--mode collapse"):
            FibersFile.load(missing)
