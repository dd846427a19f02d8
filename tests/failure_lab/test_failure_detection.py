"""Each rule at its number and beside it; what is no failure; the project's detectors on the same updates."""

import json
import math
import re
from datetime import timedelta

import numpy as np
import pytest
import torch

from pufferlib_kcore.diagnostics.detectors import DETECTORS
from pufferlib_kcore.diagnostics.references import References
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab.failure_detection import (
    CombinedFailureDetector,
    FailureDetector,
    Limits,
    NonstationarityDetector,
    PolicyCollapseDetector,
    RewardHackingDetector,
    ValueExplosionDetector,
)

ALL = (RewardHackingDetector, PolicyCollapseDetector, NonstationarityDetector, ValueExplosionDetector)


def told(detector, **columns):
    """Its reports after updates whose columns these are; a number stands for all of them."""
    length = max(len(column) for column in columns.values() if np.ndim(column))
    for i in range(length):
        detector.update({name: x[i] if np.ndim(x) else x for name, x in columns.items()})
    return detector.detect()


def severities(reports):
    return [one.severity for one in reports]


def mixed(share, length=100):
    """So large a share of ones, the rest zeros, spread evenly."""
    return np.diff(np.floor(np.arange(length + 1) * share + 1e-9))


def test_hacking_is_more_than_0_3_of_updates_that_are_high_in_both():
    for share, expected in ((0.30, []), (0.31, ["high"])):
        both = mixed(share)
        found = told(RewardHackingDetector(), reward=0.2 + 0.4 * both, burnout=0.55 + 0.1 * both)
        assert severities(found) == expected
    assert np.isclose(found[0].signal_values["share"], 0.31)
    calm = told(RewardHackingDetector(), reward=np.full(100, 0.9), burnout=0.6)
    assert calm == [] == told(RewardHackingDetector(), reward=np.full(100, 0.5), burnout=0.9)


def test_hacking_counts_the_window_alone():
    """A count that never falls would go on for ever, and be divided by the window."""
    detector = RewardHackingDetector()
    assert severities(told(detector, reward=np.full(500, 0.9), burnout=0.9)) == ["high"]
    assert told(detector, reward=np.full(100, 0.9), burnout=0.1) == []


def test_hacking_needs_fifty_updates():
    assert told(RewardHackingDetector(), reward=np.full(49, 0.9), burnout=0.9) == []
    assert severities(told(RewardHackingDetector(), reward=np.full(50, 0.9), burnout=0.9)) == ["high"]


def test_a_reward_against_its_outcome_is_critical():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 100))
    for correlation, expected in ((-0.6, ["critical"]), (0.0, []), (0.6, [])):
        true = correlation * x + (1 - correlation**2) ** 0.5 * y
        assert severities(told(RewardHackingDetector(), reward=x, true_return=true)) == expected
    found = told(RewardHackingDetector(), reward=x, true_return=-x)
    assert np.isclose(found[0].signal_values["correlation"], -1)
    good = mixed(0.5)
    columns = {"reward": 0.9 - 0.3 * good, "burnout": 0.7 - 0.5 * good}
    assert severities(told(RewardHackingDetector(), **columns)) == ["critical", "high"]
    assert severities(told(RewardHackingDetector(), **columns, true_return=1 - good)) == ["high"]
    assert severities(told(RewardHackingDetector(), reward=0.4 - 0.3 * good, burnout=0.55 - 0.5 * good)) == [
        "critical"
    ]


def test_entropy_at_its_threshold():
    for entropy, expected in ((0.09, ["high"]), (0.11, [])):
        assert severities(told(PolicyCollapseDetector(), entropy=np.full(30, entropy))) == expected
    assert severities(told(PolicyCollapseDetector(entropy_threshold=0.5), entropy=np.full(30, 0.4))) == [
        "high"
    ]
    assert told(PolicyCollapseDetector(), entropy=np.full(9, 0.0)) == []
    assert told(PolicyCollapseDetector(), entropy=np.r_[np.zeros(80), np.full(20, 0.3)]) == []
    assert severities(told(PolicyCollapseDetector(), entropy=np.r_[np.ones(80), np.zeros(20)])) == ["high"]


