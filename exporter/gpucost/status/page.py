"""The status page in HTML. Every figure comes from view.py, every word on it goes through `el`."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from gpucost.model import WASTE_STATES, Method
from gpucost.status.html import Content, Html, el, join
from gpucost.status.words import (
    MEANINGS,
    UNKNOWN,
    age,
    count,
    duration,
    gibibytes,
    moment,
    money,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpucost.model import Holder, Problem, SourceStatus
    from gpucost.status.view import Amount, GpuCard, Part, PodRow, Slice, StateLine, View

REFRESH_SECONDS = 15

_WEIGHTS = "".join(f".w{n}{{flex-grow:{n}}}" for n in range(1, 201))
"""Widths of a bar's pieces, in half per cent. As classes, for a policy that allows one known
style block and no style attributes."""

STYLE = (resources.files("gpucost.status") / "page.css").read_text("utf-8") + _WEIGHTS

_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

_METHODS = {
    Method.EXCLUSIVE: "whole GPUs, held alone",
    Method.MIG: "MIG instances: slices held / slices in all",
    Method.REPLICAS: "replicas held / replicas offered",
    Method.EVEN: "split evenly between its holders",
}


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
            _gpus(view),
            _pods(view),
            _ledger(view),
            _problems(view),
            _sources(view),
        ),
        _footer(view, version),
    )
    return join(Html("<!doctype html>\n"), el("html", head, body, lang="en"), Html("\n"))


# --- Small pieces -----------------------------------------------------------------------------


def _unknown(why: str) -> Html:
    """Write what is not known, and why."""
    return el(
        "span",
        el("span", UNKNOWN, aria_hidden="true"),
        el("span", "unknown", class_="aside"),
        class_="unknown",
        title=why,
    )


def _amount(amount: Amount, why: str = "No price") -> Html:
    """Write an amount; one that lacks parts is `at least` itself."""
    if amount.usd is None:
        return _unknown(why)
    if amount.complete:
        return el("span", money(amount.usd))
    part = "Some parts are not priced or not measured, and are not in this sum"
    return el("span", "≥\N{NO-BREAK SPACE}", money(amount.usd), title=part)


def _swatch(slice_state: str) -> Html:
    return el("i", class_=f"swatch {slice_state}", aria_hidden="true")


def _shares(slices: Sequence[Slice]) -> str:
    """Write a bar in words: `used 86 %, underused 14 %`."""
    whole = sum(s.gpus for s in slices)
    if len(slices) == 1:
        return str(slices[0].state)
    return ", ".join(f"{s.state} {percent(s.gpus / whole)}" for s in slices)


def _piece(state: str, weight: float, title: str) -> Html:
    width = min(200, max(1, round(weight * 200)))
    return el("span", class_=f"piece {state} w{width}", title=title)


def _bar(groups: Sequence[Sequence[Slice]], whole: float, words: str) -> Html:
    """Draw a stacked bar of `whole` GPUs; groups are set apart. Its words are read aloud."""
    drawn = [
        el(
            "span",
            *(
                _piece(s.state, s.gpus / whole, f"{s.state}: {MEANINGS[s.state]}")
                for s in slices
            ),
            class_=f"group w{min(200, max(1, round(sum(s.gpus for s in slices) / whole * 200)))}",
        )
        for slices in groups
        if slices and whole > 0
    ]
    return el("div", *drawn, class_="bar", role="img", aria_label=words)


def _holder(holder: Holder) -> Html:
    return el(
        "span",
        el("span", holder.namespace, "/", class_="namespace"),
        el("bdi", holder.pod, class_="name"),
        class_="holder",
    )


def _section(heading: str, slug: str, *content: Content, note: Content = None) -> Html:
    return el(
        "section",
        el("h2", heading, el("small", note) if note else None, id=f"{slug}-heading"),
        *content,
        id=slug,
        aria_labelledby=f"{slug}-heading",
    )


def _left_out(number: int, what: str, note: str = "") -> Html | None:
    return el("p", f"and {number} more {what}{note}", class_="more") if number else None


def _table(name: str, caption: str, columns: Iterable[tuple[str, str]], *groups: Html) -> Html:
    """Make a table. Roles are stated: on a phone its rows are drawn as cards, and browsers then
    forget that it is a table."""  # noqa: D205, D209 - one sentence and its reason
    head = el(
        "tr",
        *(el("th", title, class_=kind, scope="col", role="columnheader") for title, kind in columns),
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


def _row(*cells: Html, class_: str | None = None) -> Html:
    return el("tr", *cells, role="row", class_=class_)


def _name(*content: Content) -> Html:
    """Make the cell that names a row."""
    return el("th", *content, scope="row", role="rowheader")


def _cell(label: str, *content: Content, kind: str = "") -> Html:
    return el("td", *content, class_=kind or None, data_label=label, role="cell")


# --- Top --------------------------------------------------------------------------------------


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
    value = el("span", _amount(amount), class_="value")
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
                _swatch(s.state),
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
    bar = _bar([[s] for s in view.slices], whole, f"GPUs by state now: {words}")
    return el("section", figures, bar, legend, class_="top", aria_label="Figures")


# --- GPUs -------------------------------------------------------------------------------------


def _gpus(view: View) -> Html:
    if not view.gpus:
        nothing = el("p", "No GPU has been seen on this node.", class_="empty")
        return _section("GPUs", "gpus", nothing)
    cards = el("ol", *(_card(card) for card in view.gpus), class_="gpus")
    return _section("GPUs", "gpus", cards, _left_out(view.gpus_left_out, "GPUs"))


def _card(card: GpuCard) -> Html:
    reading, device = card.reading, card.reading.device
    price = card.price
    if price is None or price.usd_per_hour is None:
        cost = el("span", _unknown("No price: see the problems"), " no price", class_="price")
    else:
        detail = f"{price.source.replace('_', ' ')}, {price.split.replace('_', ' ')}"
        about = f"{detail}: {price.detail}" if price.detail else detail
        mark = "≈\N{NO-BREAK SPACE}" if price.estimated else ""
        cost = el("span", mark, el("b", money(price.usd_per_hour)), " USD/h", class_="price",
                  title=about)  # fmt: skip
    words = "; ".join(_part_words(part) for part in card.parts)
    return el(
        "li",
        el(
            "h3",
            el("span", card.name),
            " ",
            el("small", el("bdi", device.model), title=device.uuid),
            cost,
        ),
        *(el("p", el("b", "Unusable: "), el("bdi", fault), class_="fault")
          for fault in reading.faults),
        _bar([part.slices for part in card.parts], 1.0, f"{card.name}: {words}"),
        el("ul", *(_part(part) for part in card.parts), class_="parts"),
        _left_out(card.parts_left_out, "parts"),
        _readings(card),
        class_="gpu",
    )  # fmt: skip


def _part_words(part: Part) -> str:
    who = "nobody" if part.holder is None else f"{part.holder.namespace}/{part.holder.pod}"
    return f"{_profile(part)} {who} {_shares(part.slices)}".strip()


def _profile(part: Part) -> str:
    if not part.profile:
        return ""
    return part.profile if part.count == 1 else f"{part.count} × {part.profile}"


def _part(part: Part) -> Html:
    swatch = _swatch(part.slices[0].state) if part.slices else None
    who = (
        el("span", "nobody", class_="nobody") if part.holder is None else _holder(part.holder)
    )
    profile = _profile(part)
    return el(
        "li",
        swatch,
        el("span", profile, class_="profile") if profile else None,
        who,
        el("span", _shares(part.slices), class_="what"),
    )


def _readings(card: GpuCard) -> Html:
    """Write what the device shows of itself."""
    reading = card.reading
    own = reading.reading
    facts: list[tuple[str, Content]] = []
    if reading.device.mig is not None:
        facts.append(("mode", f"MIG, {len(reading.device.mig)} instances"))
    elif own.activity is None:
        facts.append(("busy", _unknown("No activity signal")))
    else:
        signal = f"signal: {own.activity.signal}"
        facts.append(("busy", el("span", percent(own.activity.ratio), title=signal)))
    used, whole = own.memory_used_bytes, reading.device.memory_bytes
    memory: Content = _unknown("Memory in use is not known")
    if used is not None:
        memory = f"{gibibytes(used)} of {gibibytes(whole)} GiB"
    facts.append(("memory", memory))
    watts, celsius = reading.power_watts, reading.temperature_celsius
    facts.append(("power", _unknown("Power is not known") if watts is None else f"{watts:.0f} W"))
    facts.append(
        (
            "temperature",
            _unknown("Temperature is not known") if celsius is None else f"{celsius:.0f} °C",
        )
    )
    if not reading.seen:
        facts.append(("reading", _unknown("No source could look this time")))
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in facts),
        class_="readings",
    )


# --- Pods -------------------------------------------------------------------------------------

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


def _pods(view: View) -> Html:
    if not view.pods:
        return _section("Pods", "pods", el("p", "No pod is known to hold a GPU.", class_="empty"))
    table = _table(
        "pods",
        "Pods that hold GPUs, the most wasteful first",
        _POD_COLUMNS,
        el("tbody", *(_pod(row) for row in view.pods), role="rowgroup"),
    )
    rest = view.pods_left_out
    cost = sum(row.usd_per_hour.usd or 0 for row in rest)
    more = _left_out(len(rest), "pods", f", together {money(cost)} USD/h")
    return _section("Pods", "pods", table, more, note="the most wasteful first")


def _pod(row: PodRow) -> Html:
    holder = row.holder
    no_signal = "No activity signal"
    workload: list[Content] = [_unknown("Not known yet")]
    if row.workload:
        workload = [el("bdi", row.workload)]
    about = [part for part in (row.workload_kind, row.team and f"team {row.team}") if part]
    how = ", ".join(row.methods)
    why = "; ".join(_METHODS[method] for method in row.methods)
    reasons = [
        el("span", str(s.state), " ", _amount(s.usd_per_hour), class_="reason")
        for s in row.slices
        if s.state in WASTE_STATES and (len(row.slices) > 1 or row.waste.usd)
    ]
    return _row(
        _name(
            _holder(holder),
            el("small", el("bdi", holder.container)),
        ),
        _cell("Workload", *workload, el("small", el("bdi", " · ".join(about))) if about else None),
        _cell(
            "Holds",
            count(row.gpus),
            " GPU" if count(row.gpus) == "1" else " GPUs",
            el("small", ", ".join(row.devices), " · ", how, title=why),
        ),
        _cell(
            "Busy",
            _unknown(no_signal) if row.activity is None else percent(row.activity),
            kind="number",
        ),
        _cell(
            "Memory, GiB",
            _unknown("Memory in use is not known")
            if row.memory_used_bytes is None
            else gibibytes(row.memory_used_bytes),
            kind="number",
        ),
        _cell("State", *_state_of(row), kind="states"),
        _cell("USD/h", _amount(row.usd_per_hour), kind="number"),
        _cell(
            "Waste USD/h",
            el(
                "span",
                _amount(row.waste, "No price, or no activity signal"),
                class_="loss" if row.waste.usd else None,
            ),
            el("small", *reasons) if reasons else None,
            kind="number",
        ),
        _cell("Total USD", _amount(row.total), kind="number total"),
    )


def _state_of(row: PodRow) -> Iterable[Html]:
    words = _shares(row.slices)
    yield _bar([row.slices], row.gpus, words)
    yield el("small", words)


# --- The ledger -------------------------------------------------------------------------------

_LEDGER_COLUMNS = (
    ("State", ""),
    ("Paid by", ""),
    ("GPUs now", "number"),
    ("USD/h now", "number"),
    ("GPU-hours", "number"),
    ("USD", "number"),
)


def _ledger(view: View) -> Html:
    if not view.lines:
        nothing = el("p", "Nothing has been charged yet.", class_="empty")
        return _section("Ledger", "ledger", nothing)
    top = view.headline
    foot = _row(
        _name("All of it"),
        _cell("Paid by"),
        _cell("GPUs now", count(sum(line.gpus for line in view.lines)), kind="number"),
        _cell("USD/h now", _amount(top.spend), kind="number"),
        _cell("GPU-hours", f"{sum(line.gpu_hours for line in view.lines):,.1f}", kind="number"),
        _cell("USD", _amount(top.since_start), kind="number"),
    )
    table = _table(
        "ledger",
        "Every GPU-second in exactly one state, now and since the ledger began",
        _LEDGER_COLUMNS,
        el("tbody", *(_line(line) for line in view.lines), role="rowgroup"),
        el("tfoot", foot, role="rowgroup"),
    )
    return _section(
        "Ledger",
        "ledger",
        table,
        _balance(view),
        note="every GPU-second in exactly one state",
    )


def _line(line: StateLine) -> Html:
    return _row(
        _name(
            _swatch(line.state), el("span", line.state), el("small", MEANINGS[line.state])
        ),
        _cell("Paid by", f"the {line.paid_by}"),
        _cell("GPUs now", count(line.gpus), kind="number"),
        _cell("USD/h now", _amount(line.usd_per_hour), kind="number"),
        _cell("GPU-hours", f"{line.gpu_hours:,.1f}", kind="number"),
        _cell("USD", _amount(line.usd), kind="number"),
    )


def _balance(view: View) -> Html:
    """Say whether the books balance: within float error of the bill."""
    bill = view.headline.since_start.usd or 0.0
    off = view.imbalance_usd
    if abs(off) <= 1e-6 * max(1.0, bill):
        return el("p", "Balanced: holders and node together were charged the bill.", class_="balance")
    return el(
        "p",
        el("b", f"Out of balance by {money(off)} USD."),
        " What was charged differs from the bill. Please report this with `gpucost record`.",
        class_="balance off",
    )


# --- Problems and sources ---------------------------------------------------------------------


def _problems(view: View) -> Html:
    if not view.problems:
        return _section("Problems", "problems", el("p", "None.", class_="empty"))
    items = el("ul", *(_problem(problem) for problem in view.problems), class_="problems")
    return _section("Problems", "problems", items, _left_out(view.problems_left_out, "problems"))


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


def _sources(view: View) -> Html:
    if not view.sources:
        return _section("Sources", "sources", el("p", "None was asked yet.", class_="empty"))
    rows = (_source(source, view.now) for source in view.sources)
    table = _table(
        "sources",
        "Where the readings come from",
        _SOURCE_COLUMNS,
        el("tbody", *rows, role="rowgroup"),
    )
    return _section("Sources", "sources", table, _left_out(view.sources_left_out, "sources"))


def _source(source: SourceStatus, now: float) -> Html:
    if source.last_success is None:
        last: Content = _unknown("Never yet")
    else:
        last = el(
            "span", age(now - source.last_success), " ago", title=moment(source.last_success)
        )
    up = el("span", "up" if source.up else "down", class_="up" if source.up else "down")
    return _row(
        _name(source.source),
        _cell("State", up),
        _cell("Last success", last, kind="number"),
        _cell("Took", duration(source.duration_seconds), kind="number"),
        class_=None if source.up else "bad",
    )


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
