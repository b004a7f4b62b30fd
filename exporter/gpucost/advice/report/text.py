"""The report as plain text, for a terminal, and as Markdown. Pure."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

from gpucost.advice.terminal import columns
from gpucost.status.words import money, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpucost.advice.report.document import Invoice, Report

NODES_OWN = "(borne by nodes)"
MOST_ROWS = 30
_SHORT = 5

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Head and rows; all but the first column are figures."""


def summary(report: Report) -> list[tuple[str, str]]:
    """The figures at the top: name and value."""
    total = report.total
    spent, saved = total.usd, total.savings_usd_per_month
    part = _part(saved, total.usd_per_month)
    return [
        ("spent", f"{money(spent)} USD, {money(total.usd_per_month)} a month"),
        ("wasted by holders", f"{money(total.waste_usd)} USD, {_part(total.waste_usd, spent)}"),
        ("borne by nodes", f"{money(total.nodes_usd)} USD, {_part(total.nodes_usd, spent)}"),
        ("could be saved", f"{money(saved)} USD a month, {part} of it ({by_confidence(report)})"),
    ]


def by_confidence(report: Report) -> str:
    """How sure the savings are, and what of them is of work that has ended."""
    levels = report.total.savings_by_confidence.items()
    words = ", ".join(f"{level} {money(usd)}" for level, usd in levels if usd)
    over = sum(it.usd_per_month for it in report.actions if it.ended)
    return f"{words}; {money(over)} over by now" if over else words


def _part(usd: float, of: float) -> str:
    return percent(usd / of if of else None)


def states(report: Report) -> Table:
    """Dollars by state."""
    return ("state", "USD", "share", "meaning"), [
        (it.state, money(it.usd), _part(it.usd, report.total.usd), it.meaning)
        for it in report.states
    ]


def rows(report: Report) -> Table:
    """Dollars by what the report is by; the smallest together."""
    shown, rest = report.rows[:MOST_ROWS], report.rows[MOST_ROWS:]
    lines: list[tuple[str, ...]] = [
        (
            it.name or NODES_OWN,
            money(it.usd),
            _part(it.usd, report.total.usd),
            money(it.waste_usd),
            percent(it.activity),
            money(it.savings_usd_per_month),
        )
        for it in shown
    ]
    if rest:
        usd = sum(it.usd for it in rest)
        lines.append((f"{len(rest)} more", money(usd), _part(usd, report.total.usd), "", "", ""))
    head: tuple[str, ...] = (
        *(report.by, "USD", "share", "wasted", "activity"),
        "could save/month",
    )
    return head, lines


def services(report: Report) -> Table:
    """What was served, and what it cost."""
    head = ("workload", "model", "USD", "requests", "USD/request", "USD/M tokens", "cache", "batch")
    return head, [
        (
            f"{it.namespace}/{it.workload}",
            ", ".join(it.served_models),
            money(it.usd),
            _count(it.requests),
            _small(it.usd_per_request),
            money(it.usd_per_million_tokens),
            percent(it.cache_hit_ratio),
            "—" if it.mean_batch is None else f"{it.mean_batch:.1f}",
        )
        for it in report.services[:MOST_ROWS]
    ]


def invoice_rows(invoice: Invoice) -> Table:
    """Invoice and ledger by instance type."""
    head = ("instance type", "invoice USD", "ledger USD", "factor", "why they differ")
    return head, [
        (
            it.instance_type,
            money(it.invoice_usd),
            money(it.ledger_usd),
            "—" if it.factor is None else f"{it.factor:.4f}",
            it.reason,
        )
        for it in invoice.types
    ]


def _count(number: float | None) -> str:
    return "—" if number is None else f"{number:,.0f}"


def _small(usd: float | None) -> str:
    return "—" if usd is None else f"{usd:.6f}"


def heading(report: Report) -> str:
    """Of which time and place it is."""
    scope = report.scope
    named = [it for it in scope.clusters if it]
    where = f", cluster{'s' * (len(named) > 1)} {', '.join(named)}" if named else ""
    start, end = (it[:16].replace("T", " ") for it in (scope.start, scope.end))
    return f"{start} to {end} UTC{where}"


def short(report: Report) -> str:
    """A message: the figures and the first things to do."""
    lines = [f"GPU cost report, {heading(report)}"]
    lines += [f"{name}: {value}" for name, value in summary(report)]
    lines += [
        f"{it.rank}. {it.title}: {money(it.usd_per_month)} USD a month"
        for it in report.actions[:_SHORT]
    ]
    return "\n".join(map(_clean, lines))


