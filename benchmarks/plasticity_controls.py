"""What is lost on a stream, the function or the network? Companions that act where a task ends.

Heads: a new task comes with new heads on the old trunk. Distilled: with a fresh network that was taught what
the old one answers; if it learns the new task no better, then the old answers are in the way, whatever
weights compute them, and nothing that keeps a policy's function can help.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.training.companions import Companion, Epoch, Said
from pufferlib_kcore.training.probing import probe_of


class AtChanges(Companion):
    """Acts every so many epochs, but for the last of a run; the moments of what it sets begin at 0."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def after(self, epoch: Epoch) -> Said:
        if epoch.number % self.epochs or epoch.part >= 1:
            return Said()
        new = epoch.untrained(int(torch.randint(2**31, (), generator=epoch.generator)))
        metrics = self.prepare(epoch, new)
        fresh = dict(new.named_parameters())
        with torch.no_grad():
            for name, p in epoch.policy.named_parameters():
                if self.takes(name):
                    p.copy_(fresh[name])
                    for moment in epoch.optimizer.state.get(p, {}).values():
                        moment.zero_()
        return Said(metrics, changed=True)

    def takes(self, name: str) -> bool:
        """Whether that parameter becomes the new network's."""
        return True

    def prepare(self, epoch: Epoch, new: nn.Module) -> dict[str, float]:
        return {}


class Heads(AtChanges):
    """New heads, for action and value, on the old trunk."""

    def takes(self, name: str) -> bool:
        return not name.startswith("encoder")


class Distilled(AtChanges):
    """A fresh network that answers as the old one does on the last rollout's states: 1500 steps of Adam on
    20 KL(old, new) + (V_old - V_new)^2.  Says distilled/kl, in nats."""

    def prepare(self, epoch: Epoch, new: nn.Module) -> dict[str, float]:
        (states,) = probe_of(epoch.rollout, 1024, epoch.generator)[0]
        with torch.no_grad():
            logits, value = epoch.policy(states)
        optimizer = torch.optim.Adam(new.parameters(), lr=3e-3)
        for step in range(1500):
            optimizer.param_groups[0]["lr"] = 3e-3 if step < 1000 else 5e-4
            some = torch.randint(len(states), (256,), generator=epoch.generator)
            kl, off = _apart(new(states[some]), (logits[some], value[some]))
            optimizer.zero_grad()
            (20 * kl + off).backward()
            optimizer.step()
        with torch.no_grad():
            return {"distilled/kl": float(_apart(new(states), (logits, value))[0])}


def _apart(output: Any, target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    old, new = distributions.of(target[0]), distributions.of(output[0])
    return old.kl(new).mean(), ((output[1] - target[1]) ** 2).mean()
