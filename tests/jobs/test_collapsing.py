"""A collapse is a function of a run and settings, with no command line; it returns what it wrote."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from saved import TWINS, WIDTH, Told, contents, of_collapse, saved_policy, source

from pufferlib_kcore import graph, store
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.jobs import CollapseRequest, Over, collapse, record_states, recording
from pufferlib_kcore.policies.restore import restore

OBS = torch.linspace(-1, 1, 80).view(20, 4)


def request(run, **keys):
    return CollapseRequest(source=source(run), settings=of_collapse(**keys))


def same(one, other):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one(OBS), other(OBS), strict=True))


def test_twins_are_merged_and_what_is_written_is_what_is_returned(base):
    done = collapse(request(base))
    assert done.provenance["merged"] == TWINS - 1 and done.provenance["units"] == WIDTH
    assert done.policy.encoder.weight.shape[0] == WIDTH - TWINS + 1
    assert same(done.policy, saved_policy(base, 2)) and same(
        restore(done.folder.model_path).policy, done.policy
    )
    assert (done.epoch, done.agent_steps) == (2, 128)
    found = store.FibersFile.load(done.folder.fibers_path).spaces["encoder"]
    assert len(set(found.labels[:TWINS])) == 1 and found.fibers == WIDTH - TWINS + 1
    assert store.ModelFile.load(done.folder.model_path).collapse == done.provenance
    assert f"wrote {done.folder.model_path}" in done.text.splitlines()


def test_the_optimizers_state_goes_with_it_by_the_dual_map(base):
    done, original = collapse(request(base)), restore(base.model_path(2))
    result = graph.collapse(original.policy, original.example_inputs, 0.0)
    state = store.StateFile.load(base.state_path(2)).optimizer
    names = [name for name, _ in original.policy.named_parameters()]
    expected = graph.collapse_optimizer(state, result, policy=original.policy, names=names)
    written = store.StateFile.load(done.folder.state_path)
    assert (written.epoch, written.agent_steps) == (2, 128)
    for found in (done.optimizer, written.optimizer):
        for i, moments in expected["state"].items():
            assert torch.equal(found["state"][i]["exp_avg"], moments["exp_avg"])
    base.state_path(2).unlink()
    cold = collapse(request(base))
    assert cold.optimizer is None and "starts cold" in cold.text and not cold.folder.state_path.exists()


def test_the_nearest_epoch_is_taken_and_said(base, metta):
    assert "no model_000003.pt: the nearest epoch is 4" in collapse(request(base, epoch=3)).text
    assert "no epoch 9: the nearest epoch is 4" in collapse(request(metta, epoch=9)).text
    assert collapse(request(base, epoch=4)).text.splitlines()[0] == f"collapsing {base.model_path(4)}"


def test_what_stands_is_made_again_or_not_as_is_asked(base):
    made = collapse(request(base))
    before = contents(made.folder.path)
    stands = collapse(replace(request(base), again=False))
    assert "collapsed before" in stands.text and contents(made.folder.path) == before
    assert stands.folder == made.folder and stands.provenance == made.provenance
    assert same(stands.policy, made.policy)
    made.folder.model_path.write_bytes(b"")
    assert "collapsed before" not in collapse(replace(request(base), again=False)).text


def test_what_reads_the_merged_is_refitted_on_the_recorded_states(base):
    asked = request(base, threshold=0.5, calibrate=64)
    done, original = collapse(asked), restore(base.model_path(2))
    seen = record_states(asked.merging(original).recording)
    traced = graph.trace(original.policy, original.example_inputs)
    coloring = traced.color(0.5)
    refitted, plain = traced.merge(coloring, calibrate=seen.calibrate), traced.merge(coloring)
    assert same(done.policy, refitted.policy) and not same(done.policy, plain.policy)
    assert (
        done.provenance["kl"]
        == graph.divergence(traced, refitted.policy, seen.test, fibers=coloring.merges).kl
    )


def test_where_nothing_merges_it_says_so_and_records_nothing(base):
    assert "NOTHING MERGED" not in collapse(request(base)).text
    weights = store.ModelFile.load(base.model_path(2))
    torch.manual_seed(0)
    apart = {**weights.state_dict, "encoder.weight": torch.randn(WIDTH, 4)}
    replace(weights, state_dict=apart).save(base.model_path(2))
    told = Told()
    done = collapse(request(base, calibrate=64), told)
    assert f"NOTHING MERGED: none of {WIDTH} units at threshold 0" in done.text
    assert done.provenance["merged"] == 0 and told.said == []


def test_a_job_prints_nothing_and_whoever_watches_is_told(base, capsys):
    told = Told()
    done = collapse(request(base, threshold="auto", target_params=0.5, calibrate=64, distill=2), told)
    assert capsys.readouterr() == ("", "")
    assert done.provenance["params_after"] <= 0.5 * done.provenance["params_before"]
    assert done.provenance["thresholds"] is None and done.provenance["tag"] == "auto"
    kinds = [what.split(":")[0].split(" ")[0] for what in dict.fromkeys(what for what, *_ in told.said)]
    assert kinds == ["recording", "searching", "distilling"]
    lines = [line for *_, line in told.said if line]
    assert lines and all(line.startswith("size=") for line in lines)
    points = done.folder.frontier_path.read_text().splitlines()[1:]
    assert len(points) == len(lines) and done.folder.frontier_path.with_suffix(".png").is_file()


def test_states_that_cannot_be_recorded_are_done_without_unless_one_insists(base, monkeypatch):
    def broken(*about):
        raise UserError("no such game")

    monkeypatch.setattr(recording, "played", broken)
    asked = request(base, calibrate=64)
    done = collapse(asked)
    assert "not calibrated, no states could be recorded: no such game" in done.text
    assert done.provenance["recorded"] == {"failed": "no such game"} and done.provenance["kl"] is None
    assert "not calibrated" in collapse(request(base, calibrate=64, colors="faithful")).text
    for insisting in (replace(asked, insist=True), request(base, colors="activations", calibrate=64)):
        with pytest.raises(UserError, match="no such game"):
            collapse(insisting)


@pytest.mark.parametrize(
    "keys, name",
    [
        ({"threshold": 0}, "collapsed_model_thr_00_000002"),
        ({"linear": 0.7, "lstm": 1}, "collapsed_model_thr_lin07_cnn00_lstm10_crit00_000002"),
        ({"threshold": 0.1, "colors": "activations", "calibrate": 64}, "collapsed_model_act_01_000002"),
        ({"threshold": "auto", "target_params": 0.5}, "collapsed_model_auto_params0p5_000002"),
    ],
)
def test_the_folder_says_how_it_was_made(keys, name, base):
    done = collapse(request(base, **keys))
    assert done.folder.path == base.path / name and done.folder.model_path.is_file()
    recorded = [line for line in done.text.splitlines() if "states to calibrate on" in line]
    assert bool(recorded) == bool(keys.get("calibrate")) == ("KL" in done.text)
    assert ("made-up observations" in done.text) == (keys.get("threshold") == "auto")


def test_what_is_said_over_the_run_counts_and_what_contradicts_it_is_refused(base):
    few = Over(overrides={"train.seed": "7", "env.max_episode_steps": "9"})
    done = collapse(replace(request(base, calibrate=32), source=source(base, over=few)))
    recorded = done.provenance["recorded"]
    assert recorded["seed"] == 7 and recorded["env"]["max_episode_steps"] == 9
    for over, said in (
        (Over(env="pendulum"), "was trained on cartpole, not on --env pendulum"),
        (Over(overrides={"policy.hidden_size": "8"}), f"policy.hidden_size = {WIDTH}"),
    ):
        with pytest.raises(UserError, match=said):
            source(base, over=over).check()
        with pytest.raises(UserError, match=said):
            collapse(replace(request(base, calibrate=32), source=source(base, over=over)))


def test_requests_are_frozen(base):
    with pytest.raises(FrozenInstanceError):
        request(base).again = False
