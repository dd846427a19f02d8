"""The companions that look, watch and break: bit by bit the same after a resume, and what they say."""

import json

import pytest
import torch
from company import SIX, Tells, end, same
from worlds import Laps, loop, resumed, tiny_policy, weights

from pufferlib_kcore import graph
from pufferlib_kcore.diagnostics.look import look
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.policies import spec_from
from pufferlib_kcore.store import Facts, ProbeFile, Run
from pufferlib_kcore.training.breaking import Breaking
from pufferlib_kcore.training.companions import Said
from pufferlib_kcore.training.diagnosing import Diagnosing
from pufferlib_kcore.training.probing import probe_of
from pufferlib_kcore.training.watching import Watching


def facts(vec):
    wide = {"hidden_size": 8}
    rnn = {"input_size": 8, **wide}
    spec = spec_from(
        None, "Default", "Recurrent", wide, rnn, vec.single_observation_space, vec.single_action_space
    )
    return Facts(policy=spec)


def members(method="fibers"):
    how = 0.9 if method == "fibers" else 0.3
    return {
        "diagnose": Diagnosing(states=12),
        "break": Breaking(
            threshold=how,
            method=method,
            every=2,
            after=2,
            maturity=1,
            max_kl=None,
            max_value_error=None,
            states=8,
        ),
    }


def started(folder, **more):
    vec = Laps()
    made = loop(folder, vec, tiny_policy(vec), **SIX, **more)
    made.facts = facts(vec)
    return made


def goes_on(folder, **more):
    vec = Laps()
    made = resumed(folder, vec, tiny_policy(vec, seed=99), 3, **SIX, **more)
    made.facts = facts(vec)
    return made


@pytest.mark.parametrize("method", ["fibers", "redo", "regrama", "cbp", "swr", "l2-init", "shrink-perturb"])
def test_six_epochs_are_three_and_three_more_bit_by_bit(tmp_path, method):
    straight = started(tmp_path / "straight", companions=members(method))
    straight.fit()
    first = started(tmp_path / "parts", companions=members(method))
    first.fit(stop=lambda: first.epoch == 3)
    second = goes_on(tmp_path / "parts", companions=members(method))
    second.fit()
    assert same(end(straight), end(second))
    plain = started(tmp_path / "plain")
    plain.fit()
    assert not torch.equal(weights(plain.policy), weights(straight.policy)), "breaking changes something"


@pytest.mark.parametrize("then", ["l2-init", "cbp", "fibers"])
def test_a_run_goes_on_with_another_method(tmp_path, then):
    first = started(tmp_path, companions=members("l2-init" if then == "fibers" else "fibers"))
    first.fit(stop=lambda: first.epoch == 3)
    second = goes_on(tmp_path, companions=members(then))
    assert second.fit() and second.epoch == 6
    last = [r for r in second.run.metrics() if "breaking/total" in r][-1]
    assert last["breaking/total"] >= first.companions["break"].breaker.total


def test_looking_changes_nothing_of_the_training(tmp_path):
    plain, seen = started(tmp_path / "plain"), started(tmp_path / "seen", companions={"d": Diagnosing()})
    plain.fit(), seen.fit()
    assert torch.equal(weights(plain.policy), weights(seen.policy))


def test_what_is_said_live_is_what_a_look_at_the_checkpoint_says(tmp_path):
    trainer = started(tmp_path, companions={"diagnose": Diagnosing(states=12, capacity=2)})
    trainer.fit()
    run = Run(trainer.run.path)
    probe = ProbeFile.load(run.probe_path)
    assert probe.states == 12 and probe.epoch == 1
    traced = graph.trace(trainer.policy, probe.inputs[0])
    now = look(traced, probe.inputs).metrics
    last = run.metrics()[-1]
    for name, value in now.items():
        assert last[f"diagnosis/{name}"] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert {"diagnosis/churn", "diagnosis/fibers", "diagnosis/capacity"} <= last.keys()
    assert "diagnosis/fibers" not in run.metrics()[-2], "only at checkpoints"


def test_a_new_run_in_an_old_folder_takes_no_old_probe(tmp_path):
    first = started(tmp_path, companions={"diagnose": Diagnosing(states=12)})
    first.fit(stop=lambda: first.epoch == 1)
    for path in first.run.path.glob("model_*"):
        path.unlink()
    ProbeFile(inputs=[(torch.zeros(2, 4), (torch.zeros(1, 2, 8),) * 2)], epoch=1).save(first.run.probe_path)
    second = started(tmp_path, companions={"diagnose": Diagnosing(states=12)})
    second.fit(stop=lambda: second.epoch == 1)
    assert ProbeFile.load(second.run.probe_path).states == 12


