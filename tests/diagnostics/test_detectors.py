"""Detectors on records made up so that what went wrong is known; and what is no failure."""

import itertools
import math

import numpy as np
import pytest

from pufferlib_kcore.diagnostics.detectors import DETECTORS
from pufferlib_kcore.diagnostics.findings import EXPLAINS, SEVERITIES, Finding, _explained, diagnose
from pufferlib_kcore.diagnostics.records import Records
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.errors import UserError

N = 100
T = np.arange(N)
BLIND = References(uniform=20.0, constant=10.0)


def records(**columns):
    """A healthy run: 20 to 200 in forty epochs, some noise; `columns` over it."""
    rng = np.random.default_rng(0)
    healthy = {
        "episode_return": 20 + 180 * np.minimum(T / 40, 1) + rng.normal(0, 4, N),
        "entropy": 0.69 - 0.3 * T / N,
        "approx_kl": 0.01 + 0.003 * rng.random(N),
        "clipfrac": 0.1 + 0.02 * rng.random(N),
        "value_loss": 1 + rng.random(N),
        "explained_variance": np.minimum(0.9, T / 30),
        "gradient_norm": 0.5 + 0.1 * rng.random(N),
        "diagnosis/relative_entropy": 1 - 0.4 * T / N,
        "diagnosis/action_diversity": 0.1 + 0.2 * T / N,
        "diagnosis/effective_rank": np.full(N, 20.0),
        "diagnosis/dead": np.zeros(N),
        "diagnosis/value_mean": 1 + T / 10,
        "diagnosis/value_std": np.ones(N),
        "eval_return": 20 + 180 * np.minimum(T / 40, 1),
        "true_return": 20 + 180 * np.minimum(T / 40, 1),
    }
    columns = {name.replace("_in_", "/"): x for name, x in columns.items()}
    given = {**healthy, **columns}
    return Records.of([{name: x[i] for name, x in given.items() if x is not None} for i in range(N)])


def after(start, before, then):
    """One column, and from an epoch on another."""
    return np.where(T < start, before, then)


def kinds(found):
    return [one.kind for one in found.findings]


