"""A toy that learns off policy: Q-learning from a replay buffer, towards a slow copy, with two optimizers."""

import copy

import torch
from torch import nn

from pufferlib_kcore.training.algorithm import Collected
from pufferlib_kcore.training.rollout import Episodes, Interrupted


class Replay:
    """vec: observations of 4 numbers, 3 actions; capacity: steps that are kept; mix: into the slow copy."""

    name = "replay"

    def __init__(self, policy, vec, train, tools, *, capacity=100, mix=0.1):
        self.vec, self.train, self.tools, self.mix = vec, train, tools, mix
        self.critic = nn.Linear(4, 3)
        self.modules = {"policy": policy, "critic": self.critic, "target": copy.deepcopy(self.critic)}
        self.optimizers = {
            "policy": torch.optim.SGD(policy.parameters(), lr=train.learning_rate),
            "critic": torch.optim.Adam(self.critic.parameters(), lr=train.learning_rate),
        }
        self.buffer = torch.zeros(capacity, 6)  # observation, action, reward
        self.count = 0
        self.renewed = 0

    def collect(self, stop=lambda: False):
        """A quarter of the buffer or so, each action at random."""
        episodes, steps = Episodes(), self.train.batch_size // self.vec.num_envs
        for _ in range(steps):
            for group, ids in enumerate(self.vec.groups):
                if stop():
                    raise Interrupted
                got = self.vec.recv(group)
                episodes.add(got.infos)
                actions = torch.randint(3, (len(ids),), generator=self.tools.generator)
                for obs, action, reward in zip(torch.tensor(got.obs), actions, got.rewards, strict=True):
                    row = torch.cat([obs, torch.tensor([float(action), float(reward)])])
                    self.buffer[self.count % len(self.buffer)] = row
                    self.count += 1
                self.vec.send(group, actions.numpy())
        return Collected(self.buffer, episodes, steps * self.vec.num_envs)

    def update(self, rollout, left=1.0):
        known = min(self.count, len(rollout))
        rows = rollout[torch.randint(known, (16,), generator=self.tools.generator)]
        obs, actions, rewards = rows[:, :4], rows[:, 4].long(), rows[:, 5]
        with torch.no_grad():
            aim = rewards + 0.9 * self.modules["target"](obs).max(1).values
        loss = (self.critic(obs).gather(1, actions[:, None])[:, 0] - aim).square().mean()
        logits, _ = self.modules["policy"](obs)
        gain = (torch.softmax(logits, 1) * self.critic(obs).detach()).sum(1).mean()
        for name, value in (("critic", loss), ("policy", -gain)):
            self.optimizers[name].zero_grad()
            value.backward()
            self.optimizers[name].step()
        with torch.no_grad():
            for slow, fast in zip(self.modules["target"].parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(fast, self.mix)
        return {"losses/critic": loss.item(), "replay/held": known}

    def changed(self):
        self.renewed += 1

    def state_dict(self):
        return {"buffer": self.buffer, "count": self.count}

    def load_state_dict(self, state):
        self.buffer, self.count = state["buffer"].clone(), state["count"]
