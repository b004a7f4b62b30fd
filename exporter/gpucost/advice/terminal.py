"""Tables and plots of plain text, for a terminal or a log. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are words, and the others figures, to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(head))]
    return "".join(
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def usd(value: float) -> str:
    """Dollars with as many digits as matter."""
    if value and abs(value) < 0.01:  # noqa: PLR2004 - a cent
        return f"{value:.2g}"
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"  # noqa: PLR2004
