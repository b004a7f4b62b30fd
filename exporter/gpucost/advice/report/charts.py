"""Charts as SVG inside a page: no scripts, no outside files, readable in print. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpucost.advice.sheet import place
from gpucost.status.html import Html, el, join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 960.0, 250.0
_LEFT, _BOTTOM, _TOP = 64.0, 26.0, 10.0
_MOST_LABELS = 12
_HATCHED = ("unallocated", "stranded", "unattributed", "unhealthy", "provisioning", "unknown")
"""States that nodes bear: told from the others without colour too."""


def bar(parts: Sequence[tuple[str, float]], title: str) -> Html:
    """One bar of 100 %, by state."""
    whole = sum(usd for _, usd in parts)
    pieces: list[Html] = []
    left = 0.0
    for state, usd in parts:
        width = WIDTH * usd / whole if whole else 0.0
        pieces += _block(state, left, 0.0, width, 34.0, f"{state}: {usd:,.2f} USD")
        left += width
    return _svg(34.0, title, *pieces)


def days(columns: Sequence[tuple[str, Mapping[str, float]]], title: str) -> Html:
    """A column a day, its states one on another; USD at the left."""
    top = max((sum(states.values()) for _, states in columns), default=0.0)
    step = _nice(top / 4)
    upto = step * max(1, math.ceil(top / step - 1e-9)) if step else 1.0
    plot = HEIGHT - _BOTTOM - _TOP
    parts = []
    for n in range(round(upto / step) + 1 if step else 1):
        y = _TOP + plot * (1 - n * step / upto)
        parts.append(
            el("line", x1=f"{_LEFT}", x2=f"{WIDTH}", y1=place(y), y2=place(y), class_="grid")
        )
        label = f"{n * step:,.0f}" if step >= 1 else f"{n * step:.2g}"
        parts.append(el("text", label, x=place(_LEFT - 8), y=place(y + 4), class_="end"))
    room = (WIDTH - _LEFT) / max(len(columns), 1)
    every = math.ceil(len(columns) / _MOST_LABELS) if columns else 1
    for number, (name, states) in enumerate(columns):
        x = _LEFT + number * room + room * 0.1
        y = _TOP + plot
        for state, usd in states.items():
            height = plot * usd / upto
            y -= height
            parts += _block(state, x, y, room * 0.8, height, f"{name}, {state}: {usd:,.2f} USD")
        if number % every == 0:
            middle = _LEFT + (number + 0.5) * room
            parts.append(
                el("text", name[5:], x=place(middle), y=place(HEIGHT - 8), class_="middle")
            )
    return _svg(HEIGHT, title, *parts)


def _block(
    state: str, x: float, y: float, width: float, height: float, words: str
) -> tuple[Html, ...]:
    if width <= 0 or height <= 0:
        return ()
    box = {"x": place(x), "y": place(y), "width": place(width), "height": place(height)}
    block = el("rect", el("title", words), class_=f"s-{state}", **box)
    if state in _HATCHED:
        return block, el("rect", fill="url(#hatch)", **box)
    return (block,)


def _svg(height: float, title: str, *parts: Html) -> Html:
    return el(
        "svg",
        el("title", title),
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=title,
        preserveAspectRatio="none" if height < HEIGHT else None,
    )


HATCH = el(
    "svg",
    el(
        "defs",
        el(
            "pattern",
            el("path", d="M0 6L6 0M-1 1L1 -1M5 7L7 5", class_="hatch"),
            id="hatch",
            width="6",
            height="6",
            patternUnits="userSpaceOnUse",
        ),
    ),
    width="0",
    height="0",
    aria_hidden="true",
)
"""What the charts fill node-borne states with; once a page."""


def legend(states: Sequence[str]) -> Html:
    """Which colour is which."""
    marks = (
        el("li", el("svg", *_block(it, 0, 0, 12, 12, it), viewBox="0 0 12 12"), it) for it in states
    )
    return el("ul", join(*marks), class_="legend")


def _nice(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 0.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * it for it in (1, 2, 5, 10) if power * it >= value * (1 - 1e-9))


def meter(part: float) -> Html:
    """How much of the largest."""
    return el(
        "svg",
        el("rect", width="100", height="6", class_="track"),
        el("rect", width=place(100 * part), height="6", class_="fill"),
        viewBox="0 0 100 6",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
