"""Tables and plots of plain text, for a terminal or a log. Pure."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def columns(
    head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, *, last: bool = False
) -> str:
    """A table whose first `left` columns, and with `last` the last, are words.

    The others are figures, to the right.
    """
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(head))]
    return "".join(
        "  ".join(
            cell.ljust(width)
            if number < left or (last and number == len(head) - 1)
            else cell.rjust(width)
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


_MARKS = "*o+x#@%&"


def plot(
    rates: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float]]],
    *,
    at: float,
    width: int = 72,
    height: int = 16,
) -> str:
    """Curves of USD over a rate, both scales logarithmic, and a line at `at`.

    Where curves meet, the first of them is seen.
    """
    values = [value for _, curve in curves for value in curve if value > 0]
    low, high = log10(min(values)), log10(max(values))
    left, right = log10(rates[0]), log10(rates[-1])
    tall, wide = (high - low) or 1.0, (right - left) or 1.0
    canvas = [[" "] * width for _ in range(height)]
    here = round((log10(at) - left) / wide * (width - 1))
    for row in canvas:
        row[here] = "|"
    for mark, (_, curve) in reversed(list(zip(_MARKS, curves, strict=False))):
        for rate, value in zip(rates, curve, strict=True):
            if value > 0:
                column = round((log10(rate) - left) / wide * (width - 1))
                row_number = round((high - log10(value)) / tall * (height - 1))
                canvas[row_number][column] = mark
    lines = []
    for number, row in enumerate(canvas):
        label = usd(10 ** (high - tall * number / (height - 1))) if number % 5 == 0 else ""
        lines.append(f"{label:>12} {''.join(row).rstrip()}")
    lines.append(
        f"{'USD/month':>12} {rates[0]:<{width // 2}.2g}{rates[-1]:>{width // 2}.2g} requests/s"
    )
    lines += [f"{mark:>12} {name}" for mark, (name, _) in zip(_MARKS, curves, strict=False)]
    return "\n".join(lines) + "\n"
