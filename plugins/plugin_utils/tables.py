"""Rows and numbers as text."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of a table, the first row above a rule; a host is named once."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines, before = [], ""
    for row in rows:
        cells = ["" if row[0] == before else row[0], *row[1:]]
        before = row[0]
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def quantity(things: Sequence[object], name: str) -> str:
    """Return how many there are of what is called `name`: 1 host, 3 hosts."""
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
