"""Learner: PPO's passes over a rollout in minibatches of segments (Schulman et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.algorithm import Tools
from pufferlib_kcore.training.ppo.objective import LOSSES, explained_variance, objective
from pufferlib_kcore.training.rollout import Experience
from pufferlib_kcore.training.unroll import unroll


class Part(NamedTuple):
    """What a process must know of a minibatch that it shares with others."""

    share: float  # of the loss: 1, but for dummy steps
    mean: float  # of the advantages of all processes' steps
    std: float


class Learner:
    """Updates a policy from a rollout, as the [train] settings say.

    minibatch_size: steps; bptt_horizon: steps of a segment, over which gradients flow back through the LSTM,
    from the state that the rollout had before the segment. Each of `update_epochs` passes shuffles the
    segments anew. cpu_offload: leave the rollout's observations in main memory, and bring each minibatch's to
    the policy. Sizes are of all processes together, of which this one has its part.
    """

    def __init__(
        self,
        policy: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Any,
        tools: Tools,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.policy, self.optimizer, self.train, self.autocast = policy, optimizer, train, autocast
        self.together, self.generator, self.clock = tools.together, tools.generator, tools.clock
        self.bptt = train.bptt_horizon
        self.rows = self.together.part(train.minibatch_size, "minibatch_size", self.bptt) // self.bptt
        self.device = next(policy.parameters()).device
        self.norms: list[float] = []  # of the gradients of one update, before they are scaled down

    def update(self, data: Experience) -> dict[str, float]:
        """-> LOSSES and gradient_norm, means over minibatches, and explained_variance.  Raises Diverged."""
        with self.clock("train_misc"):
            advantage = data.advantages(self.train.gamma, self.train.gae_lambda)
            values, valid = data.values[:, :-1], data.valid
            returns = advantage + values
            N, T = valid.shape
            B = self.bptt

            def segments(
                column: Tensor,
            ) -> Tensor:  # (N, T, ...) -> (N * T / B, B, ...), a view where it can be
                return column.reshape(N * T // B, B, *column.shape[2:])

            columns = {
                "obs": data.obs,
                "actions": data.actions,
                "log_prob": data.log_probs,
                "value": values,
                "advantage": advantage,
                "returns": returns,
                "valid": valid,
                "starts": data.starts[:, :-1],
            }
            stay = ("obs",) if self.train.cpu_offload else ()
            columns = {
                name: segments(column) if name in stay else self._near(segments(column))
                for name, column in columns.items()
            }
            if data.state_h is not None and data.state_c is not None:  # (L, N * S, H)
                states = tuple(self._near(state.flatten(1, 2)) for state in (data.state_h, data.state_c))
            else:
                states = None

        totals, count, self.norms = torch.zeros(len(LOSSES)), 0, []
        for _ in range(self.train.update_epochs):
            order = torch.randperm(N * T // B, generator=self.generator)
            batches = order.split(self.rows)
            for rows, part in zip(batches, self._parts(columns, batches), strict=True):
                terms = self._minibatch(columns, states, rows, part)
                totals, count = totals + terms, count + 1
            target = self.train.target_kl
            if target is not None and self._mean(terms)[LOSSES.index("approx_kl")] > target:
                break

        losses = dict(zip(LOSSES, (self._mean(totals) / count).tolist(), strict=True))
        losses["explained_variance"] = explained_variance(values[valid], returns[valid])
        losses["gradient_norm"] = sum(self.norms) / max(1, len(self.norms))
        return losses

    def _near(self, column: Tensor) -> Tensor:
        return column.to(self.device, non_blocking=True)

    def _mean(self, terms: Tensor) -> Tensor:
        return self.together.total(terms) / self.together.size

    def _parts(self, columns: dict[str, Tensor], batches: Sequence[Tensor]) -> list[Part | None]:
        """This process's part of each minibatch; None where some process has no step of it."""
        with self.clock("train_misc"):
            rows = []
            for batch in batches:
                kept = columns["advantage"][batch][columns["valid"][batch]].double()
                rows.append(torch.stack([torch.ones_like(kept).sum(), kept.sum(), (kept**2).sum()]))
            own = torch.stack(rows)
            every = self.together.total(torch.cat([own, (own[:, :1] == 0).double()], 1))
            parts: list[Part | None] = []
            for (steps, *_), (count, sums, squares, empty) in zip(own.tolist(), every.tolist(), strict=True):
                if count < 2 or empty:
                    parts.append(None)
                    continue
                mean = sums / count
                std = math.sqrt(max(squares - count * mean**2, 0) / (count - 1))
                parts.append(Part(steps * self.together.size / count, mean, std))
        return parts

    def _minibatch(self, columns: dict[str, Tensor], states, rows: Tensor, part: Part | None) -> Tensor:
        if part is None:
            return torch.zeros(len(LOSSES))
        with self.clock("train_misc"):
            batch = {name: self._near(column[rows.to(column.device)]) for name, column in columns.items()}
            state = None if states is None else tuple(s[:, rows.to(s.device)] for s in states)
            keep = batch["valid"].flatten()
            names = ("log_prob", "value", "advantage", "returns")
            old_log_prob, old_value, advantage, returns = (batch[name].flatten()[keep] for name in names)
        with self.clock("train_forward"):
            with self.autocast():
                output, value = unroll(self.policy, batch["obs"], state, batch["starts"])
            actor = distributions.of(output)
            log_prob, entropy = actor.log_prob(batch["actions"].flatten(0, 1)), actor.entropy()
            loss, terms = objective(
                log_prob[keep],
                entropy[keep],
                value[keep],
                old_log_prob,
                old_value,
                advantage,
                returns,
                self.train,
                (part.mean, part.std),
            )
        with self.clock("learn"):
            self.optimizer.zero_grad(set_to_none=True)
            (loss * part.share).backward()
            self.together.average_gradients(self.policy)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.train.max_grad_norm)
            self.norms.append(float(norm))
            if not math.isfinite(float(norm)) or not math.isfinite(float(loss.detach())):
                raise Diverged(f"the loss is {float(loss.detach())} and the gradient's norm {float(norm)}")
            self.optimizer.step()
        return terms.cpu() * part.share
