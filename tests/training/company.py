"""Toy companions, and all that a run of six epochs ends with, to hold runs to each other."""

import numpy as np
import torch
from worlds import weights

from pufferlib_kcore.store import StateFile
from pufferlib_kcore.training.companions import Companion, Said

CLOCKS = ("SPS", "uptime", "wall_time")
SIX = {"total_timesteps": 64 * 6, "checkpoint_interval": 3}


class Jolts(Companion):
    """Moves weights and moments at random, with the loop's generator and one of its own; keeps a walk."""

    def __init__(self, size=0.01):
        self.size, self.random, self.walk, self.starts = size, np.random.default_rng(5), torch.zeros(3), 0

    def start(self, epoch):
        self.starts += 1

    def after(self, epoch):
        self.walk += torch.randn(3, generator=epoch.generator)
        shift = self.size * (
            float(self.walk.sum()) + self.random.normal() + float(epoch.rollout.rewards.sum())
        )
        with torch.no_grad():
            for p in epoch.policy.parameters():
                p += shift * torch.randn(p.shape, generator=epoch.generator)
                epoch.optimizer.state[p]["exp_avg"].mul_(0.5)
        return self.told(shift)

    def told(self, shift):
        return Said({"jolts/shift": shift}, changed=True)

    def state_dict(self):
        state = self.random.bit_generator.state["state"]
        return {"walk": self.walk, "random": {name: str(value) for name, value in state.items()}}

    def load_state_dict(self, state):
        self.walk = state["walk"]
        whole = self.random.bit_generator.state
        whole["state"] = {name: int(value) for name, value in state["random"].items()}
        self.random.bit_generator.state = whole


class Tells(Companion):
    """Says the same after each epoch."""

    def __init__(self, *said):
        self.said, self.heard = list(said), []

    def after(self, epoch):
        self.heard.append(dict(epoch.metrics))
        return self.said.pop(0) if self.said else Said()


def end(trainer):
    """All that a run ends with: weights, moments, companions' states, random numbers, and records."""
    state = StateFile.load(trainer.run.state_path(6))
    moments = [m for _, ms in sorted(state.optimizer["state"].items()) for m in ms.values()]
    records = [{k: v for k, v in r.items() if k not in CLOCKS} for r in trainer.run.metrics()]
    return weights(trainer.policy), moments, state.companions, state.rng, records


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