def test_an_agent_without_an_entropy_has_not_collapsed():
    assert told(PolicyCollapseDetector(), entropy=[None] * 200) == []


def test_entropy_of_an_action_distribution_is_its_own():
    found = told(PolicyCollapseDetector(), action_distribution=[np.array([0.99, 0.01])] * 20)
    expected = -(0.99 * math.log(0.99) + 0.01 * math.log(0.01))
    assert np.isclose(found[0].signal_values["entropy"], expected)


def test_dominance_without_a_reference_is_low_and_says_so():
    for others, expected in ((5, []), (4, ["low"]), (0, ["low"])):
        actions = np.r_[np.ones(100 - others, int), np.zeros(others, int)]
        found = told(PolicyCollapseDetector(), action=actions)
        assert severities(found) == expected
    assert "no reference return is given" in found[0].description and "reference=" in found[0].recommended_fix
    assert told(PolicyCollapseDetector(), action=np.ones(99, int)) == []


@pytest.mark.parametrize("per_step", [False, True])
def test_dominance_counts_below_a_reference_alone(per_step):
    """Always switching is the best of all in most careers: no collapse, however dominant."""
    steps = 10 if per_step else 1
    episode, reward = np.repeat(np.arange(100), steps), np.full(100 * steps, 100.0 / steps)
    for reference, others, expected in (
        (100.0, 0, []),
        (111.0, 0, []),
        (112.0, 0, ["high"]),
        (112.0, 3, ["medium"]),
    ):
        actions = np.zeros(100 * steps, int)
        actions[len(actions) - others :] = 1
        detector = PolicyCollapseDetector(reference=reference)
        assert severities(told(detector, action=actions, reward=reward, episode=episode)) == expected
    detector = PolicyCollapseDetector(reference=112.0)
    found = told(detector, action=np.zeros(100, int), episode_return=100.0)
    assert severities(found) == ["high"]
    assert found[0].signal_values["episode_return"] == 100 and found[0].signal_values["reference"] == 112


def test_a_reference_without_returns_decides_nothing():
    found = told(PolicyCollapseDetector(reference=5.0), action=np.zeros(100, int))
    assert severities(found) == ["low"] and "no episode return is told" in found[0].description


def test_what_is_sure_and_as_good_as_the_reference_has_not_collapsed():
    columns = {"entropy": np.zeros(30), "episode_return": 95.0}
    assert told(PolicyCollapseDetector(reference=100.0), **columns) == []
    assert severities(told(PolicyCollapseDetector(reference=200.0), **columns)) == ["high"]
    below = {"entropy": np.zeros(30), "episode_return": -105.0}
    assert told(PolicyCollapseDetector(reference=-100.0), **below) == []


def test_variance_and_turns():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(100)
    assert told(NonstationarityDetector(), reward=1.0 * z) == []
    assert severities(told(NonstationarityDetector(), reward=2.0 * z)) == ["low"]  # noise has no trend
    assert severities(told(NonstationarityDetector(), reward=np.linspace(0, 10, 100))) == ["low"]
    waves = 4 * np.sin(np.arange(100) / 100 * 2 * np.pi * 2) + 0.1 * z
    found = told(NonstationarityDetector(), reward=waves)
    assert severities(found) == ["medium"] and found[0].signal_values["turns"] >= 3
    assert told(NonstationarityDetector(), reward=2 * z[:49]) == []


def test_noise_alone_hardly_ever_turns():
    rng = np.random.default_rng(1)
    medium = [
        severities(told(NonstationarityDetector(), reward=2 * rng.standard_normal(100))) == ["medium"]
        for _ in range(100)
    ]
    assert sum(medium) <= 2


