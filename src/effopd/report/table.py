"""A table that can be written as Markdown and as HTML, and how numbers in it are written."""

import html
import math
from typing import Any, NamedTuple

NONE = "\u2013"
"""What stands in a cell without a number."""


class Table(NamedTuple):
    """A table whose cells are formatted already.

    Attributes:
        key: Short name, by which a report refers to the table.
        title: Heading above the table.
        note: Sentences below the table that say what is averaged over what.
        header: Heads of the columns. The first `text_columns` columns hold text, the others hold numbers.
        rows: Formatted cells, row by row.
        text_columns: Number of columns that hold text.
    """

    key: str
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1

    def markdown(self) -> str:
        """Write the table in GitHub's Markdown. Text from checkpoints is escaped."""
        lines = [f"## {self.title}", "", self.note]
        if self.rows:
            rule = [":--"] * self.text_columns + ["--:"] * (len(self.header) - self.text_columns)
            cells = [[_markdown(cell) for cell in row] for row in self.rows]
            lines += ["", *("| " + " | ".join(row) + " |" for row in ([*self.header], rule, *cells))]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Write the table as HTML, in a box of its own in which it scrolls."""
        if not self.rows:
            return f"<p>{html.escape(self.note)}</p>"
        kinds = ["text"] * self.text_columns + ["number"] * (len(self.header) - self.text_columns)
        head = "".join(
            f'<th scope="col" class="{kind}">{html.escape(cell)}</th>'
            for kind, cell in zip(kinds, self.header, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f'<td class="{kind}">{html.escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
            + "</tr>\n"
            for row in self.rows
        )
        label = html.escape(self.title, quote=True)
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n<p>{html.escape(self.note)}</p>"
        )


def number(value: Any, digits: int = 4) -> str:
    """Write a number to some significant digits, or a dash in place of None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        return f"{value:,.{min(decimals, 6)}f}"
    return f"{value:.{digits - 1}e}"


def _markdown(text: str) -> str:
    escaped = html.escape(text, quote=False)
    for character in "\\`*_[]|~":
        escaped = escaped.replace(character, "\\" + character)
    return " ".join(escaped.split())
