"""Text: values and tables for people to read; every room may print by it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any


def readable(value: Any) -> str:
    """A value for people: nothing for None and nan.

    >>> readable(1234567), readable(312.5), readable(0.123456), readable(None), readable("a b")
    ('1,234,567', '312.5', '0.1235', '', 'a b')
    """
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer() or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.4g}"


def aligned(rows: Iterable[Iterable[Any]], right: Collection[int] = (), indent: str = "") -> str:
    """A table as lines, columns two blanks apart; those in `right` are flush right, as numbers are.

    >>> print(aligned([["space", "units", "kind"], ["encoder", 12345, None], ["actor", 6, "linear"]], [1]))
    space     units  kind
    encoder  12,345
    actor         6  linear
    """
    return "\n".join(f"{indent}{'  '.join(cells)}".rstrip() for cells in padded(rows, right))


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table whose columns line up; all but the first to the right.

    >>> print("\\n".join(markdown(["kept", "return"], [["20%", 5]])))
    | kept | return |
    |------|-------:|
    | 20%  |      5 |
    """
    head, *body = padded([header, *rows], right=range(1, len(header)))
    rule = ["-" * (len(head[0]) + 2), *("-" * (len(cell) + 1) + ":" for cell in head[1:])]
    return [_row(head), f"|{'|'.join(rule)}|", *map(_row, body)]


def padded(rows: Iterable[Iterable[Any]], right: Collection[int] = ()) -> list[list[str]]:
    """The cells as text, each as wide as its column."""
    text = [list(map(readable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    pads = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    return [[pad(cell, w) for pad, cell, w in zip(pads, row, widths, strict=True)] for row in text]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
