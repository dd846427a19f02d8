"""Tables: rows of plain dicts that print as text and as HTML."""

import csv
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pufferlib_kcore.text import aligned, readable


@dataclass(frozen=True)
class Cell:
    """A text that HTML shows as a link, or in a look of its own."""

    text: str
    href: str | None = None
    look: str | None = None  # class in the page's style

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        shown = html.escape(self.text)
        if self.look:
            shown = f'<span class="{html.escape(self.look)}">{shown}</span>'
        return f'<a href="{html.escape(self.href)}">{shown}</a>' if self.href else shown


class Table(list[dict[str, Any]]):
    """A list of rows; str() aligns it, a notebook shows it as HTML."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()):
        super().__init__(dict(row) for row in rows)

    @property
    def columns(self) -> list[str]:
        """The keys of the rows, in the order in which they first appear."""
        return list(dict.fromkeys(key for row in self for key in row))

    def only(self, columns: Iterable[str]) -> "Table":
        """The table with these columns, in this order, less those that are empty in every row."""
        kept = [name for name in columns if any(row.get(name) is not None for row in self)]
        return Table({name: row.get(name) for name in kept} for row in self)

    def __str__(self) -> str:
        names = self.columns
        right = [i for i, name in enumerate(names) if self._numeric(name)]
        return aligned([names, *([row.get(name) for name in names] for row in self)], right)

    def _repr_html_(self) -> str:
        names = self.columns
        flush = {name: ' class="number"' if self._numeric(name) else "" for name in names}

        def line(tag: str, cells: dict[str, Any]) -> str:
            inner = (f"<{tag}{flush[n]}>{_html(cell)}</{tag}>" for n, cell in cells.items())
            return f"<tr>{''.join(inner)}</tr>\n"

        body = "".join(line("td", {name: row.get(name) for name in names}) for row in self)
        head = line("th", {name: name for name in names})
        return f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>"

    def csv(self) -> bytes:
        """The rows as they are, unrounded, nothing for None and nan."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = self.columns
        writer.writerow(names)
        for row in self:
            cells = (row.get(name) for name in names)
            writer.writerow("" if cell is None or cell != cell else cell for cell in cells)
        return text.getvalue().encode()

    def _numeric(self, name: str) -> bool:
        values = [row.get(name) for row in self if row.get(name) is not None]
        return bool(values) and all(isinstance(value, (int, float)) for value in values)


def _html(value: Any) -> str:
    return value._repr_html_() if isinstance(value, Cell) else html.escape(readable(value))
