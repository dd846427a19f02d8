"""Fixtures: batches that nobody trained."""

from functools import partial

import pytest
from made_up import runs


@pytest.fixture
def made_up(tmp_path):
    """Makes the entries and the logs of a batch below tmp_path / "train_dir", as made_up.runs does."""
    return partial(runs, tmp_path / "train_dir")
