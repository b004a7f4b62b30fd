"""The report as one page of HTML. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice import sheet
from gpucost.advice.report import charts, text
from gpucost.status.html import Html, el, join
from gpucost.status.words import money, percent

if TYPE_CHECKING:
    from gpucost.advice.report.document import Advice, Report


def page(report: Report) -> str:
    """The page."""
    heading = text.heading(report)
    return sheet.document(
        f"GPU cost report, {heading}",
        ("report",),
        charts.HATCH,
        el("header", el("p", el("b", "gpucost"), "GPU cost report"), el("h1", heading)),
        _figures(report),
        _remarks(report),
        _spend(report),
        _actions(report),
        _table(f"By {report.by}", text.rows(report)),
        _table("What was served", text.services(report), words=2) if report.services else None,
        _invoice(report),
        _how(report),
    )


def _figures(report: Report) -> Html:
    total = report.total

    def figure(name: str, value: str, beside: str, kind: str = "") -> Html:
        return el("div", el("dt", name), el("dd", value, el("small", beside)), class_=kind or None)

    part = percent(total.waste_usd / total.usd if total.usd else None)
    own = percent(total.nodes_usd / total.usd if total.usd else None)
    saved = percent(
        total.savings_usd_per_month / total.usd_per_month if total.usd_per_month else None
    )
    return el(
        "dl",
        figure("Spent", f"${money(total.usd)}", f"${money(total.usd_per_month)} a month"),
        figure("Wasted by holders", f"${money(total.waste_usd)}", f"{part} of it", "waste"),
        figure("Borne by nodes", f"${money(total.nodes_usd)}", f"{own} of it"),
        figure(
            "Could be saved a month",
            f"${money(total.savings_usd_per_month)}",
            f"{saved} of a month; confidence: {text.by_confidence(report)}",
            "save",
        ),
        class_="figures",
    )


def _remarks(report: Report) -> Html | None:
    if not report.remarks:
        return None
    items = (el("li", it.text) for it in report.remarks)
    return el("section", el("h2", "About these figures"), el("ul", *items), class_="remarks")


def _spend(report: Report) -> Html:
    parts = [(it.state, it.usd) for it in report.states]
    columns = [(it.day, it.states) for it in report.days]
    words = (
        (it.state, f"${money(it.usd)}", percent(it.usd / report.total.usd), it.meaning)
        for it in report.states
    )
    return el(
        "section",
        el("h2", "What the dollars did"),
        el("div", charts.bar(parts, "Spend by state"), class_="share"),
        charts.days(columns, "Spend of each day by state, USD") if len(columns) > 1 else None,
        charts.legend([it.state for it in report.states]),
        el(
            "table",
            el("tbody", *(sheet.row(line, words=1, last=True) for line in words)),
            class_="states",
        ),
    )


def _actions(report: Report) -> Html:
    most = max((it.usd_per_month for it in report.actions), default=0.0)
    return el(
        "section",
        el("h2", "What to do", el("small", "by what it saves a month")),
        el("ol", *(_action(it, most) for it in report.actions), class_="actions")
        if report.actions
        else el("p", "Nothing that is worth it."),
    )


def _action(it: Advice, most: float) -> Html:
    words = [el("p", it.do), el("p", it.why)]
    if it.expected:
        words.append(el("p", "Expected: ", it.expected))
    if it.instead:
        others = (
            el("li", "or: ", other.title, " ", el("b", f"${money(other.usd_per_month)}"))
            for other in it.instead
        )
        words.append(el("ul", *others, class_="instead"))
    queries = (
        join(el("p", f"{query.says}, at {query.at}"), el("pre", el("code", query.promql)))
        for query in it.evidence
    )
    over = el("em", "over by now") if it.ended else None
    return el(
        "li",
        el(
            "div",
            el("b", f"${money(it.usd_per_month)}", class_="usd"),
            charts.meter(it.usd_per_month / most if most else 0.0),
            class_="worth",
        ),
        el(
            "div",
            el("h3", it.title, over),
            *words,
            el(
                "p",
                el("span", f"confidence {it.confidence}", class_=f"tag c-{it.confidence}"),
                el("span", f"risk {it.risk}", class_=f"tag r-{it.risk}"),
                it.risk_words,
                class_="risk",
            ),
            el("details", el("summary", "How to check it"), *queries) if it.evidence else None,
        ),
    )


def _table(title: str, table: text.Table, *, words: int = 1, last: bool = False) -> Html:
    return el("section", el("h2", title), sheet.table(*table, words=words, last=last))


def _invoice(report: Report) -> Html | None:
    if report.invoice is None:
        return None
    title = f"Invoice {report.invoice.file} ({report.invoice.form}) beside the ledger"
    return _table(title, text.invoice_rows(report.invoice), last=True)


def _how(report: Report) -> Html:
    scope = report.scope
    said = "their exporters' ledgers" if report.total.by_ledger else "rates of cost"
    return el(
        "footer",
        f"Made by gpucost {report.gpucost} at {report.generated_at} from {scope.seen_hours:,.0f}"
        f" hours of records; the total is by {said}. A month is 730 hours. Days are those of"
        f" {scope.time_zone}. Savings count every dollar once: first what can be given back, then"
        " what fits smaller, then a lower price for the rest.",
    )
