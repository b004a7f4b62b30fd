"""Small pieces that the page is put together from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.status.html import Content, Html, el
from gpucost.status.words import MEANINGS, UNKNOWN, money, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpucost.model import Holder
    from gpucost.status.view import Amount, Slice


def unknown(why: str) -> Html:
    """Write what is not known, and why."""
    return el(
        "span",
        el("span", UNKNOWN, aria_hidden="true"),
        el("span", "unknown", class_="aside"),
        class_="unknown",
        title=why,
    )


def dollars(amount: Amount, why: str = "No price") -> Html:
    """Write an amount; one that lacks parts is `at least` itself."""
    if amount.usd is None:
        return unknown(why)
    if amount.complete:
        return el("span", money(amount.usd))
    part = "Some parts are not priced or not measured, and are not in this sum"
    return el("span", el("span", "≥", class_="least"), money(amount.usd), title=part)


def swatch(slice_state: str) -> Html:
    """Make the mark that ties a word to its colour and pattern."""
    return el("i", class_=f"swatch {slice_state}", aria_hidden="true")


def shares(slices: Sequence[Slice]) -> str:
    """Write a bar in words: `used 86 %, underused 14 %`."""
    whole = sum(s.gpus for s in slices)
    if len(slices) == 1:
        return str(slices[0].state)
    return ", ".join(f"{s.state}\N{NO-BREAK SPACE}{percent(s.gpus / whole)}" for s in slices)


def _piece(state: str, weight: float, title: str) -> Html:
    width = min(200, max(1, round(weight * 200)))
    return el("span", class_=f"piece {state} w{width}", title=title)


def bar(groups: Sequence[Sequence[Slice]], whole: float, words: str) -> Html:
    """Draw a stacked bar of `whole` GPUs; groups are set apart. Its words are read aloud."""
    drawn = [
        el(
            "span",
            *(_piece(s.state, s.gpus / whole, f"{s.state}: {MEANINGS[s.state]}") for s in slices),
            class_=f"group w{min(200, max(1, round(sum(s.gpus for s in slices) / whole * 200)))}",
        )
        for slices in groups
        if slices and whole > 0
    ]
    return el("div", *drawn, class_="bar", role="img", aria_label=words)


def holder_name(holder: Holder) -> Html:
    """Write namespace and pod, each kept from turning the other around."""
    return el(
        "span",
        el("bdi", holder.namespace, "/", class_="namespace"),
        el("bdi", holder.pod, class_="name"),
        class_="holder",
    )


def section(heading: str, slug: str, *content: Content, note: Content = None) -> Html:
    """Make a section that links can lead to."""
    return el(
        "section",
        el("h2", heading, el("small", note) if note else None, id=f"{slug}-heading"),
        *content,
        id=slug,
        aria_labelledby=f"{slug}-heading",
    )


def left_out(number: int, what: str, note: str = "") -> Html | None:
    """Say how many did not fit; nothing where all did."""
    return el("p", f"and {number} more {what}{note}", class_="more") if number else None


def table(name: str, caption: str, columns: Iterable[tuple[str, str]], *groups: Html) -> Html:
    """Make a table. Roles are stated: on a phone its rows are drawn as cards, and browsers then
    forget that it is a table."""  # noqa: D205, D209 - one sentence and its reason
    head = el(
        "tr",
        *(
            el("th", title, class_=kind, scope="col", role="columnheader")
            for title, kind in columns
        ),
        role="row",
    )
    return el(
        "table",
        el("caption", caption, class_="aside"),
        el("thead", head, role="rowgroup"),
        *groups,
        class_=name,
        role="table",
    )


def tr(*cells: Html, class_: str | None = None) -> Html:
    """Make a row."""
    return el("tr", *cells, role="row", class_=class_)


def th(*content: Content) -> Html:
    """Make the cell that names a row."""
    return el("th", *content, scope="row", role="rowheader")


def td(label: str, *content: Content, kind: str = "") -> Html:
    """Make a cell; its label stands beside it where there is no room for columns."""
    return el("td", *content, class_=kind or None, data_label=label, role="cell")
