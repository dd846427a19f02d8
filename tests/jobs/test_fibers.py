"""fibers_over_time.json follows the checkpoints of its run."""

import json
import os
import shutil

import gymnasium
import numpy as np
import pytest
import torch

from pufferlib_kcore import store
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import fibers
from pufferlib_kcore.policies import build, spec_from

BOX = gymnasium.spaces.Box(-1, 1, (4,), np.float32)


def write(run, epoch, twins, rnn=None):
    """A checkpoint of which so many hidden units compute the same."""
    torch.manual_seed(epoch)
    spec = spec_from(None, "Policy", rnn, {"hidden_size": 8}, {}, BOX, gymnasium.spaces.Discrete(3))
    weights = dict(build(spec).state_dict())
    for name in ("encoder.weight", "encoder.bias"):
        if name in weights:
            weights[name][:twins] = weights[name][:1]
    file = store.ModelFile(policy=spec, state_dict=weights, epoch=epoch, agent_steps=0)
    file.save(run.model_path(epoch))


@pytest.fixture
def run(tmp_path):
    """A run with 2, 4 and 6 twins at epochs 1, 2 and 3."""
    made = store.Run.create(tmp_path, "mine", "base")
    for epoch in (1, 2, 3):
        write(made, epoch, 2 * epoch)
    return made


@pytest.fixture
def counted(run, monkeypatch):
    """counted() -> fibers of the encoder at each checkpoint, and which epochs had to be colored"""
    colored = []

    def color(job, original=fibers.color):
        colored.append(job[0])
        return original(job)

    monkeypatch.setattr(fibers, "color", color)

    def ask():
        colored.clear()
        history = fibers.fibers_over_time(fibers.FibersRequest(run=run, thresholds=0.0, processes=1))
        return history.spaces["encoder"].fibers.tolist(), list(colored)

    return ask


def test_what_is_known_is_not_colored_again_and_what_changed_is(run, counted):
    assert counted() == ([7, 5, 3], [1, 2, 3])
    assert counted() == ([7, 5, 3], [])
    stat = run.model_path(2).stat()
    write(run, 2, 8)
    assert run.model_path(2).stat().st_size == stat.st_size
    os.utime(run.model_path(2), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counted() == ([7, 1, 3], [2])
    run.model_path(1).unlink()
    assert counted() == ([1, 3], [])


def test_a_copied_run_keeps_what_is_known(run, counted, tmp_path):
    counted()
    shutil.move(run.path, tmp_path / "aside")
    shutil.copytree(tmp_path / "aside", run.path, copy_function=shutil.copyfile)
    assert counted() == ([7, 5, 3], [])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"thresholds": 0.0}', '{"thresholds": 0.0, "entries": 5}']
)
def test_a_damaged_file_is_made_anew(text, run, counted):
    counted()
    (run.history_path).write_text(text)
    assert counted() == ([7, 5, 3], [1, 2, 3])


def test_entries_that_are_not_whole_are_colored_anew(run, counted):
    counted()
    path = run.history_path
    whole = json.loads(path.read_text())
    for spoil in (
        lambda entry: entry.pop("digest"),  # as an earlier version wrote it
        lambda entry: entry.pop("params"),
        lambda entry: entry.update(spaces=[]),
        lambda entry: entry["spaces"].update(encoder=None),
    ):
        content = json.loads(json.dumps(whole))
        spoil(content["entries"][1])
        path.write_text(json.dumps(content))
        assert counted() == ([7, 5, 3], [2])


def test_a_checkpoint_of_another_architecture_is_one_sentence(run):
    write(run, 2, 0, "Recurrent")
    with pytest.raises(UserError, match="model_000002.pt is of another architecture than model_000003.pt"):
        fibers.fibers_over_time(fibers.FibersRequest(run=run, thresholds=0.0, processes=1))
    assert not (run.history_path).exists()
