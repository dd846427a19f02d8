"""Protocols and their runner: files, answers, going on, and mistakes."""

import json
from pathlib import Path

import pytest

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.failure_lab import (
    ExperimentComparator,
    ExperimentProtocol,
    ExperimentResult,
    ExperimentRunner,
)
from pufferlib_kcore.failure_lab.runner import found_in
from pufferlib_kcore.store.lab import LabFolder, lab_folders


def protocol(**more):
    said = dict(
        name="one",
        hypothesis="switching always earns more than chance",
        claim="true_return > 2 * true_uniform",
        agent_type="always_switch",
        reward_type="short_term_v1",
        reward_params={"lambda_burnout": 0.5},
        seeds=(0, 1),
        eval_episodes=10,
    )
    return ExperimentProtocol(**{**said, **more})


def test_a_rule_from_protocol_to_report(tmp_path):
    result = ExperimentRunner(tmp_path).run(protocol())
    folder = LabFolder(tmp_path / "one")
    assert result.answer.verdict == "held" and "2 seeds" in result.answer.why
    plain = json.loads(folder.result_path.read_text())
    assert plain["protocol"]["reward_params"] == {"lambda_burnout": 0.5}
    assert [one["seed"] for one in plain["seeds"]] == [0, 1]
    assert plain["references"]["optimum"] > plain["references"]["true_uniform"]
    text = folder.report_path.read_text()
    assert "**Held.**" in text and "switching always earns more than chance" in text
    assert {p.name for p in folder.pictures.iterdir()} >= {
        "heatmap.png",
        "phases.png",
        "policy.png",
        "regret.png",
    }
    assert "seed 1: return" in folder.log_path.read_text()
    assert ExperimentProtocol.load(folder.protocol_path) == protocol()
    assert ExperimentResult.load(folder.result_path).final_eval_reward == result.final_eval_reward
    assert [one.path for one in lab_folders(tmp_path)] == [folder.path]


def test_seeds_that_are_done_are_kept_and_others_added(tmp_path):
    ExperimentRunner(tmp_path, enable_introspection=False).run(protocol())
    path = tmp_path / "one" / "seed_0" / "seed.json"
    mark = {**json.loads(path.read_text()), "true_return": -7.0}
    path.write_text(json.dumps(mark))
    more = ExperimentRunner(tmp_path, enable_introspection=False).run(protocol(seeds=(0, 1, 2)))
    assert [one["true_return"] for one in more.plain["seeds"]][0] == -7.0
    assert len(more.plain["seeds"]) == 3


def test_another_protocol_of_that_name_is_refused(tmp_path):
    ExperimentRunner(tmp_path, enable_introspection=False).run(protocol())
    with pytest.raises(UserError, match="holds results with eval_episodes 10, and this has 11"):
        ExperimentRunner(tmp_path).run(protocol(eval_episodes=11))


def test_results_cut_short_are_told_and_nothing_is_lost(tmp_path):
    ExperimentRunner(tmp_path, enable_introspection=False).run(protocol())
    path = tmp_path / "one" / "seed_1" / "seed.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(UserError, match=r"seed_1/seed.json is cut short or damaged"):
        ExperimentRunner(tmp_path).run(protocol())
    result = tmp_path / "one" / "result.json"
    result.write_text("{}")
    with pytest.raises(UserError, match="is no experiment's result: it has no 'protocol'"):
        ExperimentResult.load(result)
    assert (tmp_path / "one" / "seed_0" / "seed.json").is_file()


def test_a_learner_with_its_curve_and_findings(tmp_path):
    asked = protocol(name="learner", agent_type="dqn", n_episodes=20, eval_interval=10, seeds=(0,),
                     expected_failure="value_explosion", claim="")  # fmt: skip
    result = ExperimentRunner(tmp_path).run(asked)
    seed = result.plain["seeds"][0]
    assert [place["steps"] for place in seed["curve"]] == [2000, 4000]
    assert result.answer.verdict in ("did not hold", "cannot be told", "held")
    assert (tmp_path / "learner" / "visualizations" / "curves.png").is_file()
    assert (tmp_path / "learner" / "visualizations" / "entropy.png").is_file()
    assert (tmp_path / "learner" / "seed_0" / "dqn.zip").is_file()


