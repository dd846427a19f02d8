"""fibers_over_time.json follows the checkpoints of its run."""

import json
import os
import shutil
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from pufferlib_kcore import graph, store
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import fibers
from pufferlib_kcore.policies import build, spec_from
from pufferlib_kcore.policies.restore import restore

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

    def color(epoch, *more, original=fibers.color):
        colored.append(epoch)
        return original(epoch, *more)

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


@pytest.mark.parametrize("rnn", [None, "Recurrent"])
@pytest.mark.parametrize("thresholds", [0.0, 0.9, {"linear": 0.3, "lstm": 1.1}])
def test_what_is_counted_is_what_a_collapse_leaves(run, rnn, thresholds):
    """Though nothing is collapsed; some are of other widths than those before them."""
    for epoch in (1, 2, 3):
        write(run, epoch, 2 * epoch, rnn)
    smaller = restore(run.model_path(2))
    collapsed = graph.collapse(smaller.policy, smaller.example_inputs, 1.0).policy
    for epoch in (4, 5):
        replace(smaller.file, state_dict=collapsed.state_dict(), epoch=epoch).save(run.model_path(epoch))
    history = fibers.fibers_over_time(fibers.FibersRequest(run=run, thresholds=thresholds, processes=1))
    assert [count.epoch for count in history.counts] == [1, 2, 3, 4, 5]
    for count in history.counts:
        original = restore(run.model_path(count.epoch))
        whole = graph.collapse(original.policy, original.example_inputs, thresholds)
        assert {name: s.fibers for name, s in count.spaces.items()} == whole.widths
        assert {name: s.units for name, s in count.spaces.items()} == {
            n: len(f) for n, f in whole.fibers.items()
        }
        assert {name: s.kind for name, s in count.spaces.items()} == whole.kinds
        report = whole.report
        assert (count.params, count.params_collapsed) == (report.params_before, report.params_after)


def test_one_trace_serves_checkpoints_of_one_shape(run, monkeypatch):
    traced = []

    def trace(*given, original=graph.trace):
        traced.append(given)
        return original(*given)

    monkeypatch.setattr(graph, "trace", trace)
    files = [(epoch, run.model_path(epoch)) for epoch in (1, 2, 3)]
    counts = list(fibers.color_each(files, 0.0))
    assert len(traced) == 1 and [count.spaces["encoder"].fibers for count in counts] == [7, 5, 3]
    write(run, 2, 0, "Recurrent")
    assert [*fibers.color_each(files, 0.0)][2] == counts[2] and len(traced) == 4


def test_workers_count_the_same(run, monkeypatch):
    for epoch in range(4, 12):
        write(run, epoch, epoch % 7)
    request = fibers.FibersRequest(run=run, thresholds=0.5, processes=2)
    here = fibers.fibers_over_time(replace(request, processes=1))
    run.history_path.unlink()
    monkeypatch.setattr(fibers, "WORTH", 0.0)
    assert fibers.fibers_over_time(request).counts == here.counts
