"""Acting: a policy plays in environments, whole episodes or so many steps, and what is asked for is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pufferlib_kcore import distributions
from pufferlib_kcore.distributions import ActionDistribution
from pufferlib_kcore.environments import seeds
from pufferlib_kcore.training.unroll import State, initial_state, reset, step

Policy = nn.Module | Callable[[Tensor], Any]  # -> (actions, value); or, of observations, actions alone


class Diverged(RuntimeError):
    """A number is not finite, in training or of a trained policy; parameters are those before it did harm."""


class Received(NamedTuple):
    """What a group of B environments answers; views, valid until the group's next send."""

    obs: Tensor  # (B, *obs)
    rewards: Tensor  # (B,), earned by the action before
    terminals: Tensor  # (B,) bool
    truncations: Tensor  # (B,) bool
    starts: Tensor  # (B,) bool: the observation is an episode's first
    infos: list[dict]  # one for each episode that ended, in the order of environments


class Answer(NamedTuple):
    """What a policy makes of B observations."""

    actions: Any  # their distribution, as `distributions.of` reads it
    value: Tensor | None  # (B,); None of a policy that gives none
    before: State | None  # its recurrent state, zero where an episode starts
    after: State | None


class Moment(NamedTuple):
    """One step of a group of B environments: what it received, and what the policy made of it."""

    obs: Tensor  # (B, *obs)
    rewards: Tensor  # (B,)
    terminals: Tensor  # (B,) bool
    truncations: Tensor  # (B,) bool
    starts: Tensor  # (B,) bool
    values: Tensor | None  # (B,)
    actions: Tensor  # (B, *action)
    distributions: ActionDistribution  # that they are chosen from


class Player:
    """A policy in all environments of a VecEnv: receive, answer, act, send; group by group, in any rhythm.

    generator: draws the actions; None: the most likely are taken.
    """

    def __init__(self, vec, policy: Policy, generator: torch.Generator | None):
        self.vec, self.policy, self.generator = vec, policy, generator
        self.device = device_of(policy)
        self.groups = [slice(int(ids[0]), int(ids[-1]) + 1) for ids in vec.groups]
        self.state = initial_state(policy, vec.num_envs)
        self.ended = [torch.ones(len(ids), dtype=torch.bool) for ids in vec.groups]  # next, episodes start

    def receive(self, g: int) -> Received:
        got = self.vec.recv(g)
        terminals, truncations = torch.as_tensor(got.terminals), torch.as_tensor(got.truncations)
        starts, self.ended[g] = self.ended[g], terminals | truncations
        rewards = torch.as_tensor(got.rewards)
        return Received(torch.as_tensor(got.obs), rewards, terminals, truncations, starts, got.infos)

    def answer(self, g: int, obs: Tensor, starts: Tensor) -> Answer:
        """Raises Diverged where a value is not finite."""
        obs, state = obs.to(self.device), None
        if not isinstance(self.policy, nn.Module):
            return Answer(self.policy(obs), None, None, None)
        if self.state is not None:
            rows = self.groups[g]
            old = (self.state[0][:, rows], self.state[1][:, rows])
            state = reset(old, starts.to(self.device))
        actions, value, after = step(self.policy, obs, state)
        if not torch.isfinite(value).all():
            raise Diverged("the policy's value of an observation is not a finite number")
        return Answer(actions, value, state, after)

    def act(self, g: int, answer: Answer) -> tuple[Tensor, ActionDistribution]:
        """Choose actions (B, *action), and keep the recurrent state.  -> them, and what they are chosen from

        Both are on the generator's device: a seed means the same with and without a GPU.
        """
        if self.state is not None and answer.after is not None:
            rows = self.groups[g]
            self.state[0][:, rows], self.state[1][:, rows] = answer.after
        found = distributions.of(answer.actions)
        if self.generator is None:
            return found.mode(), found
        if self.device != self.generator.device:
            found = found.to(self.generator.device)
        return found.sample(self.generator), found

    def send(self, g: int, actions: Tensor) -> None:
        self.vec.send(g, actions.cpu().numpy())


