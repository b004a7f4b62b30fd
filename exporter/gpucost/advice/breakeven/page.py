"""What was found as one page of HTML. Pure."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING

from gpucost.advice import sheet
from gpucost.advice.breakeven import text
from gpucost.advice.sheet import place
from gpucost.advice.terminal import usd
from gpucost.status.html import Html, el, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpucost.advice.breakeven.cross import Outcome

_STYLES = ("report", "breakeven")
_WIDTH, _HEIGHT = 960.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 76.0, 12.0, 14.0, 44.0
_DECADES = 3
"""Either side of the demand, that are drawn: further out, nothing changes any more."""

_EVERY = 2
"""Of the points, which stand closer than lines are wide."""


def page(outcome: Outcome, remarks: Sequence[str] = ()) -> str:
    """The page."""
    subject = list(text.subject(outcome.demand))
    best = outcome.costs[0]
    return sheet.document(
        "gpucost break-even",
        _STYLES,
        el("header", el("p", el("b", "gpucost"), " break-even"), el("h1", subject[0])),
        el("p", subject[1], ". ", *(f"{it[0].upper()}{it[1:]}. " for it in remarks), class_="lead"),
        el(
            "p",
            el("b", best.way.name),
            f" is the cheapest here: {usd(best.usd_per_month)} USD a month.",
            class_="answer",
        ),
        el(
            "section", el("h2", "By requests"), _chart(outcome), _legend(outcome), _verdict(outcome)
        ),
        el("section", el("h2", "At this demand"), sheet.table(*text.table(outcome))),
        el(
            "section",
            el("h2", "To know"),
            el("ul", *(el("li", it) for it in text.notes(outcome)), class_="notes"),
        ),
    )


def _verdict(outcome: Outcome) -> Html:
    return el("ul", *(el("li", line) for line in text.verdict(outcome)), class_="notes")


def _legend(outcome: Outcome) -> Html:
    marks = (
        el(
            "li",
            el("svg", el("path", d="M0 6H22", class_=f"line c{n}"), viewBox="0 0 22 12"),
            curve.way.name,
        )
        for n, curve in enumerate(text.drawn(outcome))
    )
    return el("ul", join(*marks), class_="legend ways")


def _chart(outcome: Outcome) -> Html:
    """USD a month over requests a second, both scales logarithmic."""
    middle = outcome.demand.mean or outcome.rates[len(outcome.rates) // 2]
    shown = [
        n
        for n, rate in enumerate(outcome.rates)
        if middle / 10**_DECADES <= rate <= middle * 10**_DECADES
    ][::_EVERY]
    curves = text.drawn(outcome)
    values = [curve.usd_per_month[n] for curve in curves for n in shown]
    values = [value for value in values if value > 0]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    left, right = log10(outcome.rates[shown[0]]), log10(outcome.rates[shown[-1]])

    def x(rate: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (log10(rate) - left) / (right - left)

    def y(value: float) -> float:
        room = _HEIGHT - _TOP - _BOTTOM
        return _TOP + room * (high - log10(value)) / max(1, high - low)

    parts = []
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(_line(_LEFT, at, _WIDTH - _RIGHT, at, "grid"))
        parts.append(
            el("text", _short(10.0**power), x=place(_LEFT - 8), y=place(at + 4), class_="end")
        )
    for power in range(ceil(left), floor(right) + 1):
        at = x(10.0**power)
        parts.append(_line(at, _TOP, at, _HEIGHT - _BOTTOM, "grid"))
        words = text.rate(10.0**power).replace(" requests", "")
        parts.append(el("text", words, x=place(at), y=place(_HEIGHT - 24), class_="middle"))
    parts.append(el("text", "requests", x=place(_WIDTH / 2), y=place(_HEIGHT - 6), class_="middle"))
    here = x(middle)
    parts.append(_line(here, _TOP, here, _HEIGHT - _BOTTOM, "here"))
    for number, curve in reversed(list(enumerate(curves))):
        points = " ".join(
            f"{place(x(outcome.rates[n]))},{place(y(curve.usd_per_month[n]))}"
            for n in shown
            if curve.usd_per_month[n] > 0
        )
        title = el("title", curve.way.name)
        parts.append(el("polyline", title, points=points, class_=f"line c{number}"))
    words = "USD a month of each way, by requests a second"
    return el(
        "svg",
        el("title", words),
        *parts,
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_label=words,
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return el("line", x1=place(x1), y1=place(y1), x2=place(x2), y2=place(y2), class_=kind)


def _short(value: float) -> str:
    """Dollars at an axis: `100k`."""
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= least:
            return f"{value / least:g}{unit}"
    return f"{value:g}"
