"""Recurrent layers: LSTM, GRU and RNN, as modules of several layers and as cells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pufferlib_kcore.fibration.recurrent import CELLS, Cell
from pufferlib_kcore.fibration.refinement import Columns
from pufferlib_kcore.graph.nested import tensors_in
from pufferlib_kcore.graph.operations import rule
from pufferlib_kcore.graph.tracing import Trace

PACKED = "cannot be traced: packed sequences are not followed"
PADDED = "give it a padded tensor"


@rule("pack_padded_sequence", "pad_packed_sequence")
def packing(trace: Trace, out: Any, *args: Any, **kwargs: Any) -> list[Tensor]:
    return trace.refuse((args, kwargs), out, PACKED, PADDED)


def stacked(
    trace: Trace,
    out: tuple[Tensor, ...],
    x: Tensor,
    hx: Tensor | tuple[Tensor, ...],
    weights: Sequence[Tensor],
    biased: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    cell: Cell,
) -> tuple[Tensor, ...]:
    """A recurrent module of several layers.  out: (sequence, *last states)"""
    given = (x, hx, weights, biased)
    if not isinstance(biased, bool):  # another signature
        return tuple(trace.refuse(given, out, PACKED, PADDED))
    per_layer = 4 if biased else 2
    if bidirectional:
        why = "cannot be traced: it runs in both directions"
        return tuple(trace.refuse(given, out, why, "build it of two that run in one"))
    if len(weights) != layers * per_layer:
        why = "cannot be traced: its hidden state is projected (proj_size)"
        return tuple(trace.refuse(given, out, why, "put a linear layer behind it instead"))
    if not all(trace.name(weight) for weight in weights):
        return tuple(
            trace.refuse(given, out, "cannot be traced: its weights are computed", "give it its own")
        )
    below, written = trace.along(x, -1), []
    for layer in range(layers):
        parameters = weights[layer * per_layer : (layer + 1) * per_layer]
        below = write_cell(trace, below, *parameters, cell=cell, layer=layer if layers > 1 else None)
        written.append(below)
    trace.same_width.append(written)
    state = torch.stack([units.expand(out[1].shape[1:]) for units in written])  # (layers, [batch,] units)
    for h in tensors_in(hx):
        trace.start(h, state)
    trace.hand_on(*out[1:])
    return trace.spread(below, out[0], -1), *[state] * (len(out) - 1)


def single(
    trace: Trace, out: Any, x: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, *biases: Tensor, cell: Cell
) -> tuple[Tensor, ...]:
    """A recurrent cell that runs for one step.  out: the new state, one tensor or two"""
    if not all(trace.name(p) for p in (w_ih, w_hh, *biases)):
        why = "cannot be traced: its weights are computed"
        return tuple(trace.refuse((x, hx, w_ih, w_hh, biases), out, why, "give it its own"))
    units = write_cell(trace, trace.along(x, -1), w_ih, w_hh, *biases, cell=cell)
    states = list(tensors_in(out))
    for h in tensors_in(hx):
        trace.start(h, units.expand(h.shape))
    trace.hand_on(*states)
    return tuple(units.expand(h.shape) for h in states)


for name, cell in CELLS.items():
    rule(name, weighs=True, takes_sizes=True)(partial(stacked, cell=cell))
    rule(f"{name}_cell", weighs=True, takes_sizes=True)(partial(single, cell=cell))


def write_cell(
    trace: Trace,
    below: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    *biases: Tensor,
    cell: Cell,
    layer: int | None = None,
) -> Tensor:
    """One layer of recurrent units that read neurons `below` and themselves.  -> (units,)"""
    names = [trace.name(p) or "" for p in (w_ih, w_hh, *biases)]
    columns = [Columns((names[0],)), Columns((names[1],))]
    if biases:
        columns.append(Columns((names[2], names[3]), cell.biases))
    units = trace.write(
        *((p, 0) for p in (w_ih, w_hh, *biases)),
        kind="lstm",
        gates=cell.gates,
        step=cell.step,
        columns=columns,
        name=None if layer is None else f"{names[0].rpartition('.')[0]}.l{layer}".lstrip("."),
    )
    trace.read(w_ih, 1, below)
    trace.read(w_hh, 1, units)
    return units