def test_expected_failures_are_judged_over_seeds():
    def seed(*kinds, unjudged=()):
        found = [{"kind": kind, "symptoms": ["no_learning"]} for kind in kinds]
        return {"findings": found, "unjudged": {name: "too few" for name in unjudged}}

    assert found_in("nan", [seed("nan"), seed("nan")]).verdict == "held"
    assert found_in("no_learning", [seed("nan")]).verdict == "held", "a symptom counts"
    assert found_in("nan", [seed("nan"), seed()]).verdict == "cannot be told"
    assert found_in("nan", [seed(), seed()]).verdict == "did not hold"
    blind = found_in("nan", [seed(unjudged=["nan"])])
    assert blind.verdict == "cannot be told" and "too few" in blind.why


def test_comparisons(tmp_path):
    comparator = ExperimentComparator()
    with pytest.raises(UserError, match="nothing to compare"):
        comparator.get_best_experiment()
    runner = ExperimentRunner(tmp_path, enable_introspection=False)
    for agent in ("always_stay", "always_switch"):
        runner.run(protocol(name=agent, agent_type=agent))
        comparator.add_result(tmp_path / agent / "result.json")
    assert comparator.get_best_experiment("true_return") == "always_switch"
    assert comparator.get_summary_table().index("| always_switch") < comparator.get_summary_table().index(
        "| always_stay"
    )
    with pytest.raises(UserError, match="no metric 'true_retrun': did you mean true_return"):
        comparator.get_best_experiment("true_retrun")
    comparator.plot_learning_curves(tmp_path / "curves.png")
    comparator.plot_failure_comparison(tmp_path / "failures.png")
    assert "**always_stay**: did not hold" in comparator.generate_comparison_report()


YAML = """
name: shift
hypothesis: sparse rewards are not found by chance
claim: true_return < 0.5 * optimum
agent_type: random
env_params: {preset: patience}
seed: 3
eval_episodes: 5
"""


def test_a_protocol_in_yaml(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(YAML)
    found = ExperimentProtocol.load(path)
    assert found.seeds == (3,) and found.world.params.burnout_rate == 0.01
    assert ExperimentProtocol.load(found.save(tmp_path / "again.yaml")) == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hypothesis: ''", "has no hypothesis: say what is expected"),
        ("agent_type: pppo", "unknown agent 'pppo': did you mean ppo"),
        ("reward_type: sparse_v2", "unknown reward 'sparse_v2': did you mean sparse_v1"),
        ("env_params: {regime: bom}", "unknown regime 'bom': did you mean boom"),
        ("env_params: {burnout_rate: 3}", "burnout_rate = 3: expected a number from 0.01 to 0.5"),
        ("env_params: {regme: boom}", "no setting 'regme': did you mean regime"),
        ("claim: true_return is low", "is no claim"),
        ("expected_failure: reward_hackin", "no detector finds 'reward_hackin': did you mean reward_hacking"),
        ("n_episode: 3", "a protocol has no 'n_episode': did you mean n_episodes"),
        ("env_type: carer", "unknown env 'carer': did you mean career"),
        ("seeds: []", "has no seeds"),
        ("name: a/b", "cannot name a folder"),
        ("n_episodes: 0", "n_episodes = 0: expected a number at least 1"),
    ],
)  # fmt: skip
def test_mistakes_in_a_protocol_are_told_by_file(tmp_path, line, said):
    path = tmp_path / "odd.yaml"
    key = line.split(":")[0]
    kept = [x for x in YAML.strip().splitlines() if not x.startswith((f"{key}:", "seed:"))]
    path.write_text("\n".join([*kept, line]) + "\n")
    with pytest.raises(UserError, match=said) as error:
        ExperimentProtocol.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        ExperimentProtocol.load(Path(tmp_path) / "none.yaml")
