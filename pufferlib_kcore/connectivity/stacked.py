"""Stacked: many policies of one architecture, their weights side by side, that act in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call, vmap

from pufferlib_kcore import distributions
from pufferlib_kcore.distributions import ActionDistribution, Continuous, Discrete, Joint, Squashed
from pufferlib_kcore.errors import UserError
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.training.acting import Diverged
from pufferlib_kcore.training.unroll import initial_state

ENDS = ("the first policy", "the second policy")
COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Weights:
    """Tensors of A policies, float64 (A, ..); whole numbers are shared."""

    stacked: dict[str, Tensor]
    shared: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self.stacked.values())


def between(one: nn.Module, other: nn.Module, alphas: np.ndarray) -> Weights:
    """(1 - a) theta_0 + a theta_1, of parameters and of buffers that hold real numbers.  alphas: (A,)

    Whole numbers must be equal, but for BatchNorm's count of its batches, which acting does not read.
    Raises UserError, naming what differs, for policies of two architectures, and for weights that are not
    finite.
    """
    ends = [dict([*m.named_parameters(), *m.named_buffers()]) for m in (one, other)]
    for name in {**ends[0], **ends[1]}:
        shapes = [tuple(end[name].shape) if name in end else "none" for end in ends]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{name} is {shapes[0]} in {ENDS[0]} and {shapes[1]} in {ENDS[1]}: a line lies between "
                "policies of one architecture alone"
            )
    a = torch.as_tensor(alphas, dtype=torch.float64)
    stacked, shared = {}, {}
    for name, x in ends[0].items():
        pair = [x.detach().cpu(), ends[1][name].detach().cpu()]
        if not x.is_floating_point():
            if not torch.equal(*pair) and name.split(".")[-1] != COUNT:
                raise UserError(f"{name}, of whole numbers, differs between the policies: it has no line")
            shared[name] = pair[0]
            continue
        for end, said in zip(pair, ENDS, strict=True):
            if not torch.isfinite(end).all():
                raise UserError(f"{said} has numbers in {name} that are not finite: there is no line to it")
        at = a.view(-1, *[1] * x.ndim)
        stacked[name] = (1 - at) * pair[0].double() + at * pair[1].double()
    return Weights(stacked, shared)


class Stepper(nn.Module):
    """One step of a policy, as a function of tensors alone."""

    def __init__(self, policy: nn.Module):
        super().__init__()
        self.policy = policy
        self.kind: ActionDistribution | None = None  # what the last actions were, to be put together again

    def forward(self, obs: Tensor, *state: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        after: tuple[Tensor, ...] = ()
        if state:
            output, after = recurrent_step(self.policy, obs, state)
        else:
            output = self.policy(obs)[0]
        self.kind = distributions.of(output, obs.dtype if obs.is_floating_point() else torch.float32)
        tensors: list[Tensor] = []
        self.kind.map(lambda x: tensors.append(x) or x)  # type: ignore[func-returns-value]
        return tuple(tensors), after


def recurrent_step(policy: Any, obs: Tensor, state: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...]]:
    """As `unroll.step`, its cells written out: torch's own cannot be stacked.  state: 2 x (layers, B, H)

    i, f, g, o = W_ih x + b_ih + W_hh h + b_hh;   c' = sigma(f) c + sigma(i) tanh(g);   h' = sigma(o) tanh(c')
    """
    core, lstm = policy.policy, policy.recurrent
    x, lookup = core.encode_observations(obs)
    cells = []
    for layer, (w_ih, w_hh, *biases) in enumerate(lstm.all_weights):
        gates = x @ w_ih.T + state[0][layer] @ w_hh.T + sum(biases)
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * state[1][layer] + i.sigmoid() * g.tanh()
        x = o.sigmoid() * c.tanh()
        cells.append((x, c))
    output, _ = core.decode_actions(x, lookup)
    h, c = (torch.stack(part) for part in zip(*cells, strict=True))
    return output, (h, c)


def drawn(found: ActionDistribution, u: Tensor) -> Tensor:
    """The actions that these uniform numbers draw, by the inverse of each distribution.  u: (.., columns)"""
    if isinstance(found, Joint):
        own = u.split([part.width for part in found.parts], -1)
        parts = [drawn(part, x) for part, x in zip(found.parts, own, strict=True)]
        return torch.cat([x.unsqueeze(-1) if x.ndim < u.ndim else x for x in parts], -1)
    if isinstance(found, Discrete):
        below = found.log_p.double().exp().cumsum(-1)[..., :-1]
        return (u > below).sum(-1)
    assert isinstance(found, Continuous), f"{type(found).__name__} cannot be drawn by uniform numbers"
    x = found.loc + found.scale * torch.special.ndtri(u).to(found.loc)
    return found.squashed(x) if isinstance(found, Squashed) else x


class Stack:
    """A policies in A times k environments of a VecEnv, those of one policy side by side."""

    def __init__(self, weights: Weights, policy: nn.Module, vec: Any, slots: int):
        self.slots, self.places = slots, next(iter(weights.stacked.values())).shape[0]
        self.stepper = Stepper(copy_of(policy).cpu().eval())
        self.space, self.live = vec.single_action_space, np.ones(self.places, bool)
        self.pictures = vec.single_observation_space.dtype == np.uint8
        lstm = getattr(policy, "recurrent", None)
        if isinstance(lstm, nn.LSTM) and (lstm.proj_size or lstm.bidirectional):
            raise UserError(
                "an LSTM with projections, or in both directions, has no line: only plain ones do"
            )
        state = initial_state(self.stepper.policy, self.places * slots)
        self.dtype = torch.float32 if self.pictures else torch.float64
        self.weights = weights
        probe = torch.zeros(1, *vec.single_observation_space.shape)
        if not self.pictures and not self._takes(probe, state):
            self.dtype = torch.float32  # its code says .float() somewhere
        self.state = None if state is None else [self._apart(x.to(self.dtype)) for x in state]
        self._hold()

    def act(
        self, obs: np.ndarray, starting: np.ndarray, live: np.ndarray, played: np.ndarray, draws: Any
    ) -> np.ndarray:
        """obs (A k, ..), starting (A k,) of bool, live (A,) of bool: who still plays -> actions (A k, ..)

        draws: lines.Draws, where actions are drawn.  Raises Diverged where they are not finite.
        """
        if (live != self.live).any():
            self.live = live.copy()
            self._hold()
        on = torch.from_numpy(np.flatnonzero(live))
        seen = torch.from_numpy(np.ascontiguousarray(obs)).unflatten(0, (self.places, self.slots))[on]
        seen = seen if self.pictures else seen.to(self.dtype)
        state: list[Tensor] = []
        if self.state is not None:
            keep = torch.from_numpy(~starting).view(self.places, 1, self.slots, 1)
            self.state = [x * keep for x in self.state]
            state = [x[on] for x in self.state]
        found, after = self._forward(seen, state)
        for x, new in zip(self.state or (), after, strict=True):
            x[on] = new.to(self.dtype)
        actions = found.mode() if draws is None else self._drawn(found, on, played, draws)
        if actions.is_floating_point() and not torch.isfinite(actions).all():
            raise Diverged("an action on the line is not a finite number")
        whole = np.zeros((self.places, self.slots, *self.space.shape), self.space.dtype)
        whole[on.numpy()] = actions.reshape(len(on), self.slots, *self.space.shape).numpy()
        return whole.reshape(-1, *self.space.shape)

    @torch.no_grad()
    def _forward(self, obs: Tensor, state: list[Tensor]) -> tuple[ActionDistribution, tuple[Tensor, ...]]:
        def one(own: dict[str, Tensor], obs: Tensor, *state: Tensor) -> Any:
            return functional_call(self.stepper, {**own, **self.shared}, (obs, *state))

        checks = Distribution._validate_args
        Distribution.set_default_validate_args(False)  # which branches on numbers
        try:
            tensors, after = vmap(one)(self.held, obs, *state)
        finally:
            Distribution.set_default_validate_args(checks)
        parts = iter(tensors)
        assert self.stepper.kind is not None
        return self.stepper.kind.map(lambda x: next(parts)), after

    def _drawn(self, found: ActionDistribution, on: Tensor, played: np.ndarray, draws: Any) -> Tensor:
        rows = [
            draws.next(place, s, played[place, s], found.width)
            for place in on.tolist()
            for s in range(self.slots)
        ]
        return drawn(found, torch.from_numpy(np.stack(rows)).unflatten(0, (len(on), self.slots)))

    def _hold(self) -> None:
        """Keep the weights of who still plays, in the precision in which they act."""
        on = torch.from_numpy(np.flatnonzero(self.live))
        self.held = {f"policy.{k}": x[on].to(self.dtype) for k, x in self.weights.stacked.items()}
        self.shared = {f"policy.{k}": x for k, x in self.weights.shared.items()}

    def _takes(self, probe: Tensor, state: Any) -> bool:
        """Whether the policy computes in float64 what it is given in it."""
        wide = Stepper(copy_of(self.stepper.policy).double())
        try:
            with torch.no_grad():
                rows = [] if state is None else [x[:, :1].double() for x in state]
                tensors, _ = wide(probe.double(), *rows)
        except RuntimeError:
            return False
        return all(x.dtype == torch.float64 for x in tensors)

    def _apart(self, x: Tensor) -> Tensor:
        """(layers, A k, H) -> (A, layers, k, H)"""
        return x.unflatten(1, (self.places, self.slots)).movedim(1, 0).contiguous()
