"""Recorder: Stable-Baselines3's training as records of metrics, by the names that detectors read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pufferlib_kcore.failure_lab.agents import ModelAgent, entropy
from pufferlib_kcore.store import metrics

EVERY = 1000  # steps from record to record
PROBE = 256  # newest states that are looked at
LOSSES = {"train/value_loss": "value_loss", "train/loss": "value_loss", "train/policy_loss": "policy_loss"}
ENDS = {"episode_return": "episode_return", "true_return": "environment/true_return"}


def recorder(path: Path, folder: Path, every: int, scale: float = 1.0) -> Any:
    """A callback that appends a record to `path` every EVERY steps, and saves a model every `every`.

    scale: of the rewards that are learned from; values beside returns are told without it
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Recorder(BaseCallback):
        def _on_training_start(self) -> None:
            self.ended: list[dict] = []
            self.taken: list[int] = []
            self.states: list[np.ndarray] = []

        def _on_step(self) -> bool:
            self.taken += [int(a) for a in np.ravel(self.locals["actions"])]
            self.ended += [i for i in self.locals["infos"] if "episode_return" in i]
            self.states.append(np.asarray(self.locals["new_obs"])[0])
            envs = self.training_env.num_envs
            if self.num_timesteps % EVERY < envs:
                metrics.append(path, self.row())
                self.ended, self.taken, self.states = [], [], self.states[-PROBE:]
            if self.num_timesteps % every < envs:
                self.model.save(folder / f"model_{self.num_timesteps}.zip")
            return True

        def row(self) -> dict[str, Any]:
            losses = self.logger.name_to_value
            agent = ModelAgent(self.model, exploration=None)
            seen = np.stack(self.states[-PROBE:])
            row: dict[str, Any] = {
                "epoch": self.num_timesteps // EVERY,
                "agent_steps": self.num_timesteps,
                "entropy": float(entropy(agent.distribution(seen)).mean()),
                "dominance": float(np.bincount(self.taken).max() / len(self.taken)),
                **{name: float(losses[key]) for key, name in LOSSES.items() if key in losses},
            }
            for key, name in ENDS.items():
                if found := [one[key] for one in self.ended if key in one]:
                    row[name] = float(np.mean(found))
            if (q := agent.q_values(seen)) is not None:
                row |= {"max_q": float(np.abs(q).max()), "mean_q": float(q.mean())}
                # What its schedule explores is no entropy of its policy: that is sure everywhere.
                shares = np.bincount(q.argmax(1), minlength=q.shape[1]) / len(q)
                apart = float(np.log(2) * (1 - (shares**2).sum()))  # mean pairwise JS of greedy actions
                row |= {"diagnosis/relative_entropy": 0.0, "diagnosis/action_diversity": apart}
                best = q.max(1) / scale
                row |= {"diagnosis/value_mean": float(best.mean()), "diagnosis/value_std": float(best.std())}
            return row

    return Recorder()