def test_q_values_are_read_and_compared_with_their_threshold():
    for q, expected in ((999.0, []), (1001.0, ["high"]), (-1001.0, ["high"])):
        values = [np.array([1.0, q])] * 20
        assert severities(told(ValueExplosionDetector(), q_values=values)) == expected
        assert severities(told(ValueExplosionDetector(), max_q=np.full(20, q))) == expected
    assert told(ValueExplosionDetector(), max_q=np.full(19, 2000.0)) == []
    assert severities(told(ValueExplosionDetector(q_value_threshold=50), max_q=np.full(20, 51.0))) == ["high"]
    assert severities(told(ValueExplosionDetector(50), mean_q=np.full(20, 51.0))) == ["high"]


def test_large_values_of_large_rewards_explode_not():
    """Rewards times 1000: |Q| of 1065 where true values are about 76,000."""
    q = np.linspace(10, 1065, 100)
    without, with_scale = ValueExplosionDetector(), ValueExplosionDetector(value_scale=76_000)
    assert severities(told(without, max_q=q)) == ["high"] and told(with_scale, max_q=q, loss=5e5) == []
    assert "true scale of values is not given" in without.detect()[0].description
    for q, expected in ((9.9, []), (10.1, ["high"])):
        found = told(ValueExplosionDetector(value_scale=1.0), max_q=np.full(20, q))
        assert severities(found) == expected


def test_growth_is_of_more_than_twice():
    for late, expected in ((2.9, []), (3.1, ["medium"])):
        q = np.r_[np.ones(50), np.full(50, late)]
        assert severities(told(ValueExplosionDetector(), max_q=q)) == expected
        assert told(ValueExplosionDetector(value_scale=10), max_q=q) == []
        assert severities(told(ValueExplosionDetector(value_scale=1), max_q=q)) == expected


def test_losses():
    assert told(ValueExplosionDetector(), loss=np.full(10, 999.0)) == []
    assert severities(told(ValueExplosionDetector(), loss=np.full(10, 1001.0))) == ["high"]
    assert told(ValueExplosionDetector(), loss=np.full(9, 1001.0)) == []
    assert told(ValueExplosionDetector(value_scale=100), loss=np.full(10, 9999.0)) == []
    assert severities(told(ValueExplosionDetector(value_scale=100), loss=np.full(10, 10_001.0))) == ["high"]


@pytest.mark.parametrize("name", ["loss", "max_q", "entropy", "reward", "gradient_norm", "q_values"])
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_is_critical_and_stays_so(name, odd):
    detector = ValueExplosionDetector()
    detector.update({name: 1.0, "step": 6})
    assert detector.detect() == []
    detector.update({name: [1.0, odd] if name == "q_values" else odd, "step": 7})
    detector.update({name: odd, "step": 8})
    (found,) = detector.detect()
    assert found.severity == "critical" and found.signal_values == {"step": 7} and found.step == 8
    assert found.description.startswith(f"{name} is NaN or infinite since step 7")
    detector.reset()
    assert detector.detect() == []


def test_no_episode_has_ended_yet_is_no_nan():
    found = told(CombinedOf(ValueExplosionDetector), episode_return=[math.nan] * 30, true_return=math.nan)
    assert found == []


def CombinedOf(*kinds):
    combined = CombinedFailureDetector([kind() for kind in kinds])
    combined.detect = combined.detect_all
    return combined


