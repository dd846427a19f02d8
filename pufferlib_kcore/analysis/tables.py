"""Tables: rows of plain dicts that print as text and as HTML."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pufferlib_kcore.analysis import report
from pufferlib_kcore.text import aligned


@dataclass(frozen=True)
class Cell:
    """A text that HTML shows as a link, or in a look of its own."""

    text: str
    href: str | None = None
    look: str | None = None  # class in the page's style

    def __str__(self) -> str:
        return self.text


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
        names, numeric = self.columns, self.numeric()
        right = [i for i, name in enumerate(names) if name in numeric]
        return aligned([names, *([row.get(name) for name in names] for row in self)], right)

    def _repr_html_(self) -> str:
        return report.render("table.html", rows=self)

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

    def numeric(self) -> set[str]:
        """The columns that hold numbers alone."""
        known = {name: [row[name] for row in self if row.get(name) is not None] for name in self.columns}
        return {n for n, some in known.items() if some and all(isinstance(v, (int, float)) for v in some)}
