"""Laws that a run's folder keeps in either layout, by the same names."""

import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.store import CollapseFolder, MettaFolder, Run

LAYOUTS = pytest.mark.parametrize("layout", [Run, MettaFolder])


def trained(root, layout, epochs=(2, 4, 6), states=None):
    """A run that left files at these epochs."""
    run = layout.create(root, "beam_rider", "t1")
    for epoch in epochs:
        model, state = run.new_files(epoch, 100 * epoch, 1.5 * epoch)
        model.write_bytes(b"weights")
        if states is None or epoch in states:
            state.write_bytes(f"state {epoch}".encode())
    return run


def epochs_of(files):
    return [epoch for epoch, _ in files]


@LAYOUTS
def test_what_was_written_is_found_by_its_epoch(tmp_path, layout):
    run = trained(tmp_path, layout, states=(2, 4))
    assert layout.open(run.path) == run and (run.exp_id, run.env, run.root) == ("t1", "beam_rider", tmp_path)
    assert epochs_of(run.checkpoints()) == [2, 4, 6] and epochs_of(run.states()) == [2, 4]
    for epoch, path in run.checkpoints():
        assert run.model_path(epoch) == path and run.nearest(epoch) == (epoch, path)
    for epoch, path in run.states():
        assert run.state_path(epoch) == path and path.read_text() == f"state {epoch}"
    assert not run.state_path(6).is_file()
    assert (run.nearest(3)[0], run.latest()[0], run.latest(with_state=True)[0]) == (4, 6, 4)
    assert epochs_of(run.resumable()) == [2, 4]
    assert run.new_files(4, 1, 1.0) == (run.model_path(4), run.state_path(4))  # come to once more


@LAYOUTS
def test_a_checkpoint_that_is_set_aside_no_longer_counts(tmp_path, layout):
    run = trained(tmp_path, layout)
    assert [path.suffix for path in run.set_aside(6)] == [".bad", ".bad"]
    assert epochs_of(run.checkpoints()) == epochs_of(run.states()) == [2, 4]


@LAYOUTS
def test_records_and_settings_are_kept(tmp_path, layout):
    run = trained(tmp_path, layout)
    with run.lock():
        for epoch in (1, 2, 3):
            run.log({"epoch": epoch})
        run.truncate_metrics(2)
        run.write_config({"seed": 3})
    assert [record["epoch"] for record in run.metrics()] == [1, 2]
    assert run.config()["seed"] == 3 and run.config()["run"]["exp_id"] == "t1"


@LAYOUTS
def test_a_collapse_knows_the_run_that_it_is_of(tmp_path, layout):
    run = trained(tmp_path, layout)
    for folder in (run.collapse_folder(0.3, 4), run.search_folder({"max_kl": 0.1}, 4)):
        assert folder.source == run and folder.numbered(2).source == run and folder.epoch == 4
        assert folder == CollapseFolder(folder.path)
        folder.path.mkdir()
    assert [folder.source for folder in run.collapses()] == [run, run]


@LAYOUTS
def test_a_run_without_checkpoints_or_states_says_with_which_command_to_make_them(tmp_path, layout):
    run = trained(tmp_path, layout, states=())
    said = "--exp-id t1" if layout is Run else "--layout metta --run t1"
    assert said in run.train_command() and f"--train.data-dir {tmp_path}" in run.train_command()
    assert "t1" not in run.train_command(anew=True)
    with pytest.raises(UserError, match="train anew with .*--env beam_rider"):
        run.resumable()
    with pytest.raises(UserError, match=said):
        trained(tmp_path / "other", layout, ()).latest()


@LAYOUTS
def test_which_states_to_keep_is_said_in_one_of_two_words(tmp_path, layout):
    run = trained(tmp_path, layout)
    assert run.prune_states("all") == [] and epochs_of(run.states()) == [2, 4, 6]
    with pytest.raises(UserError, match="--train.keep-state is 'some', expected 'auto' or 'all'"):
        run.prune_states("some")
    assert trained(tmp_path / "other", layout, ()).prune_states() == []


def test_in_mettas_layout_every_state_stays_and_the_newest_has_mettas_name_as_well(tmp_path):
    run = trained(tmp_path, MettaFolder, epochs=range(1, 9))
    assert run.prune_states(collapse_epochs=(3,)) == [] and epochs_of(run.states()) == list(range(1, 9))
    newest = run.checkpoint_folder / "trainer_state.pt"
    assert newest.read_text() == "state 8" and newest.samefile(run.state_path(8))
