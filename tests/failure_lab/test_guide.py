"""The guide's words on introspection, with the package's name in the place of `src`."""

import re

import numpy as np
import pytest

from pufferlib_kcore.environments.career import CareerEnv

GUIDE = """
from src.introspection import EntropyTracker, StateHeatmap, PhasePlotter

# Track exploration over time
entropy_tracker = EntropyTracker()
entropy_tracker.update(agent.get_policy_entropy(), episode)
entropy_tracker.plot(save_path="entropy.png")

# Visualize state visitation
heatmap = StateHeatmap()
for state in episode_states:
    heatmap.record(state[:2], action)
heatmap.plot(include_actions=True, action_names=["STAY", "SWITCH"])

# Plot trajectories in phase space
plotter = PhasePlotter()
plotter.add_trajectory(states, actions, rewards, episode)
plotter.plot_multiple(n_trajectories=20, selection="best")
"""


class Agent:
    def get_policy_entropy(self):
        return 0.5


def test_it_runs_as_it_stands(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    open_before = plt.get_fignums()
    env, states, rewards = CareerEnv(), [], []
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        states.append(observation)
        observation, reward, *_ = env.step(1)
        rewards.append(reward)
    names = dict(agent=Agent(), episode=0, states=states, episode_states=states, action=1, rewards=rewards)
    names["actions"] = [1] * 30
    exec(re.sub(r"\bsrc\.", "pufferlib_kcore.failure_lab.", GUIDE), names)
    assert (tmp_path / "entropy.png").read_bytes().startswith(b"\x89PNG")
    assert names["heatmap"].visits.sum() == 30 and len(names["plotter"].trajectories) == 1
    assert np.isclose(names["plotter"].trajectories[0].total, sum(rewards))
    assert plt.get_fignums() == open_before


# --- the other snippets -----------------------------------------------------------------------------

OTHERS = {
    "an experiment": """
from src.experiments import ExperimentRunner, ExperimentProtocol

protocol = ExperimentProtocol(
    name="my_first_experiment",
    agent_type="dqn",
    reward_type="short_term_v1",
    n_episodes=500,
)

runner = ExperimentRunner()
result = runner.run(protocol)

print(f"Final reward: {result.final_eval_reward:.2f}")
print(f"Failures detected: {len(result.detected_failures)}")
""",
    "parameters": """
from src.environments import CareerEnv
from src.environments.param_engine import EnvironmentParams

# Stress test with recession
params = EnvironmentParams.for_regime("recession")
env = CareerEnv(params)

# Or customize parameters
params = EnvironmentParams(
    burnout_rate=0.2,          # High burnout accumulation
    salary_volatility=0.3,     # Volatile market
    switching_risk=0.5,        # Risky job switches
)
""",
    "rewards": """
from src.rewards import get_reward, list_rewards

# List all available rewards
print(list_rewards())

# Get a specific reward function
reward_fn = get_reward("short_term_v1", lambda_burnout=1.5)
""",
    "detection": """
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
""",
    "baselines": """
from src.agents.heuristic_agents import (
    AlwaysStayAgent,
    BurnoutThresholdAgent,
    ConservativeAgent,
    AdaptiveAgent,
)

# Create a rule-based agent
heuristic = BurnoutThresholdAgent(
    state_dim=4, 
    action_dim=2, 
    burnout_threshold=0.6
)
""",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_its_other_words_run_too(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = OTHERS[name].replace("n_episodes=500", "n_episodes=8")
    text = text.replace("detector.update(metrics)", "for _ in range(100):\n    detector.update(metrics)")
    names = {
        "metrics": {"episode": 3, "reward": 1.0, "entropy": 0.5, "burnout": 0.9, "q_values": [1.0, 5000.0]}
    }
    exec(re.sub(r"\bsrc\.", "pufferlib_kcore.failure_lab.", text), names)
    said = capsys.readouterr().out
    if name == "an experiment":
        assert "Final reward: " in said and "Failures detected: " in said
        assert (tmp_path / "results" / "lab" / "my_first_experiment" / "report.md").is_file()
    if name == "parameters":
        assert names["env"].params.switching_risk == 0.5 and names["params"].burnout_rate == 0.2
    if name == "rewards":
        assert names["reward_fn"].lambda_burnout == 1.5 and "delayed_hindsight_v1" in said
    if name == "detection":
        assert "value_explosion" in said
    if name == "baselines":
        assert names["heuristic"].act([0.1, 0.61, 0, 0]) == 1
