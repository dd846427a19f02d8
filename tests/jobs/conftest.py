"""Copies of saved runs, one in each layout, that a test may spoil."""

import shutil

import pytest
from saved import plant

from pufferlib_kcore import store


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    plant(store.Run.create(root / "experiments", "cartpole", "base"))
    plant(store.MettaFolder.create(root / "train_dir", "cartpole", "base"))
    return root


@pytest.fixture
def base(planted, tmp_path):
    """A run of the usual layout."""
    return store.Run(shutil.copytree(planted / "experiments/base", tmp_path / "experiments/base"))


@pytest.fixture
def metta(planted, tmp_path):
    """A run of Metta's."""
    return store.MettaFolder(shutil.copytree(planted / "train_dir/base", tmp_path / "train_dir/base"))
