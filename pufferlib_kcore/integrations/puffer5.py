"""PufferLib 5's flat weight files: read into a torch policy, to be collapsed, and written back.

A file is float32 numbers, one tensor after the other, rows first, no header: the encoder (h, observations),
the decoder (actions + 1, h), whose last row is the value's, log deviations (actions,) where actions are
continuous, and each MinGRU layer's (3h, h), its rows hidden, gate and highway. No biases. Each tensor
starts at a multiple of 8 numbers, with zeros before it; what stands after the last one may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pufferlib_kcore.errors import UserError

ALIGN = 8  # numbers: each tensor starts at a multiple of it


@dataclass(frozen=True)
class Sizes:
    """What a file does not say of its policy."""

    observations: int  # numbers in one observation
    actions: int  # logits of all heads together, or continuous actions
    hidden: int  # width of the encoder and of every MinGRU layer, a multiple of 8
    layers: int = 1  # MinGRU layers
    continuous: bool = False  # whether the file holds a log deviation for each action


class Puffer5Policy(nn.Module):
    """Encoder, MinGRU layers with highways, and a decoder of actions and value.

        [a, g, p] = W x,  h_t = (1 - s(g)) h_{t-1} + s(g) f(a),  y = s(p) h_t + (1 - s(p)) x

    where s is the sigmoid and f(a) = a + 1/2 for a >= 0, else s(a) (minGRU: Feng et al. 2024, B.3).
    """

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.encoder = nn.Linear(sizes.observations, sizes.hidden, bias=False)
        self.decoder = nn.Linear(sizes.hidden, sizes.actions + 1, bias=False)
        self.log_std = nn.Parameter(torch.zeros(1, sizes.actions)) if sizes.continuous else None
        blocks = (nn.Linear(sizes.hidden, 3 * sizes.hidden, bias=False) for _ in range(sizes.layers))
        self.layers = nn.ModuleList(blocks)

    def forward(self, observations: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """A sequence at once.  (B, T, observations), (layers, B, h) -> as `heads`, and the state behind it

        log h_t = A_t + log sum_{u <= t} exp(b_u - A_u), where A sums log (1 - s(g)) and b = log s(g) f(a).
        """
        x, last = self.encoder(observations), []
        for i, layer in enumerate(self.layers):
            a, gate, highway = layer(x).chunk(3, dim=-1)
            keep = -F.softplus(gate)
            enter = -F.softplus(-gate) + torch.where(a >= 0, (F.relu(a) + 0.5).log(), -F.softplus(-a))
            if state is not None:
                enter = torch.cat([state[i].log().unsqueeze(1), enter], dim=1)
                keep = F.pad(keep, (0, 0, 1, 0))
            total = keep.cumsum(dim=1)
            h = (total + (enter - total).logcumsumexp(dim=1)).exp()[:, -observations.shape[1] :]
            last.append(h[:, -1])
            x = torch.lerp(x, h, highway.sigmoid())
        return *self.heads(x), torch.stack(last)

    def forward_eval(self, observations: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """One step.  (B, observations), (layers, B, h) -> as `heads`, and the next state"""
        x, state = self.encoder(observations), state.clone()
        for i, layer in enumerate(self.layers):
            a, gate, highway = layer(x).chunk(3, dim=-1)
            h = torch.lerp(state[i], torch.where(a >= 0, a + 0.5, a.sigmoid()), gate.sigmoid())
            state[i] = h
            x = torch.lerp(x, h, highway.sigmoid())
        return *self.heads(x), state

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(.., h) -> logits or [means, log deviations] (.., actions or twice as many), value (..,)"""
        out = self.decoder(x)
        actions, value = out[..., :-1], out[..., -1]
        if self.log_std is not None:
            actions = torch.cat([actions, self.log_std.expand_as(actions)], dim=-1)
        return actions, value


def read(path: str | Path, sizes: Sizes) -> Puffer5Policy:
    """The policy that a file holds.

    Raises UserError where it cannot be read, is not as long as such a policy's, or holds NaN or infinity.
    """
    _check(sizes)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    policy = Puffer5Policy(sizes)
    places = list(_places(policy))
    _, start, last = places[-1]
    needed = start + last.numel()
    padded = -(-needed // ALIGN) * ALIGN
    if len(content) % 4 or not needed <= len(content) // 4 <= padded:
        raise UserError(
            f"{path} holds {len(content) / 4:g} numbers and {sizes} needs {padded}: give the sizes it was "
            "trained with"
        )
    numbers = np.frombuffer(content, "<f4")
    if not np.isfinite(numbers).all():
        raise UserError(f"{path} holds NaN or infinity: take a checkpoint from before it diverged")
    with torch.no_grad():
        for _, start, tensor in places:
            tensor.copy_(torch.tensor(numbers[start : start + tensor.numel()]).reshape(tensor.shape))
    return policy


def write(policy: Puffer5Policy, path: str | Path) -> None:
    """The file of a policy, whole or not at all.  Raises UserError for widths that PufferLib cannot run."""
    hidden = len(policy.encoder.weight)
    _check(sizes_of(policy))
    for name, start, tensor in _places(policy):
        if not tensor.isfinite().all():
            raise UserError(f"{name} holds NaN or infinity: nothing was written to {path}")
        if name.startswith("layers") and tuple(tensor.shape) != (3 * hidden, hidden):
            raise UserError(f"{name} is {tuple(tensor.shape)}: expected {(3 * hidden, hidden)}")
        end = start + tensor.numel()
    numbers = np.zeros(-(-end // ALIGN) * ALIGN, "<f4")
    for _, start, tensor in _places(policy):
        numbers[start : start + tensor.numel()] = tensor.detach().cpu().float().numpy().ravel()
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(numbers.tobytes())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def sizes_of(policy: Puffer5Policy) -> Sizes:
    """The sizes of a policy, collapsed or not: what to read its file with."""
    hidden, observations = policy.encoder.weight.shape
    actions = len(policy.decoder.weight) - 1
    return Sizes(observations, actions, hidden, len(policy.layers), policy.log_std is not None)


def _check(sizes: Sizes) -> None:
    for name in ("observations", "actions", "hidden", "layers"):
        if getattr(sizes, name) < 1:
            raise UserError(f"{name} is {getattr(sizes, name)}: expected 1 or more")
    if sizes.hidden % ALIGN:
        raise UserError(f"hidden is {sizes.hidden}: expected a multiple of {ALIGN}; collapse with round_to=8")


def _places(policy: Puffer5Policy) -> Iterator[tuple[str, int, Tensor]]:
    """Each tensor in a file's order: its name, the number that it starts at, itself."""
    start = 0
    named = dict(policy.named_parameters())
    first = [name for name in ("encoder.weight", "decoder.weight", "log_std") if name in named]
    for name in (*first, *(name for name in named if name.startswith("layers."))):
        start = -(-start // ALIGN) * ALIGN
        yield name, start, named[name]
        start += named[name].numel()
