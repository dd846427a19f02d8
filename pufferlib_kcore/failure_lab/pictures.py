"""Pictures of an experiment: curves, entropy, where the agent goes and what it does there, what else paid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pufferlib_kcore.failure_lab.evaluation import Evaluation
from pufferlib_kcore.failure_lab.introspection import (
    CounterfactualAnalyzer,
    EntropyTracker,
    PhasePlotter,
    StateHeatmap,
)
from pufferlib_kcore.failure_lab.learning import Learned
from pufferlib_kcore.failure_lab.worlds import World

DECISIONS = 60  # of a career that are looked at again
EPISODES = 20  # whose ways are drawn


def draw(folder: Path, world: World, plain: Mapping[str, Any], learned: Learned, played: Evaluation) -> None:
    """Of one seed; what its world has not is left out."""
    env = world.creator.gymnasium()
    names = getattr(env.unwrapped, "action_names", None)
    if any(seed["curve"] for seed in plain["seeds"]):
        curves(plain).savefig(folder / "curves.png", dpi=110)
    if any(row.get("entropy") is not None for row in learned.records):
        tracker = EntropyTracker(n_actions=learned.agent.action_dim)
        for row in learned.records:
            if row.get("entropy") is not None:
                tracker.update(row["entropy"], row["agent_steps"])
        tracker.plot(folder / "entropy.png")
    shape = env.observation_space.shape
    if shape is None or len(shape) != 1 or shape[0] < 2:
        env.close()
        return
    heat, phases = StateHeatmap.of(env), PhasePlotter(names=getattr(env.unwrapped, "feature_names", None))
    ways = [played.trajectory(e) for e in range(min(EPISODES, len(played.returns)))]
    for number, (states, actions, rewards) in enumerate(ways):
        for state, action in zip(states, actions, strict=True):
            heat.record(state, action)
        phases.add_trajectory(states, actions, rewards, number)
    heat.plot(True, names, folder / "heatmap.png")
    phases.plot_multiple(EPISODES, "all", save_path=folder / "phases.png")
    middle = np.median(np.concatenate([states for states, _, _ in ways]), 0)
    if not learned.agent.draws:
        learned.agent.begin()
        heat.plot_policy(learned.agent, middle, names, folder / "policy.png")
    if getattr(learned.agent, "memory", None) is None:  # rollouts of one that remembers would not be its own
        analyzer = CounterfactualAnalyzer(env, horizon=10, rollouts=5)
        analyzer.trajectory(learned.agent, steps=DECISIONS).plot(folder / "regret.png")
    env.close()


def curves(plain: Mapping[str, Any]) -> Figure:
    """Returns that are meant at each checkpoint, a line a seed, between chance and the optimum."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis, r = figure.add_subplot(), plain["references"]
    for seed in plain["seeds"]:
        steps = [place["steps"] for place in seed["curve"]]
        axis.plot(
            steps,
            [place["true_return"] for place in seed["curve"]],
            marker="o",
            ms=3,
            label=f"seed {seed['seed']}",
        )
    axis.axhline(r["true_uniform"], color="#777777", ls=":", label="chance")
    axis.axhline(max(r["true_constants"]), color="#777777", ls="-.", label="best constant action")
    if r["optimum"] is not None:
        axis.axhline(r["optimum"], color="#777777", ls="--", label="optimum")
    axis.set_xlabel("steps of training")
    axis.set_ylabel("return that is meant")
    axis.legend(fontsize=8)
    return figure