FALLEN = 200 - 180 * np.clip((T - 50) / 5, 0, 1)
FAILURES = {
    "policy_collapse": dict(
        episode_return=np.where(T < 40, 20 + 4.5 * T, FALLEN),
        diagnosis_in_relative_entropy=after(48, 0.7, 0.001),
        diagnosis_in_action_diversity=after(48, 0.3, 0.0),
        entropy=after(48, 0.6, 0.001),
    ),
    "gradient_pathology": dict(
        approx_kl=after(50, 0.01, 0.8),
        clipfrac=after(50, 0.1, 0.9),
        episode_return=np.where(T < 40, 20 + 4.5 * T, FALLEN),
    ),
    "value_explosion": dict(
        value_loss=after(50, 1.0, 1e5), explained_variance=after(50, 0.8, -30.0),
        diagnosis_in_value_mean=after(50, 5.0, 1e4),
    ),
    "no_learning": dict(
        episode_return=20 + np.random.default_rng(1).normal(0, 3, N), approx_kl=np.full(N, 1e-9),
        eval_return=None, true_return=None,
    ),
    "nonstationarity": dict(
        episode_return=np.where(T < 50, 200.0, np.minimum(200, 30 + 8 * (T - 50))),
        explained_variance=after(50, 0.9, 0.2),
        value_loss=np.where((T >= 50) & (T < 60), 20.0, 1.0),
    ),
    "reward_hacking": dict(
        episode_return=20 + 3.0 * T, true_return=np.where(T < 40, 4.0 * T, np.maximum(0, 160 - 5 * (T - 40))),
        eval_return=None,
    ),
    "evaluation_gap": dict(eval_return=np.full(N, 25.0)),
    "representation_collapse": dict(
        diagnosis_in_effective_rank=after(50, 20.0, 1.2), diagnosis_in_dead=after(50, 0.0, 0.95),
        episode_return=np.where(T < 40, 20 + 4.5 * T, 200 - 160 * np.clip((T - 50) / 30, 0, 1)),
        eval_return=None, true_return=None,
    ),
    "nan": dict(value_loss=after(50, 1.0, math.nan)),
    "plasticity_loss": dict(
        episode_return=np.concatenate([
            np.minimum(20 + 40.0 * np.arange(10), 200 if i == 0 else 110) for i in range(10)
        ]),
        eval_return=None, true_return=None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("references", [None, BLIND], ids=["alone", "with references"])
def test_a_healthy_run_is_healthy(references):
    found = diagnose(records(), references)
    assert not found.findings and not found.unjudged


@pytest.mark.parametrize("kind", DETECTORS)
def test_each_failure_is_found_since_when_it_began(kind):
    found = diagnose(records(**FAILURES[kind]), BLIND)
    assert kinds(found) == [kind], str(found)
    (one,) = found.findings
    if kind in ("no_learning", "plasticity_loss"):
        return
    if kind == "reward_hacking":
        assert 40 <= one.onset <= 50
    elif kind == "evaluation_gap":
        assert one.onset < 30
    else:
        assert 47 <= one.onset <= 66 and one.onset <= one.said
    assert one.evidence and one.advice and 0.5 <= one.confidence <= 1 and one.severity in SEVERITIES


@pytest.mark.parametrize("kind", [k for k in DETECTORS if k not in ("policy_collapse", "no_learning")])
def test_the_same_without_references(kind):
    assert kind in kinds(diagnose(records(**FAILURES[kind])))


def test_an_unsteady_training_is_no_change_of_the_task():
    """The same fall and rise, and values that foresaw it."""
    unsteady = {**FAILURES["nonstationarity"], "value_loss": np.ones(N)}
    assert not diagnose(records(**unsteady), BLIND).findings


@pytest.mark.parametrize("late", range(4))
def test_a_task_that_changes_is_told_where_the_return_follows_late(late):
    """Values are surprised at once; the return of episodes that end falls some epochs afterwards."""
    t = T - 50
    fall = np.where(t < late, 200.0, np.minimum(200, 30 + 8 * (t - late)))
    loss = np.where((t >= 0) & (t < 8), 20.0, 1.0)
    loss[42] = 30.0  # a single epoch's, before
    seen = dict(episode_return=fall, explained_variance=after(50, 0.9, 0.2), value_loss=loss)
    assert kinds(diagnose(records(**seen), BLIND)) == ["nonstationarity"]


def test_a_representation_that_collapses_says_why_the_return_falls():
    lost = {
        **FAILURES["representation_collapse"],
        "episode_return": FAILURES["nonstationarity"]["episode_return"],
    }
    lost["episode_return"] = np.minimum(lost["episode_return"], np.where(T < 50, 200.0, 120.0))
    lost["value_loss"] = FAILURES["nonstationarity"]["value_loss"]
    (one,) = diagnose(records(**lost), BLIND).findings
    assert one.kind == "representation_collapse" and one.symptoms == ("nonstationarity",)


def test_a_few_epochs_that_end_in_nan_have_a_cause():
    """Fewer than are judged otherwise: an update that went astray is why the loss is no number."""
    rows = [{"episode_return": 20.0, "approx_kl": k, "value_loss": 1.0} for k in (0.01, 30.0, 1e9)]
    (one,) = diagnose(Records.of([*rows, {"value_loss": math.nan}])).findings
    assert one.kind == "gradient_pathology" and one.onset == 2 and one.symptoms == ("nan",)
    assert "gradient_pathology" in diagnose(Records.of(rows)).unjudged


def test_returns_that_do_not_vary_have_no_variance_to_explain_and_that_is_no_failure():
    """As Stable-Baselines3's A2C writes it now and then, over 5 steps an update."""
    spotty = np.where(T % 7 == 3, np.nan, np.minimum(0.9, T / 30))
    assert not diagnose(records(explained_variance=spotty), BLIND).findings
    assert kinds(
        diagnose(records(explained_variance=spotty, value_loss=after(50, 1.0, math.nan)), BLIND)
    ) == ["nan"]


def test_entropy_of_continuous_actions_tells_nothing_alone():
    rows = [{"episode_return": 20.0, "entropy": -1.0 - i} for i in range(50)]
    assert "continuous" in diagnose(Records.of(rows)).unjudged["policy_collapse"]


def test_a_task_that_is_learned_again_is_no_loss_of_plasticity():
    again = np.concatenate([np.minimum(20 + 40.0 * np.arange(10), 200) for _ in range(10)])
    surprised = np.where(np.arange(N) % 10 < 3, 20.0, 1.0)
    gone = dict(eval_return=None, true_return=None)
    found = diagnose(records(episode_return=again, value_loss=surprised, **gone), BLIND)
    assert kinds(found) == ["nonstationarity"]


def test_one_action_that_dominates_is_no_collapse_where_it_pays():
    """A policy that is sure, the same everywhere, and as good as ever: the best thing to do is one action."""
    sure = dict(
        diagnosis_in_relative_entropy=after(40, 0.7, 0.0),
        diagnosis_in_action_diversity=after(40, 0.3, 0.0),
        entropy=after(40, 0.6, 0.0),
    )
    assert not diagnose(records(**sure), BLIND).findings
    constant = References(uniform=20.0, constant=230.0)
    assert kinds(diagnose(records(**sure), constant)) == ["policy_collapse"], (
        "which pays more, were it another"
    )


def test_what_is_at_the_best_that_is_possible_has_not_failed():
    """One action, always, is optimal: who comes to it learned, though it is no better than a blind policy."""
    sure = dict(
        episode_return=np.minimum(20 + 9 * T, 200) + np.random.default_rng(1).normal(0, 2, N),
        diagnosis_in_relative_entropy=after(20, 0.7, 0.0),
        diagnosis_in_action_diversity=after(20, 0.3, 0.0),
        diagnosis_in_effective_rank=after(20, 20.0, 1.0),
        entropy=after(20, 0.6, 0.0),
    )
    known = References(uniform=20.0, constant=200.0, best=200.0)
    assert not diagnose(records(**sure), known).findings
    assert {"policy_collapse"} <= set(
        kinds(diagnose(records(**sure), References(uniform=20.0, constant=200.0)))
    )
    more = References(uniform=20.0, constant=200.0, best=300.0)
    assert "policy_collapse" in kinds(diagnose(records(**sure), more)), "a better policy is known"


def test_a_rank_alone_never_decides():
    low = dict(diagnosis_in_effective_rank=np.full(N, 1.0), diagnosis_in_dead=np.full(N, 0.99))
    assert not diagnose(records(**low), BLIND).findings


def test_no_learning_is_no_collapse_and_a_collapse_is_not_no_learning():
    assert kinds(diagnose(records(**FAILURES["no_learning"]), BLIND)) == ["no_learning"]
    flat = dict(FAILURES["no_learning"], diagnosis_in_relative_entropy=after(5, 0.7, 0.0),
                diagnosis_in_action_diversity=after(5, 0.1, 0.0))  # fmt: skip
    (one,) = diagnose(records(**flat), BLIND).findings
    assert one.kind == "policy_collapse" and one.symptoms == ("no_learning",)


def test_a_cause_suppresses_its_symptoms_and_names_them():
    both = {**FAILURES["policy_collapse"], **FAILURES["gradient_pathology"]}
    (one,) = diagnose(records(**both), BLIND).findings
    assert one.kind == "gradient_pathology" and "policy_collapse" in one.symptoms
    apart = diagnose(records(**both), BLIND, explain=False)
    assert {"gradient_pathology", "policy_collapse"} <= set(kinds(apart))


def test_a_symptom_is_no_cause_of_what_came_long_before_it():
    def at(kind, onset):
        return Finding(
            kind=kind, severity="high", onset=onset, said=onset, confidence=1.0, evidence={}, advice=""
        )

    late = [at("gradient_pathology", 80), at("policy_collapse", 20)]
    assert len(_explained(late, N)) == 2
    early = [at("gradient_pathology", 15), at("policy_collapse", 20)]
    assert [one.kind for one in _explained(early, N)] == ["gradient_pathology"]


def test_explanations_always_leave_a_root():
    """Whatever is found together, in whatever order, something is said, and all of it is named."""

    def at(kind):
        return Finding(kind=kind, severity="high", onset=5, said=5, confidence=1.0, evidence={}, advice="")

    for several in itertools.chain.from_iterable(itertools.combinations(DETECTORS, n) for n in (1, 2, 3)):
        kept = _explained([at(kind) for kind in several], N)
        named = {one.kind for one in kept} | {s for one in kept for s in one.symptoms}
        assert kept and named == set(several)
    assert EXPLAINS.keys() <= set(DETECTORS) and {s for ss in EXPLAINS.values() for s in ss} <= set(DETECTORS)


def test_what_cannot_be_judged_is_said_and_why():
    found = diagnose(Records.of([{"episode_return": float(i)} for i in range(30)]))
    assert not found.findings
    assert {"reward_hacking", "evaluation_gap", "value_explosion", "representation_collapse"} <= set(
        found.unjudged
    )
    assert "--diagnose" in found.unjudged["representation_collapse"] and "not judged" in str(found)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_records_say_little(rows):
    found = diagnose(Records.of([{"episode_return": 1.0, "entropy": 0.0, "value_loss": 1.0}] * rows))
    assert not found.findings and "too few" in found.unjudged["policy_collapse"]


def test_holes_change_no_verdict():
    rng = np.random.default_rng(3)
    for kind in ("policy_collapse", "reward_hacking", "value_explosion"):
        whole = records(**FAILURES[kind])
        rows = [
            {
                n: (None if n != "epoch" and rng.random() < 0.2 else float(c[i]))
                for n, c in whole.columns.items()
            }
            for i in range(N)
        ]
        assert kinds(diagnose(Records.of(rows), BLIND)) == [kind]


def test_only_those_that_are_asked_for_and_the_nearest_name():
    found = diagnose(records(**FAILURES["nan"]), only=["policy_collapse"])
    assert not found.findings
    with pytest.raises(UserError, match="did you mean policy_collapse"):
        diagnose(records(), only=["policy_colapse"])


def test_a_finding_reads_as_one_line_and_is_plain_data():
    (one,) = diagnose(records(**FAILURES["nan"]), BLIND).findings
    assert str(one).startswith("nan (critical, since epoch 51") and "Try: go back" in str(one)
    assert one.to_plain()["kind"] == "nan" and isinstance(one.to_plain()["symptoms"], list)
