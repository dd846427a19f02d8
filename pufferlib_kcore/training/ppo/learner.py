"""PPO: the clipped objective and its minibatch updates (Schulman et al. 2017), recurrent or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.training.clock import Clock
from pufferlib_kcore.training.parallel import ALONE, Group
from pufferlib_kcore.training.rollout import Diverged, Experience
from pufferlib_kcore.training.unroll import unroll

LOSSES = ("policy_loss", "value_loss", "entropy", "old_approx_kl", "approx_kl", "clipfrac")


@dataclass(frozen=True)
class Objective:
    """The terms of the loss, PufferLib's names."""

    clip_coef: float = 0.1  # PPO's epsilon
    clip_vloss: bool = True  # clip the value's change as well
    vf_clip_coef: float = 0.1
    vf_coef: float = 0.5  # weight of the value loss
    ent_coef: float = 0.01  # weight of the entropy bonus
    norm_adv: bool = True  # advantages to mean 0 and std 1 in each minibatch

    def loss(
        self,
        log_prob: Tensor,
        entropy: Tensor,
        value: Tensor,
        old_log_prob: Tensor,
        old_value: Tensor,
        advantage: Tensor,
        returns: Tensor,
        moments: tuple[float, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All (M,), dummy steps already left out.  -> scalar loss, and LOSSES stacked (6,), detached

        moments: mean and standard deviation by which advantages are normalized; None for their own.

        approx_kl is the k3 estimator of Schulman's note, mean of (ratio - 1) - log ratio.
        """
        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()
        if self.norm_adv:
            mean, std = moments or (float(advantage.mean()), float(advantage.std()))
            advantage = (advantage - mean) / (std + 1e-8)
        clipped = ratio.clamp(1 - self.clip_coef, 1 + self.clip_coef)
        policy_loss = torch.max(-advantage * ratio, -advantage * clipped).mean()

        value_error = (value - returns) ** 2
        if self.clip_vloss:
            near = old_value + (value - old_value).clamp(-self.vf_clip_coef, self.vf_clip_coef)
            value_error = torch.max(value_error, (near - returns) ** 2)
        value_loss = 0.5 * value_error.mean()
        mean_entropy = entropy.mean()
        total = policy_loss - self.ent_coef * mean_entropy + self.vf_coef * value_loss
        with torch.no_grad():
            kl = ((ratio - 1) - log_ratio).mean()
            clipfrac = ((ratio - 1).abs() > self.clip_coef).float().mean()
            terms = torch.stack([policy_loss, value_loss, mean_entropy, -log_ratio.mean(), kl, clipfrac])
        return total, terms


class Part(NamedTuple):
    """What a process must know of a minibatch that it shares with others."""

    share: float  # of the loss: 1, but for dummy steps
    mean: float  # of the advantages of all processes' steps
    std: float


class Learner:
    """Updates a policy from a rollout.

    minibatch_size: steps; bptt: steps of a segment, over which gradients flow back through the LSTM, from the
    state that the rollout had before the segment. Each of `update_epochs` passes shuffles the segments anew.
    cpu_offload: leave the rollout's observations in main memory, and bring each minibatch's to the policy.
    """

    def __init__(
        self,
        policy: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        *,
        minibatch_size: int,
        bptt: int,
        update_epochs: int,
        gamma: float,
        gae_lambda: float,
        max_grad_norm: float,
        target_kl: float | None,
        generator: torch.Generator,
        clock: Clock,
        autocast,
        together: Group = ALONE,
        cpu_offload: bool = False,
    ):
        self.together, self.cpu_offload = together, cpu_offload
        self.policy, self.optimizer, self.objective = policy, optimizer, objective
        self.rows, self.bptt, self.update_epochs = minibatch_size // bptt, bptt, update_epochs
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.max_grad_norm, self.target_kl = max_grad_norm, target_kl
        self.generator, self.clock, self.autocast = generator, clock, autocast
        self.device = next(policy.parameters()).device

    def update(self, data: Experience) -> dict[str, float]:
        """-> LOSSES, averaged over minibatches, and explained_variance.  Raises Diverged."""
        with self.clock("train_misc"):
            advantage = data.advantages(self.gamma, self.gae_lambda)
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
            stay = ("obs",) if self.cpu_offload else ()
            columns = {
                name: segments(column) if name in stay else self._near(segments(column))
                for name, column in columns.items()
            }
            if data.state_h is not None and data.state_c is not None:  # (L, N * S, H)
                states = tuple(self._near(state.flatten(1, 2)) for state in (data.state_h, data.state_c))
            else:
                states = None

        totals, count = torch.zeros(len(LOSSES)), 0
        for _ in range(self.update_epochs):
            order = torch.randperm(N * T // B, generator=self.generator)
            batches = order.split(self.rows)
            for rows, part in zip(batches, self._parts(columns, batches), strict=True):
                terms = self._minibatch(columns, states, rows, part)
                totals, count = totals + terms, count + 1
            if self.target_kl is not None and self._mean(terms)[LOSSES.index("approx_kl")] > self.target_kl:
                break

        losses = dict(zip(LOSSES, (self._mean(totals) / count).tolist(), strict=True))
        losses["explained_variance"] = explained_variance(values[valid], returns[valid])
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
            loss, terms = self.objective.loss(
                log_prob[keep],
                entropy[keep],
                value[keep],
                old_log_prob,
                old_value,
                advantage,
                returns,
                (part.mean, part.std),
            )
        with self.clock("learn"):
            self.optimizer.zero_grad(set_to_none=True)
            (loss * part.share).backward()
            self.together.average_gradients(self.policy)
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            if not math.isfinite(float(norm)) or not math.isfinite(float(loss.detach())):
                raise Diverged(f"the loss is {float(loss.detach())} and the gradient's norm {float(norm)}")
            self.optimizer.step()
        return terms.cpu() * part.share


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); nan where the returns do not vary."""
    variance = returns.var()
    return float("nan") if variance == 0 else float(1 - (returns - values).var() / variance)
