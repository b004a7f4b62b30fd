"""What the HTML pages of advice share: no script, no font and no address, one file each. Pure.

Whatever comes from outside is escaped by `el`.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from gpucost.status.html import Html, el

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, styles: Iterable[str], *body: Html | None) -> str:
    """The whole file. `styles` are the packages beside this one whose page.css it takes."""
    folder = resources.files("gpucost.advice")
    css = "".join((folder / name / "page.css").read_text("utf-8") for name in styles)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", title),
        el("style", Html(css)),
    )
    return f"<!doctype html>\n{el('html', head, el('body', *body), lang='en')}\n"


def table(
    head: Sequence[str], lines: Iterable[Sequence[str]], *, words: int = 1, last: bool = False
) -> Html:
    """A table whose first `words` columns, and with `last` the last, are words; others figures."""
    rows = (row(line, words=words, last=last) for line in lines)
    return el(
        "div",
        el(
            "table",
            el("thead", row(head, words=words, last=last, cell="th")),
            el("tbody", *rows),
        ),
        class_="wide",
    )


def row(line: Sequence[str], *, words: int, last: bool, cell: str = "td") -> Html:
    """One line of such a table."""
    ends = len(line) - last
    return el(
        "tr",
        *(el(cell, it, class_="n" if words <= at < ends else None) for at, it in enumerate(line)),
    )


def place(value: float) -> str:
    """A coordinate or a length in SVG, to a hundredth."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
