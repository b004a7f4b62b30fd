"""The tables: pods, the ledger by state, problems and sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.model import WASTE_STATES, Method
from gpucost.status.html import Content, Html, el
from gpucost.status.pieces import (
    bar,
    dollars,
    holder_name,
    left_out,
    section,
    shares,
    swatch,
    table,
    td,
    th,
    tr,
    unknown,
)
from gpucost.status.words import (
    MEANINGS,
    age,
    count,
    duration,
    gibibytes,
    hours,
    moment,
    money,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpucost.model import Problem, SourceStatus
    from gpucost.status.view import PodRow, StateLine, View

_METHODS = {
    Method.EXCLUSIVE: "whole GPUs, held alone",
    Method.MIG: "MIG instances: slices held / slices in all",
    Method.REPLICAS: "replicas held / replicas offered",
    Method.EVEN: "split evenly between its holders",
}


_POD_COLUMNS = (
    ("Pod", ""),
    ("Workload", ""),
    ("Holds", ""),
    ("Busy", "number"),
    ("Memory, GiB", "number"),
    ("State", ""),
    ("USD/h", "number"),
    ("Waste USD/h", "number"),
    ("Total USD", "number"),
)


def pods(view: View) -> Html:
    """Make the section of the pods."""
    if not view.pods:
        return section("Pods", "pods", el("p", "No pod is known to hold a GPU.", class_="empty"))
    body = table(
        "pods",
        "Pods that hold GPUs, the most wasteful first",
        _POD_COLUMNS,
        el("tbody", *(_pod(row) for row in view.pods), role="rowgroup"),
    )
    rest = view.pods_left_out
    cost = sum(row.usd_per_hour.usd or 0 for row in rest)
    more = left_out(len(rest), "pods", f", together {money(cost)} USD/h")
    return section("Pods", "pods", body, more, note="the most wasteful first")


def _pod(row: PodRow) -> Html:
    holder = row.holder
    no_signal = "No activity signal"
    workload: list[Content] = [unknown("Not known yet")]
    if row.workload:
        workload = [el("bdi", row.workload)]
    about = [text for text in (row.workload_kind, row.team and f"team {row.team}") if text]
    how = ", ".join(row.methods)
    why = "; ".join(_METHODS[method] for method in row.methods)
    reasons = [
        el("span", str(s.state), " ", dollars(s.usd_per_hour), class_="reason")
        for s in row.slices
        if s.state in WASTE_STATES and (len(row.slices) > 1 or row.waste.usd)
    ]
    return tr(
        th(
            holder_name(holder),
            el("small", el("bdi", holder.container)),
        ),
        td("Workload", *workload, el("small", *_words(about)) if about else None),
        td(
            "Holds",
            count(row.gpus),
            " GPU" if count(row.gpus) == "1" else " GPUs",
            el("small", *_words((", ".join(row.devices), how)), title=why),
        ),
        td(
            "Busy",
            unknown(no_signal) if row.activity is None else percent(row.activity),
            kind="number",
        ),
        td(
            "Memory, GiB",
            unknown("Memory in use is not known")
            if row.memory_used_bytes is None
            else gibibytes(row.memory_used_bytes),
            kind="number",
        ),
        td("State", *_state_of(row), kind="states"),
        td("USD/h", dollars(row.usd_per_hour), kind="number"),
        td(
            "Waste USD/h",
            el(
                "span",
                dollars(row.waste, "No price, or no activity signal"),
                class_="loss" if row.waste.usd else None,
            ),
            el("small", *reasons) if reasons else None,
            kind="number",
        ),
        td("Total USD", dollars(row.total), kind="number total"),
    )


def _words(words: Iterable[str]) -> Iterable[Html]:
    """Set some words apart, on one line where there is room."""
    for word in words:
        yield el("span", el("bdi", word), class_="word")
        yield Html(" ")


def _state_of(row: PodRow) -> Iterable[Html]:
    words = shares(row.slices)
    yield bar([row.slices], row.gpus, words)
    yield el("small", words)


# --- The ledger -------------------------------------------------------------------------------

_LEDGER_COLUMNS = (
    ("State", ""),
    ("Paid by", ""),
    ("GPUs", "number"),
    ("USD/h", "number"),
    ("GPU-hours", "number"),
    ("Total USD", "number"),
)


def ledger(view: View) -> Html:
    """Make the section of the ledger by state, with its total."""
    if not view.lines:
        nothing = el("p", "Nothing has been charged yet.", class_="empty")
        return section("Ledger", "ledger", nothing)
    top = view.headline
    foot = tr(
        th("All of it"),
        td("Paid by"),
        td("GPUs", count(sum(line.gpus for line in view.lines)), kind="number"),
        td("USD/h", dollars(top.spend), kind="number"),
        td("GPU-hours", hours(sum(line.gpu_hours for line in view.lines)), kind="number"),
        td("Total USD", dollars(top.since_start), kind="number"),
    )
    body = table(
        "ledger",
        "Every GPU-second in exactly one state, now and since the ledger began",
        _LEDGER_COLUMNS,
        el("tbody", *(_line(line) for line in view.lines), role="rowgroup"),
        el("tfoot", foot, role="rowgroup"),
    )
    return section(
        "Ledger",
        "ledger",
        body,
        _balance(view),
        note="every GPU-second in exactly one state",
    )


def _line(line: StateLine) -> Html:
    return tr(
        th(swatch(line.state), el("span", line.state), el("small", MEANINGS[line.state])),
        td("Paid by", f"the {line.paid_by}"),
        td("GPUs", count(line.gpus), kind="number"),
        td("USD/h", dollars(line.usd_per_hour), kind="number"),
        td("GPU-hours", hours(line.gpu_hours), kind="number"),
        td("Total USD", dollars(line.usd), kind="number"),
    )


def _balance(view: View) -> Html:
    """Say whether the books balance: within float error of the bill."""
    bill = view.headline.since_start.usd or 0.0
    off = view.imbalance_usd
    if abs(off) <= 1e-6 * max(1.0, bill):
        return el(
            "p", "Balanced: holders and node together were charged the bill.", class_="balance"
        )
    return el(
        "p",
        el("b", f"Out of balance by {money(off)} USD."),
        " What was charged differs from the bill. Please report this with `gpucost record`.",
        class_="balance off",
    )


# --- Problems and sources ---------------------------------------------------------------------


def problems(view: View) -> Html:
    """Make the section of the problems."""
    if not view.problems:
        return section("Problems", "problems", el("p", "None.", class_="empty"))
    items = el("ul", *(_problem(problem) for problem in view.problems), class_="problems")
    return section("Problems", "problems", items, left_out(view.problems_left_out, "problems"))


def _problem(problem: Problem) -> Html:
    return el(
        "li",
        el("p", el("b", problem.source), " ", el("code", problem.kind), class_="kind"),
        el("p", el("bdi", problem.message)),
        el("p", el("bdi", problem.remedy), class_="remedy") if problem.remedy else None,
    )


_SOURCE_COLUMNS = (
    ("Source", ""),
    ("State", ""),
    ("Last success", "number"),
    ("Took", "number"),
)


def sources(view: View) -> Html:
    """Make the section of the sources."""
    if not view.sources:
        return section("Sources", "sources", el("p", "None was asked yet.", class_="empty"))
    rows = (_source(source, view.now) for source in view.sources)
    body = table(
        "sources",
        "Where the readings come from",
        _SOURCE_COLUMNS,
        el("tbody", *rows, role="rowgroup"),
    )
    return section("Sources", "sources", body, left_out(view.sources_left_out, "sources"))


def _source(source: SourceStatus, now: float) -> Html:
    if source.last_success is None:
        last: Content = unknown("Never yet")
    else:
        last = el("span", age(now - source.last_success), " ago", title=moment(source.last_success))
    up = el("span", "up" if source.up else "down", class_="up" if source.up else "down")
    return tr(
        th(source.source),
        td("State", up),
        td("Last success", last, kind="number"),
        td("Took", duration(source.duration_seconds), kind="number"),
        class_=None if source.up else "bad",
    )
