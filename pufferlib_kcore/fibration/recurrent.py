"""Recurrent cells: how the colors of a unit's gates and its own past make its fiber."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pufferlib_kcore.fibration.partition import meet

State = tuple[np.ndarray, ...]  # partitions carried from round to round; the last one is the fibers
Step = Callable[[np.ndarray, State], State]  # colors (gates, units), state -> state
Join = Callable[..., np.ndarray]  # folded parameters (rows, d) each -> columns (rows, D)


def plain_step(colors: np.ndarray, state: State) -> State:
    """Units stay together while all their gates and their past agree (linear, convolution, RNN, GRU)."""
    return (meet(*colors, state[-1]),)


def lstm_step(colors: np.ndarray, state: State) -> State:
    """c' = f c + i g asks for equal i, f, g and c; h = o tanh(c') asks for equal o as well."""
    i, f, g, o = colors
    cell = meet(i, f, g, state[0])
    return cell, meet(o, cell)


def add(*columns: np.ndarray) -> np.ndarray:
    """Parameters that only ever act as their sum, such as b_ih + b_hh."""
    return np.sum(columns, axis=0)


def gru_biases(b_ih: np.ndarray, b_hh: np.ndarray) -> np.ndarray:
    """r and z add biases; n = tanh(.. + b_in + r (.. + b_hn)) keeps them apart.  (3n, 1) x 2 -> (3n, 2)"""
    in_n = np.arange(len(b_ih))[:, None] * 3 >= len(b_ih) * 2
    return np.hstack([b_ih + np.where(in_n, 0, b_hh), np.where(in_n, b_hh, 0)])


@dataclass(frozen=True)
class Cell:
    """What coloring needs to know of a recurrent cell."""

    gates: int
    step: Step
    biases: Join  # of b_ih and b_hh


CELLS = {
    "lstm": Cell(4, lstm_step, add),
    "gru": Cell(3, plain_step, gru_biases),
    "rnn_tanh": Cell(1, plain_step, add),
    "rnn_relu": Cell(1, plain_step, add),
}