def test_the_probe_of_a_recurrent_policy_holds_its_state_where_segments_begin(tmp_path):
    trainer = started(tmp_path)
    trainer.vec.reset(0)
    data = trainer.collect().rollout
    ((obs, (h, c)),) = probe_of(data, 10**6, torch.Generator())
    N, T = data.obs.shape[:2]
    assert len(obs) == N * T // 4 and h.shape == c.shape == (1, len(obs), 8)
    for n in range(N):
        for s in range(T // 4):
            rows = (obs == data.obs[n, 4 * s]).all(-1) & (h[0] == data.state_h[0, n, s]).all(-1)
            assert rows.any()


def records(epochs, fall):
    """A return that rises to 100, and stays or falls to where it began as the entropy goes."""
    rows = []
    for i in range(1, epochs + 1):
        well = min(1.0, i / 20) if not fall or i < 30 else max(0.0, 1 - (i - 30) / 5)
        rows.append(
            {
                "epoch": i,
                "episode_return": 10 + 90 * well + (i % 3),
                "entropy": 0.6 if not fall or i < 28 else 0.001,
                "approx_kl": 0.01,
                "value_loss": 1.0,
                "diagnosis/relative_entropy": 0.9 if not fall or i < 28 else 0.001,
                "diagnosis/action_diversity": 0.3 if not fall or i < 28 else 0.0,
            }
        )
    return rows


@pytest.mark.parametrize("what", ["warn", "stop", "break-symmetry"])
def test_a_failure_is_found_said_once_and_acted_upon(tmp_path, what):
    trainer = started(tmp_path)
    watch = Watching(on_failure=what)
    said = []
    for row in records(60, fall=True):
        metrics = {
            ("losses/" + k if k in ("entropy", "approx_kl", "value_loss") else k): v for k, v in row.items()
        }
        metrics["environment/episode_return"] = metrics.pop("episode_return")
        epoch = trainer._epoch_end(metrics, None)
        said.append(watch.after(epoch.__class__(**{**vars(epoch), "number": row["epoch"]})))
    lines = [json.loads(line) for line in trainer.run.findings_path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["policy_collapse"]
    assert 26 <= lines[0]["onset"] <= 36 and lines[0]["severity"] == "high"
    told = [s for s in said if s.stop]
    asked = [s for s in said if s.metrics.get("watch/break")]
    assert len(told) == (what == "stop") and len(asked) == (what == "break-symmetry")
    assert said[-1].metrics == {"watch/findings": 1.0, "watch/severity": 3.0}
    again = Watching(on_failure=what)
    again.load_state_dict(watch.state_dict())
    assert again.said == watch.said


def test_a_healthy_run_is_left_alone(tmp_path):
    trainer = started(tmp_path)
    watch = Watching(on_failure="stop")
    for row in records(60, fall=False):
        metrics = {"environment/episode_return": row.pop("episode_return"), **row}
        epoch = trainer._epoch_end(metrics, None)
        assert watch.after(epoch.__class__(**{**vars(epoch), "number": row["epoch"]})).stop is None
    assert not trainer.run.findings_path.exists()


def test_a_true_metric_that_nothing_reports_ends_the_run_saved_with_the_nearest_name(tmp_path):
    trainer = started(tmp_path)
    watch = Watching(on_failure="warn", true_metric="environment/scor")
    said = []
    for row in records(25, fall=False):
        metrics = {"environment/episode_return": row.pop("episode_return"), **row, "environment/score": 1.0}
        epoch = trainer._epoch_end(metrics, None)
        said.append(watch.after(epoch.__class__(**{**vars(epoch), "number": row["epoch"]})).stop)
    assert said[-1] and "try environment/score" in said[-1] and said[0] is None


def test_a_wish_to_break_is_heard_in_the_same_epoch(tmp_path):
    wish = Tells(*[Said()] * 2, Said({"watch/break": 1.0}))
    late = Breaking(threshold=0.9, every=99, after=99, maturity=0, max_kl=None, max_value_error=None)
    trainer = started(tmp_path, companions={"watch": wish, "break": late})
    trainer.fit()
    told = [r["epoch"] for r in trainer.run.metrics() if "breaking/recycled" in r]
    assert told == [3]


def test_a_collapsed_policy_gets_fresh_neurons_of_its_own_width(tmp_path):
    trainer = started(
        tmp_path,
        companions={
            "break": Breaking(threshold=2, every=1, after=1, maturity=0, max_kl=None, max_value_error=None)
        },
    )
    smaller = graph.collapse(trainer.policy, (torch.zeros(3, 4), None), threshold=0.9).policy
    vec = Laps()
    made = loop(
        tmp_path / "small",
        vec,
        smaller,
        companions={
            "break": Breaking(threshold=2, every=1, after=1, maturity=0, max_kl=None, max_value_error=None)
        },
        **SIX,
    )
    made.facts = facts(vec)
    made.fit()
    assert any(r["breaking/recycled"] > 0 for r in made.run.metrics())


def test_bad_settings_are_sentences():
    with pytest.raises(UserError, match="nobody says which neurons"):
        Breaking()
    with pytest.raises(UserError, match="on_failure is 'banana'"):
        Watching(on_failure="banana")
