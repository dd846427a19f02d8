"""Recording: what each layer of a running policy reads, and what it makes of it before its nonlinearity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.fibration.finite import finite
from pufferlib_kcore.fibration.recurrent import CELLS
from pufferlib_kcore.graph.copying import copy_of
from pufferlib_kcore.graph.example import Inputs
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.operations import operation_name
from pufferlib_kcore.graph.running import aside

ROWS = 8192  # places of a convolution that one call records at most, evenly spread
Key = tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """One use of a layer: targets = sum over weights of inputs @ weight.flatten(1).T, plus its biases."""

    weights: Key
    biases: tuple[str, ...]
    inputs: tuple[Tensor, ...]  # one for each weight, (N, weight[0].numel())
    targets: Tensor  # (N, rows)
    state: int | None = None  # which of the inputs is the layer's own last output


def recorded(policy: nn.Module, method: str, inputs: Inputs) -> Iterator[list[Call]]:
    """The calls of a policy's layers on each of these inputs.  Raises UserError for NaN and infinity"""
    cure = "calibrate on states on which the policy computes finite numbers"
    for number, one in enumerate(inputs):
        calls = Recorder(policy).run(method, one)[1]
        for call in calls:
            if not len(call.targets):
                raise UserError(
                    f"recorded inputs [{number}] hold no state: {call.weights[0]} reads nothing there"
                )
            for weight, x in zip(call.weights, call.inputs, strict=True):
                finite(x, f"what {weight} reads on recorded inputs [{number}]", cure)
            finite(call.targets, f"what {call.weights[0]} computes on recorded inputs [{number}]", cure)
        yield calls


class Recorder(TorchFunctionMode):
    """The calls of linear layers, convolutions without groups, LSTM, GRU and RNN, stacked or as cells.

    A GRU makes two calls, one for what it reads and one for its state, since it multiplies a part of one.
    Other layers, and complex ones, go by unrecorded, and where one is wanted, all but that.
    """

    def __init__(self, policy: nn.Module, wanted: Key | None = None):
        super().__init__()
        self.policy, self.wanted, self.enough = policy, wanted, -1
        self.calls: list[Call] = []
        self._names = {id(parameter): name for name, parameter in policy.named_parameters()}

    def run(self, method: str, inputs: tuple) -> tuple[Any, list[Call]]:
        """Call a method of the policy, on copies.  -> its output, and its layers' calls in their order"""
        self.calls, inputs = [], copy_of(inputs)
        with torch.no_grad(), aside(self.policy), self:
            return getattr(self.policy, method)(*inputs), self.calls

    def run_for(self, method: str, inputs: tuple, calls: int) -> list[Call]:
        """The first so many calls of the wanted layer; the run ends with the last of them."""
        self.enough = calls
        with suppress(_Enough):
            self.run(method, inputs)
        return self.calls

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        operation, kwargs = operation_name(func), kwargs or {}
        cell = operation.removesuffix("_cell")
        if operation in CELLS and isinstance(args[3], bool):
            return self._stacked(func, operation, *args)
        out = func(*args, **kwargs)
        if operation == "linear":
            self._linear(out, *args, **kwargs)
        elif operation in ("conv1d", "conv2d", "conv3d"):
            self._convolution(out, *args, **kwargs)
        elif cell in CELLS and cell != operation:
            x, hx, *weights = args
            self._recurrent(cell, x, next(tensors_in(hx)), *weights)
        return out

    def _linear(self, out: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        if self._named(weight) and weight.ndim == 2:
            self._add([weight], [bias], [input.reshape(-1, weight.shape[1])], out.reshape(-1, len(weight)))

    def _convolution(
        self,
        out: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        if not self._named(weight) or groups > 1 or isinstance(padding, str):
            return
        places = weight.ndim - 2
        strides, pads, dilations = (
            (n,) * places if isinstance(n, int) else tuple(n) for n in (stride, padding, dilation)
        )
        first = input.ndim - places  # axis of its places
        x = F.pad(input, [side for n in reversed(pads) for side in (n, n)])
        for i, (size, apart, step) in enumerate(zip(weight.shape[2:], dilations, strides, strict=True)):
            x = x.unfold(first + i, apart * (size - 1) + 1, step)[..., ::apart]
        x = x.movedim(first - 1, first + places - 1)  # ([batch,] *places, channels, *window)
        some = sample_of(x.shape[: -places - 1])
        self._add([weight], [bias], [x[some].flatten(1)], out.movedim(first - 1, -1)[some])

    def _stacked(
        self, func: Callable, kind: str, x: Tensor, hx: Any, weights: Sequence[Tensor], *rest: Any
    ) -> Any:
        """A recurrent module, layer by layer, so that what each reads is seen.  -> what func returns"""
        biased, layers, dropout, training, bidirectional, batch_first = rest
        per_layer = 4 if biased else 2
        if bidirectional or len(weights) != layers * per_layer:
            return func(x, hx, weights, *rest)
        states = []
        for layer in range(layers):
            own = weights[layer * per_layer : (layer + 1) * per_layer]
            given = tuple(h[layer : layer + 1] for h in tensors_in(hx))
            below, (x, *state) = (
                x,
                func(
                    x,
                    given if kind == "lstm" else given[0],
                    own,
                    biased,
                    1,
                    0.0,
                    training,
                    False,
                    batch_first,
                ),
            )
            time = 1 if batch_first and x.ndim == 3 else 0
            first = given[0] if x.ndim == 2 else given[0].movedim(0, time)
            before = torch.cat(
                [first.expand_as(x.narrow(time, 0, 1)), x.narrow(time, 0, x.shape[time] - 1)], time
            )
            self._recurrent(kind, below, before, *own)
            states.append(state)
            if layer < layers - 1:
                x = F.dropout(x, dropout, training)
        return x, *(torch.cat(state) for state in zip(*states, strict=True))

    def _recurrent(
        self, kind: str, x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, *biases: Tensor | None
    ) -> None:
        b_ih, b_hh = biases or (None, None)
        if not (self._named(w_ih) and self._named(w_hh)):
            return
        x, h = x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])
        if kind == "gru":
            self._add([w_ih], [b_ih], [x], F.linear(x, w_ih, b_ih))
            self._add([w_hh], [b_hh], [h], F.linear(h, w_hh, b_hh), state=0)
        else:
            self._add(
                [w_ih, w_hh], [b_ih, b_hh], [x, h], F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh), state=1
            )

    def _named(self, weight: Tensor) -> bool:
        return id(weight) in self._names and not weight.is_complex()

    def _add(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        targets: Tensor,
        state: int | None = None,
    ) -> None:
        key = tuple(self._names[id(weight)] for weight in weights)
        added = [bias for bias in biases if bias is not None]
        if self.wanted in (None, key) and all(map(self._named, added)):
            names = tuple(self._names[id(bias)] for bias in added)
            own = tuple(x.clone() for x in inputs)  # what comes next may write into them
            self.calls.append(Call(key, names, own, targets.clone(), state))
            if len(self.calls) == self.enough:
                raise _Enough


class _Enough(Exception):
    """Ends a run whose rest is of no interest."""


def sample_of(shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Indices into axes of this shape: all of them in order, or ROWS of them, always the same."""
    count = prod(shape)
    generator = torch.Generator().manual_seed(0)
    some = torch.arange(count) if count <= ROWS else torch.randperm(count, generator=generator)[:ROWS]
    return torch.unravel_index(some, tuple(shape))
