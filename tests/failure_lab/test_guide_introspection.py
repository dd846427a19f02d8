"""The guide's words on introspection, with the package's name in the place of `src`."""

import re

import numpy as np

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
