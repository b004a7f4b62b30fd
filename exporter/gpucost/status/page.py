"""The page as a whole. Every figure comes from figures.py, every word goes through `el`."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from gpucost.status import cards, tables
from gpucost.status.html import Content, Html, el, join
from gpucost.status.pieces import bar, dollars, swatch
from gpucost.status.words import MEANINGS, UNKNOWN, age, count, moment, percent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpucost.status.view import Amount, View

REFRESH_SECONDS = 15

_WEIGHTS = "".join(f".w{n}{{flex-grow:{n}}}" for n in range(1, 201))
"""Widths of a bar's pieces, in half per cent. As classes, for a policy that allows one known
style block and no style attributes."""

STYLE = (resources.files("gpucost.status") / "page.css").read_text("utf-8") + _WEIGHTS

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


def document(view: View, version: str) -> Html:
    """Make the whole page."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="robots", content="noindex"),
        el("meta", http_equiv="refresh", content=str(REFRESH_SECONDS)),
        el("title", f"{view.node.name} · gpucost"),
        el("link", rel="icon", href="data:,"),
        Html(f"<style>{STYLE}</style>"),
    )
    body = el(
        "body",
        _masthead(view),
        el(
            "main",
            *_banners(view),
            _headline(view),
            cards.gpus(view),
            tables.pods(view),
            tables.ledger(view),
            tables.problems(view),
            tables.sources(view),
        ),
        _footer(view, version),
    )
    return join(Html("<!doctype html>\n"), el("html", head, body, lang="en"), Html("\n"))


def _masthead(view: View) -> Html:
    node = view.node
    facts = (
        node.instance_type,
        node.capacity_type.replace("_", " "),
        node.zone or node.region,
        node.node_pool,
        node.provider,
    )
    number = len(view.problems) + view.problems_left_out
    trouble = (
        el("a", f"{number} problem{'s' if number > 1 else ''} to mend", href="#problems")
        if number
        else el("span", "no problems", class_="well")
    )
    return el(
        "header",
        el("p", el("b", "gpucost"), " the GPU cost ledger of this node", class_="brand"),
        el("h1", el("bdi", view.node.name)),
        el("p", *(el("span", el("bdi", fact)) for fact in facts if fact), class_="facts"),
        el("p", trouble, el("span", "read ", moment(view.read_at)), class_="state"),
    )


def _banners(view: View) -> Iterable[Html]:
    if view.simulated:
        yield el(
            "p",
            el("b", "Simulated."),
            " This node, its GPUs, its pods and every dollar here are invented by the demo."
            " Nothing is being spent.",
            class_="banner",
            role="note",
        )
    if not view.config_in_force:
        yield el(
            "p",
            el("b", "The configuration on disk is not in force."),
            " It could not be used; the last good one goes on. See the problems below.",
            class_="banner",
            role="note",
        )


def _figure(label: str, amount: Amount, unit: str, note: Content, kind: str = "") -> Html:
    value = el("span", dollars(amount), class_="value")
    return el(
        "div",
        el("dt", label),
        el("dd", value, " ", el("span", unit, class_="unit")),
        el("dd", note, class_="note"),
        class_=f"figure {kind}".strip(),
    )


def _headline(view: View) -> Html:
    top = view.headline
    gpus = len(view.gpus) + view.gpus_left_out
    priced = f"{gpus - view.unpriced} of {gpus} GPUs priced" if view.unpriced else f"{gpus} GPUs"
    ratio = top.waste_ratio
    wasted = "share of spending unknown" if ratio is None else f"{percent(ratio)} of spending"
    since = f"{age(view.now - view.started_at)}, since {moment(view.started_at)[:16]}"
    figures = el(
        "dl",
        _figure("Spending now", top.spend, "USD/h", priced, "lead"),
        _figure("Wasted by pods now", top.waste, "USD/h", wasted, "lead waste"),
        _figure("Held by nobody now", top.unheld, "USD/h", "paid by the node"),
        _figure("This month", top.month_to_date, "USD", f"{view.month}, this node"),
        _figure("Since the ledger began", top.since_start, "USD", since),
        class_="figures",
    )
    whole = sum(s.gpus for s in view.slices)
    words = "; ".join(f"{s.state} {count(s.gpus)} GPUs" for s in view.slices)
    legend = el(
        "ul",
        *(
            el(
                "li",
                swatch(s.state),
                el("span", s.state),
                " ",
                el("b", count(s.gpus)),
                title=MEANINGS[s.state],
            )
            for s in view.slices
        ),
        class_="legend",
    )
    if not view.slices:
        return el("section", figures, class_="top", aria_label="Figures")
    drawn = bar([[s] for s in view.slices], whole, f"GPUs by state now: {words}")
    return el("section", figures, drawn, legend, class_="top", aria_label="Figures")


def _footer(view: View, version: str) -> Html:
    return el(
        "footer",
        el("p", f"gpucost {version} · ", el("a", "/metrics", href="/metrics")),
        el(
            "p",
            f"Written {moment(view.now)}; renews itself every {REFRESH_SECONDS} s.",
            " Amounts are USD at the prices in force; ",
            UNKNOWN,
            " means not known, never 0.",
        ),
    )