def healthy(length=200, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(length):
        yield {
            "reward": 0.3 + 0.3 * rng.standard_normal(),
            "burnout": float(rng.uniform(0, 0.5)),
            "entropy": 0.6,
            "action": int(rng.integers(2)),
            "q_values": rng.standard_normal(2),
            "loss": float(rng.random()),
            "step": i,
            "episode": i // 10,
            "weather": "fine",
        }


def test_a_healthy_training_has_no_failure_and_unknown_names_are_ignored():
    combined = CombinedOf(*ALL)
    for metrics in healthy():
        combined.update(metrics)
    assert combined.detect_all() == []


def test_reports_say_when_and_what(capsys):
    combined = CombinedOf(*ALL)
    for metrics in healthy():
        combined.update({**metrics, "entropy": 0.0, "loss": math.nan, "action": np.array([1])})
    found = combined.detect_all()
    assert [(one.failure_type, one.severity) for one in found] == [
        ("value_explosion", "critical"),
        ("policy_collapse", "high"),
        ("policy_collapse", "low"),
    ]
    for one in found:
        assert (one.step, one.episode) == (199, 19) and one.timestamp.utcoffset() == timedelta(0)
        assert one.failure_type in DETECTORS and one.recommended_fix and one.signal_values
        plain = json.loads(json.dumps(one.to_plain(), allow_nan=False))
        assert plain["failure_type"] == one.failure_type and plain["timestamp"].endswith("+00:00")
    assert str(found[1]).startswith("[high] policy_collapse: the entropy is 0, below 0.1; no reference")


def test_steps_and_episodes_count_on_where_they_are_not_told():
    detector = PolicyCollapseDetector()
    for _ in range(20):
        detector.update({"entropy": 0.0})
    (found,) = detector.detect()
    assert (found.step, found.episode) == (20, 0)


def test_reset_forgets_everything():
    combined = CombinedOf(*ALL)
    for metrics in healthy():
        combined.update({**metrics, "entropy": 0.0})
    assert combined.detect_all()
    combined.reset()
    assert combined.detect_all() == []
    with pytest.raises(UserError, match="no updates to diagnose"):
        combined.diagnose()


def test_all_numbers_can_be_others_at_once():
    limits = Limits(window=10, actions=10, dominant=0.5)
    assert severities(told(PolicyCollapseDetector(limits=limits), action=[1] * 6 + [0] * 4)) == ["low"]


def test_a_detector_of_ones_own():
    class Bored(FailureDetector):
        failure_type = "no_learning"

        def keep(self, update):
            self.same = update.numbers.get("reward") == 0

        def rules(self):
            from pufferlib_kcore.failure_lab.failure_detection.detector import Said

            if self.same:
                yield Said("medium", {}, "nothing is paid", "pay something")

    combined = CombinedFailureDetector([Bored()])
    combined.update({"reward": 0})
    assert [str(one) for one in combined.detect_all()] == ["[medium] no_learning: nothing is paid"]


GUIDE = """
from src.failure_detection import (
    CombinedFailureDetector,
    RewardHackingDetector,
    PolicyCollapseDetector,
    ValueExplosionDetector,
)

detector = CombinedFailureDetector([
    RewardHackingDetector(),
    PolicyCollapseDetector(entropy_threshold=0.1),
    ValueExplosionDetector(q_value_threshold=1000),
])

# During training
detector.update(metrics)
failures = detector.detect_all()

for failure in failures:
    print(f"[{failure.severity}] {failure.failure_type}: {failure.description}")
"""


def test_the_guides_words(capsys):
    code = re.sub(r"\bsrc\.", "pufferlib_kcore.failure_lab.", GUIDE)
    exec(code, {"metrics": {"reward": 0.1, "loss": math.nan, "step": 3}})
    assert capsys.readouterr().out == "[critical] value_explosion: loss is NaN or infinite since step 3\n"


def episodes(returns, steps=5, **columns):
    """Updates of one step each; columns: an episode's number for each of its steps."""
    combined = CombinedOf(*ALL)
    for episode, total in enumerate(returns):
        for step in range(steps):
            own = {name: x[episode] for name, x in columns.items()}
            combined.update(
                {"reward": total / steps, "episode": episode, "step": episode * steps + step, **own}
            )
    return combined


def test_records_are_episodes_with_sums_and_means():
    combined = CombinedOf(*ALL)
    for episode, (reward, burnout, q, action) in enumerate([(1.0, 0.2, 3.0, 0), (2.0, 0.4, 5.0, 1)]):
        for step in range(2):
            combined.update(
                {
                    "reward": reward,
                    "burnout": burnout + 0.1 * step,
                    "q_values": np.array([0.0, q + 2 * step, 1.0]),
                    "loss": q,
                    "entropy": 0.5 * math.log(3),
                    "action": action * step,
                    "approx_kl": 0.01,
                    "episode": episode,
                    "step": 2 * episode + step,
                }
            )
    records = combined.records()
    assert len(records) == 2
    for name, expected in {
        "episode_return": [2, 4],
        "true_return": [-0.25, -0.45],
        "value_loss": [3, 5],
        "diagnosis/value_mean": [4, 6],
        "diagnosis/value_std": [1, 1],
        "diagnosis/dominance": [1, 0.5],
        "diagnosis/relative_entropy": [0.5, 0.5],
        "approx_kl": [0.01, 0.01],
        "agent_steps": [1, 3],
    }.items():
        np.testing.assert_allclose(records[name], expected, err_msg=name)


def test_a_dict_that_is_used_again_is_read_at_once():
    combined, metrics = CombinedOf(*ALL), {}
    for episode in range(10):
        metrics.update(episode=episode, reward=float(episode), approx_kl=episode / 100)
        combined.update(metrics)
    np.testing.assert_allclose(combined.records()["episode_return"], np.arange(10))
    np.testing.assert_allclose(combined.records()["approx_kl"], np.arange(10) / 100)


def test_the_measured_detectors_answer_too():
    """A return that falls to what is blind as entropy goes: collapse; the same entropy at the best: none."""
    n = 60
    fallen = np.where(np.arange(n) < 30, np.minimum(20 + 8 * np.arange(n), 200.0), 20.0)
    entropy = np.where(np.arange(n) < 30, 0.6, 0.001)
    references = References(uniform=20.0, constant=10.0)
    found = episodes(fallen, entropy=entropy).diagnose(references)
    assert "policy_collapse" in [one.kind for one in found.findings]
    stays = np.minimum(20 + 8 * np.arange(n), 200.0)
    good = episodes(stays, entropy=entropy)
    assert good.diagnose(references).findings == ()
    assert [one.severity for one in good.detect_all() if one.failure_type == "policy_collapse"] == ["high"]


def test_the_measured_detectors_see_burnout_as_what_is_harmed_and_nan():
    n = 60
    rising, burnout = np.linspace(10, 50, n), np.r_[np.full(20, 0.1), np.linspace(0.1, 0.9, 40)]
    found = episodes(rising, burnout=burnout).diagnose(References(uniform=0.0, constant=0.0))
    assert [one.kind for one in found.findings] == ["reward_hacking"]
    broken = episodes(rising, loss=np.where(np.arange(n) < 50, 0.1, math.nan)).diagnose()
    assert [one.kind for one in broken.findings] == ["nan"] and broken.findings[0].onset == 51


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda: RewardHackingDetector().update({"reward": "much"}), "'reward' is 'much': expected a number"),
        (lambda: RewardHackingDetector().update({"q_values": "many"}), "'q_values' is 'many'"),
        (lambda: RewardHackingDetector().update({"action": "STAY"}), "'action' is 'STAY'"),
        (lambda: RewardHackingDetector().update({"loss": torch.zeros(2)}), "'loss' is tensor"),
        (lambda: RewardHackingDetector().update({"loss": np.zeros(2)}), "'loss' is array"),
        (lambda: RewardHackingDetector().update([1.0]), "metrics are a list"),
        (lambda: ValueExplosionDetector(value_scale=0), "value_scale=0"),
        (lambda: CombinedFailureDetector([RewardHackingDetector]), "RewardHackingDetector is no detector"),
        (lambda: CombinedFailureDetector(["collapse"]), "str is no detector"),
    ],
)
def test_mistakes_are_told_in_one_sentence(mistake, said):
    with pytest.raises(UserError, match=said):
        mistake()