# --- Terminal -------------------------------------------------------------------------------------


def terminal(report: Report, width: int) -> str:
    """Plain text of at most so many columns, where words allow it."""
    return "\n".join(_terminal(report, max(60, width))) + "\n"


def _terminal(report: Report, width: int) -> Iterator[str]:
    yield _clean(f"GPU cost report  {heading(report)}")
    yield ""
    for name, value in summary(report):
        yield f"  {name:<18} {value}"
    if report.remarks:
        yield ""
        yield "About these figures"
        for remark in report.remarks:
            yield textwrap.fill(
                _clean(remark.text), width, initial_indent="  - ", subsequent_indent="    "
            )
    yield ""
    yield "What to do, by what it saves a month"
    if not report.actions:
        yield "  Nothing that is worth it."
    for it in report.actions:
        over = "  (over by now)" if it.ended else ""
        yield textwrap.fill(
            _clean(f"{it.title}{over}"),
            width,
            initial_indent=f"{it.rank:>3}  {money(it.usd_per_month):>12}  ",
            subsequent_indent=" " * 19,
        )
        words = f"{it.do} {it.why} Confidence {it.confidence}, risk {it.risk}: {it.risk_words}"
        if it.expected:
            words += f" Expected: {it.expected}"
        yield textwrap.fill(
            _clean(words), width, initial_indent=" " * 19, subsequent_indent=" " * 19
        )
        for other in it.instead[:3]:
            yield textwrap.fill(
                _clean(f"or: {other.title}, {money(other.usd_per_month)} a month"),
                width,
                initial_indent=" " * 19,
                subsequent_indent=" " * 23,
            )
    yield ""
    yield _aligned(rows(report))
    if report.services:
        yield ""
        yield _aligned(services(report), words=2)
    yield ""
    yield _aligned(states(report), last=True)
    if report.invoice is not None:
        yield ""
        yield (
            f"Invoice {report.invoice.file} ({report.invoice.form}):"
            f" {money(report.invoice.invoice_usd)} USD, ledger"
            f" {money(report.invoice.ledger_usd)} USD"
        )
        yield _aligned(invoice_rows(report.invoice), last=True)


def _aligned(table: Table, *, words: int = 1, last: bool = False) -> str:
    """Columns; the first ones, and where said the last, are words."""
    head, lines = table
    cells = [[_clean(cell) for cell in line] for line in lines]
    return textwrap.indent(columns(head, cells, words, last=last), "  ").rstrip("\n")


def _clean(text: str) -> str:
    """Without what moves a terminal's cursor: names are others'."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


# --- Markdown -------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """As GitHub and others read it."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: Report) -> Iterator[str]:
    yield "# GPU cost report"
    yield ""
    yield _escaped(heading(report))
    yield ""
    yield from _piped(("", ""), [(name, value) for name, value in summary(report)])
    if report.remarks:
        yield ""
        yield "## About these figures"
        yield ""
        yield from (f"- {_escaped(it.text)}" for it in report.remarks)
    yield ""
    yield "## What to do"
    for it in report.actions:
        yield ""
        over = " (over by now)" if it.ended else ""
        yield f"### {it.rank}. {_escaped(it.title)}: {money(it.usd_per_month)} USD a month{over}"
        yield ""
        yield f"{_escaped(it.do)} {_escaped(it.why)}"
        yield ""
        yield (
            f"Confidence {it.confidence}, risk {it.risk}: {_escaped(it.risk_words)}"
            + (f" Expected: {_escaped(it.expected)}" if it.expected else "")
        )
        if it.instead:
            yield ""
            yield from (
                f"- or: {_escaped(other.title)}, {money(other.usd_per_month)} USD a month"
                for other in it.instead
            )
        for query in it.evidence:
            yield ""
            yield f"{_escaped(query.says)}, at {query.at}:"
            yield ""
            yield f"    {_clean(query.promql)}"
    if not report.actions:
        yield ""
        yield "Nothing that is worth it."
    tables = [(f"By {report.by}", rows(report)), ("By state", states(report))]
    if report.services:
        tables.append(("What was served", services(report)))
    if report.invoice is not None:
        tables.append((f"Invoice {report.invoice.file}", invoice_rows(report.invoice)))
    for title, table in tables:
        yield ""
        yield f"## {_escaped(title)}"
        yield ""
        yield from _piped(*table)


def _piped(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(_escaped(cell) for cell in head)} |"
    yield f"|{'---|' * len(head)}"
    for line in lines:
        yield f"| {' | '.join(_escaped(cell) for cell in line)} |"


def _escaped(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", _clean(text))
