"""Claims: a hypothesis as an inequality of measured numbers, answered over seeds.

    true_return < 0.9 * optimum and dominance > 0.95

Each part is judged by the 95% interval (t, over seeds) of its left side minus its right: it holds where that
lies beyond 0, does not where it lies on the other side, and cannot be told between. One seed alone is judged
by its numbers, and says so.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from pufferlib_kcore.errors import UserError
from pufferlib_kcore.settings import nearest

Verdict = Literal["held", "did not hold", "cannot be told"]
SUMS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
SIGNS = {ast.Lt: -1, ast.LtE: -1, ast.Gt: 1, ast.GtE: 1}


@dataclass(frozen=True)
class Answer:
    """What became of a hypothesis, and by which numbers."""

    verdict: Verdict
    why: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.why}" if self.why else self.verdict


@dataclass(frozen=True)
class Claim:
    """An inequality, or several joined by `and`."""

    text: str

    def __post_init__(self) -> None:
        _parts(self.text)

    @property
    def names(self) -> set[str]:
        return {node.id for node in ast.walk(_tree(self.text)) if isinstance(node, ast.Name)}

    def answer(self, seeds: Sequence[Mapping[str, float | None]]) -> Answer:
        """numbers: one table a seed.  Raises UserError for a name that there is not."""
        found = [_judged(part, seeds) for part in _parts(self.text)]
        verdicts = [one.verdict for one in found]
        verdict: Verdict = "held"
        if "did not hold" in verdicts:
            verdict = "did not hold"
        elif "cannot be told" in verdicts:
            verdict = "cannot be told"
        return Answer(verdict, "; ".join(one.why for one in found))


def _judged(part: ast.Compare, seeds: Sequence[Mapping[str, float | None]]) -> Answer:
    sides = np.array([[_number(x, seed) for x in (part.left, part.comparators[0])] for seed in seeds])
    text = ast.unparse(part)
    if not np.isfinite(sides).all():
        return Answer("cannot be told", f"{text}: a number is not known")
    sign = SIGNS[type(part.ops[0])]
    beyond = sign * (sides[:, 0] - sides[:, 1])
    mean, n = float(beyond.mean()), len(beyond)
    shown = " against ".join(f"{x:.4g}" for x in sides.mean(0))
    if n == 1:
        return Answer("held" if mean > 0 else "did not hold", f"{text}: {shown}, one seed")
    half = float(stats.t.ppf(0.975, n - 1) * beyond.std(ddof=1) / n**0.5)
    low, high = mean - half, mean + half
    verdict: Verdict = "held" if low > 0 else "did not hold" if high <= 0 else "cannot be told"
    return Answer(verdict, f"{text}: {shown}, beyond by {mean:.4g} [{low:.4g}, {high:.4g}], {n} seeds")


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        raise _odd(text) from None


def _parts(text: str) -> list[ast.Compare]:
    """Raises UserError for what is no inequality of sums of names and numbers."""
    tree = _tree(text)
    joined = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
    parts: list[Any] = tree.values if joined else [tree]  # type: ignore[attr-defined]
    for part in parts:
        if not isinstance(part, ast.Compare) or len(part.ops) != 1 or type(part.ops[0]) not in SIGNS:
            raise _odd(text)
        for side in (part.left, part.comparators[0]):
            for node in ast.walk(side):
                plain = isinstance(node, ast.Name | ast.Load | ast.BinOp | ast.UnaryOp | ast.USub)
                number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
                if not (plain or number or type(node) in SUMS):
                    raise _odd(text)
    return parts


def _number(node: ast.expr, numbers: Mapping[str, float | None]) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp):
        return -_number(node.operand, numbers)
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left, numbers), _number(node.right, numbers)
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(SUMS[type(node.op)](np.float64(left), np.float64(right)))  # type: ignore[index]
    assert isinstance(node, ast.Name)
    if node.id not in numbers:
        near = nearest(node.id, numbers)
        raise UserError(
            f"a claim names {node.id}, which is not measured: "
            + (f"did you mean {near}?" if near else f"there are {', '.join(sorted(numbers))}")
        )
    value = numbers[node.id]
    return float("nan") if value is None else float(value)


def _odd(text: str) -> UserError:
    return UserError(
        f"{text!r} is no claim: expected an inequality of measured numbers, as in true_return < 0.9 * optimum"
    )