@dataclass(frozen=True)
class Played:
    """What came of it, in the order of environments."""

    returns: np.ndarray  # (episodes,)
    lengths: np.ndarray  # (episodes,)
    kept: Mapping[str, Any] = field(default_factory=dict)  # name -> Tensor or ActionDistribution (N, T, ..)

    def __str__(self) -> str:
        n = len(self.returns)
        spread = f" +- {self.returns.std(ddof=1) / n**0.5:.3g} (standard error)" if n > 1 else ""
        return (
            f"episode_return={self.returns.mean():.6g}{spread} "
            f"episode_length={self.lengths.mean():.6g} episodes={n} "
            f"min={self.returns.min():.6g} max={self.returns.max():.6g}"
        )


@torch.no_grad()
def play(
    policy: Policy,
    vec,
    seed: int | Sequence[int],
    *,
    episodes: int | None = None,
    steps: int | None = None,
    keep: Collection[str] = (),
    greedy: bool = False,
    autocast: Callable[[], Any] = contextlib.nullcontext,
    watch: Callable[[int], None] = lambda step: None,
) -> Played:
    """Play from fresh episodes on, until all N environments finished their part of `episodes`, or T `steps`.

    policy    an nn.Module that returns (actions, value), recurrent or not, or any function of observations
              (B, *obs) that returns its actions' distribution; `distributions.of` says what is one
    seed      of environments and actions: entropy, as in `environments.seeds`. Policies that are played with
              one seed meet the same environments (common random numbers)
    episodes  counted is the same number from each environment, so that short ones do not crowd in: the first
              ceil(episodes / N) of each. With `steps` alone, all that finish
    keep      fields of Moment, from every step; that of an episode's end is a dummy, whose action is ignored
    greedy    take the most likely actions instead of drawing them
    autocast  under which the policy acts (`precision.autocast`)
    watch     called with their number before each step, with what an episode ended with still in sight
    Raises Diverged where a value is not finite, ValueError where there are none to keep, or no end is named.
    """
    if episodes is None and steps is None:
        raise ValueError("play needs an end: episodes, steps or both")
    player = Player(vec, policy, None if greedy else seeds.generator(seed))
    share = None if episodes is None else -(-episodes // vec.num_envs)
    finished: list[list[tuple[float, float]]] = [[] for _ in range(vec.num_envs)]
    columns: dict[str, list] = {name: [] for name in keep}
    vec.reset(seed)
    with autocast():  # one context: the weights are cast once, not at every step
        for t in count():
            if t == steps or share is not None and min(map(len, finished)) >= share:
                break
            watch(t)
            parts: dict[str, list] = {name: [] for name in keep}
            for g, rows in enumerate(player.groups):
                got = player.receive(g)
                ended = rows.start + player.ended[g].nonzero().flatten()
                for n, info in zip(ended.tolist(), got.infos, strict=True):
                    finished[n].append((info["episode_return"], info["episode_length"]))
                answer = player.answer(g, got.obs, got.starts)
                actions, chosen_from = player.act(g, answer)
                moment = Moment(*got[:5], answer.value, actions, chosen_from)
                for name, part in parts.items():
                    part.append(_copy(getattr(moment, name)))
                player.send(g, actions)
            for name, part in parts.items():
                columns[name].append(part[0] if len(part) == 1 else _joined(torch.cat, part))
    kept = {name: _joined(lambda xs: torch.stack(xs, 1), columns.pop(name)) for name in keep}
    counted = [episode for own in finished for episode in own[:share]]
    return Played(np.array([r for r, _ in counted]), np.array([n for _, n in counted]), kept)


def device_of(policy: Policy) -> torch.device:
    """Where a policy's parameters are; the CPU where it has none."""
    parameters = policy.parameters() if isinstance(policy, nn.Module) else ()
    return next((p.device for p in parameters), torch.device("cpu"))


def _copy(x: Any) -> Any:
    """A tensor or a distribution, in main memory and nobody else's."""
    if x is None:
        raise ValueError("the policy gives no values: there are none to keep")
    return x.map(_copy) if isinstance(x, ActionDistribution) else x.to("cpu", copy=True)


def _joined(how: Callable[[list[Tensor]], Tensor], parts: list) -> Any:
    """One tensor of several; of distributions, tensor by tensor."""
    first, *rest = parts
    if isinstance(first, ActionDistribution):
        return first.map(lambda *xs: how(list(xs)), *rest)
    return how(parts)
