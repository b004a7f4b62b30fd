"""The status page: right figures, every text escaped, the unknown never written as 0."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.model import (
    HOUR_SECONDS,
    Account,
    Holder,
    Payer,
    Problem,
    Report,
    SourceStatus,
    State,
)
from gpucost.status import CONTENT_SECURITY_POLICY, figures, render, words
from gpucost.status.html import MAX_TEXT, el, escape
from gpucost.status.view import Amount
from sample_report import (
    BLIND,
    BROKEN,
    CHAT,
    EMBED,
    H100,
    HOURS,
    NEW,
    NOTEBOOK,
    NOW,
    ODD_JOB,
    OLD,
    PRICE,
    TRAIN,
    empty_report,
    sample_report,
    with_holder,
)

if TYPE_CHECKING:
    from gpucost.status.view import PodRow

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """A parsed page: its elements, its text, and that every element is closed in turn."""

    def __init__(self, report: Report, now: float = NOW) -> None:
        super().__init__(convert_charrefs=True)
        self.source = render(report, version="1.2.3", now=now).decode()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self._texts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == [], "an element was left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self._texts.append(data)

    @property
    def text(self) -> str:
        """What is read on it."""
        return re.sub(r"\s+", " ", "".join(self._texts))

    def tags(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def row(report: Report, holder: Holder) -> PodRow:
    return next(row for row in figures.pod_rows(report) if row.holder == holder)


def about(usd: float) -> Amount:
    """A complete amount, compared within float error."""
    return Amount(pytest.approx(usd))  # type: ignore[arg-type] # compares as a float does


# --- Figures ----------------------------------------------------------------------------------


def test_the_headline_adds_up() -> None:
    top = figures.headline(sample_report())
    assert top.spend.usd == pytest.approx(7 * PRICE)
    wasted = 0.14 + 0.22 + 0.69 + 1 + 3 / 7 * 0.36 + 2 / 7 + 1 / 7 + 1 / 7
    assert top.waste.usd == pytest.approx(wasted * PRICE)
    assert top.waste_ratio == pytest.approx(wasted / 7)
    assert top.unheld.usd == pytest.approx((2 / 7 + 4 / 7 + 1) * PRICE)
    assert top.since_start.usd == pytest.approx(7 * PRICE * HOURS)
    assert top.month_to_date.usd == pytest.approx(7 * PRICE * HOURS)


def test_sums_that_lack_a_price_or_a_signal_say_so() -> None:
    top = figures.headline(sample_report())
    assert not top.spend.complete, "one GPU has no price"
    assert not top.waste.complete, "of one part nobody knows what it does"
    assert top.unheld.complete


def test_dollars_that_wait_for_labels_are_in_the_months_and_the_pods_total() -> None:
    report = sample_report()
    ledger = report.ledger
    seat = next(seat for seat in ledger.tenures if seat.holder == CHAT)
    waiting = Account(seconds={State.USED: 3600.0}, usd={State.USED: 5.0})
    tenure = replace(ledger.tenures[seat], pending={report.month: waiting})
    waits = replace(report, ledger=replace(ledger, tenures={**ledger.tenures, seat: tenure}))
    before, after = figures.headline(report), figures.headline(waits)
    assert before.month_to_date.usd is not None
    assert after.month_to_date.usd == pytest.approx(before.month_to_date.usd + 5)
    spent = row(report, CHAT).total.usd
    assert spent is not None
    assert row(waits, CHAT).total.usd == pytest.approx(spent + 5)


def test_another_months_dollars_are_not_in_this_month() -> None:
    report = replace(sample_report(), month="2026-12")
    assert figures.headline(report).month_to_date == Amount(None, complete=False)


def test_a_pod_on_two_gpus_is_one_row() -> None:
    pod = row(sample_report(), CHAT)
    assert pod.gpus == 2
    assert pod.devices == ("GPU 0", "GPU 1")
    assert pod.activity == pytest.approx(0.82)
    assert pod.usd_per_hour == about(2 * PRICE)
    assert pod.waste == about(0.36 * PRICE)
    assert pod.total == about(2 * PRICE * HOURS)
    assert (pod.workload, pod.workload_kind, pod.team) == (
        "chat-llama-70b",
        "Deployment",
        "assistants",
    )


def test_the_mean_activity_weighs_by_share_and_one_unknown_makes_it_unknown() -> None:
    usages = [usage for usage in sample_report().usages if usage.share.holder == CHAT]
    assert figures.mean_activity(usages) == pytest.approx(0.82)
    blind = [usages[0], replace(usages[1], activity=None)]
    assert figures.mean_activity(blind) is None


def test_the_most_wasteful_pod_comes_first() -> None:
    wasted = [row.waste.usd or 0 for row in figures.pod_rows(sample_report())]
    assert wasted == sorted(wasted, reverse=True)
    assert figures.pod_rows(sample_report())[0].holder == NOTEBOOK


def test_an_unpriced_pod_has_no_dollars_rather_than_none() -> None:
    pod = row(sample_report(), ODD_JOB)
    assert (pod.usd_per_hour.usd, pod.waste.usd, pod.total.usd) == (None, None, None)
    assert pod.activity == pytest.approx(0.52)


def test_an_unmeasured_pods_waste_is_unknown_rather_than_none() -> None:
    pod = row(sample_report(), BLIND)
    assert pod.usd_per_hour == about(PRICE / 7)
    assert pod.waste.usd is None
    assert pod.activity is None


@pytest.mark.parametrize(
    ("holder", "state"),
    [
        (NOTEBOOK, State.IDLE),
        (OLD, State.TERMINATING),
        (NEW, State.STARTING),
        (BROKEN, State.FAILING),
        (BLIND, State.UNMEASURED),
        (TRAIN, State.USED),
        (EMBED, State.USED),
    ],
)
def test_a_pod_shows_what_it_is_in(holder: Holder, state: State) -> None:
    assert row(sample_report(), holder).slices[0].state is state


def test_every_gpu_is_covered_by_its_parts() -> None:
    report = sample_report()
    for gpu in report.snapshot.gpus:
        card = figures.gpu_card(report, gpu)
        assert sum(part.gpus for part in card.parts) == pytest.approx(1)
        assert sum(s.gpus for part in card.parts for s in part.slices) == pytest.approx(1)


def test_alike_parts_of_a_gpu_are_told_together() -> None:
    report = sample_report()
    free = figures.gpu_card(report, report.snapshot.gpus[5]).parts[-1]
    assert (free.profile, free.count, free.holder) == ("1g.10gb", 3, None)
    assert free.gpus == pytest.approx(3 / 7)


def test_the_ledgers_lines_add_up_to_the_bill() -> None:
    report = sample_report()
    view = figures.of(report, NOW)
    assert sum(line.usd.usd or 0 for line in view.lines) == pytest.approx(report.ledger.billed_usd)
    assert sum(line.gpu_hours for line in view.lines) == pytest.approx(8 * HOURS)
    assert sum(line.gpus for line in view.lines) == pytest.approx(8)
    assert view.imbalance_usd == pytest.approx(0, abs=1e-6)
    paid_by = {line.state: line.paid_by for line in view.lines}
    assert paid_by[State.IDLE] == "pod"
    assert paid_by[State.UNHEALTHY] == "node"


def test_a_state_of_the_past_keeps_its_line() -> None:
    report = sample_report()
    uuid, gpu = next(iter(report.ledger.gpus.items()))
    past = Account(seconds={State.PROVISIONING: HOUR_SECONDS}, usd={State.PROVISIONING: 3.0})
    gpus = {**report.ledger.gpus, uuid: replace(gpu, account=past)}
    report = replace(report, ledger=replace(report.ledger, gpus=gpus))
    line = figures.of(report, NOW).lines[-1]
    assert (line.state, line.gpus, line.gpu_hours) == (State.PROVISIONING, 0, 1)
    assert line.usd == Amount(3.0)


# --- The page ---------------------------------------------------------------------------------


def test_the_page_tells_node_gpus_pods_sources_and_problems() -> None:
    page = Page(sample_report())
    for said in (
        "ip-10-0-42-17.ec2.internal",
        "p5.48xlarge",
        "48.16 USD/h",
        "GPU 7",
        "Fallen off the bus (XID 79)",
        "chat-llama-70b-7d9f6c8b5-x2x9k",
        "team assistants",
        "used 31 %, underused 69 %",
        "stranded",
        "7 min ago",
        "Add a row under prices.table",
        "3 problems to mend",
        "Balanced",
        "gpucost 1.2.3",
    ):
        assert said in page.text


def test_a_simulated_node_says_so_at_the_top() -> None:
    assert "Simulated." in Page(sample_report(simulated=True)).text
    assert "Simulated" not in Page(sample_report()).text


def test_a_configuration_that_is_not_in_force_is_told() -> None:
    report = replace(sample_report(), config_in_force=False)
    assert "The configuration on disk is not in force." in Page(report).text


def test_a_ledger_out_of_balance_is_told() -> None:
    report = sample_report()
    ledger = replace(report.ledger, billed_usd=report.ledger.billed_usd + 1)
    assert "Out of balance by 1.00 USD." in Page(replace(report, ledger=ledger)).text


def test_a_node_of_which_nothing_is_known_shows_no_zero_dollars() -> None:
    page = Page(empty_report())
    assert "0.00" not in page.text
    assert "No GPU has been seen on this node." in page.text
    assert page.text.count("—") >= 5


def test_what_is_unknown_is_a_dash_with_its_reason() -> None:
    page = Page(sample_report())
    reasons = [span["title"] for span in page.tags("span") if span.get("class") == "unknown"]
    for reason in ("No activity signal", "Power is not known", "No price"):
        assert reason in reasons


def test_a_gpu_that_could_not_be_read_says_so() -> None:
    report = sample_report()
    gpus = tuple(replace(gpu, seen=False) for gpu in report.snapshot.gpus)
    page = Page(replace(report, snapshot=replace(report.snapshot, gpus=gpus)))
    assert any(span.get("title") == "No source could look this time" for span in page.tags("span"))


def test_a_source_that_never_worked_has_no_last_success() -> None:
    report = sample_report()
    never = SourceStatus("dcgm", up=False, duration_seconds=0.5)
    report = replace(report, snapshot=replace(report.snapshot, sources=(never,)))
    page = Page(report)
    assert "dcgm" in page.text
    assert any(span.get("title") == "Never yet" for span in page.tags("span"))


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = Page(sample_report())
    assert page.tags("script") == []
    assert not re.search(r"https?://|@import|url\(", page.source)
    for _, attributes in page.elements:
        assert "style" not in attributes, "the policy allows no style attributes"
        assert not any(name.startswith("on") for name in attributes)
    assert {a["href"] for a in page.tags("a")} <= {"/metrics", "#problems"}


def test_the_policy_allows_exactly_this_style() -> None:
    page = Page(sample_report())
    style = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY


def test_every_class_on_the_page_has_its_style() -> None:
    """A state without a colour would be a hole in a bar."""
    style = Page(sample_report()).source.partition("</style>")[0]
    for state in State:
        assert f".{state} {{" in style
    for width in (1, 200):
        assert f".w{width}{{" in style


def test_tables_are_told_to_those_who_cannot_see_them() -> None:
    page = Page(sample_report())
    tables = page.tags("table")
    assert len(tables) == len(page.tags("caption")) == 3
    assert all(table["role"] == "table" for table in tables)
    assert all(th.get("scope") in ("col", "row") for th in page.tags("th"))
    assert all(td.get("data-label") for td in page.tags("td"))
    bars = [div for div in page.tags("div") if div.get("role") == "img"]
    assert len(bars) == 1 + 8 + 9
    assert all(bar["aria-label"] for bar in bars)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_long_list_ends_with_how_many_more() -> None:
    report = sample_report()
    free = next(usage for usage in report.usages if usage.share.holder == NOTEBOOK)
    many = tuple(
        replace(free, share=replace(free.share, holder=Holder("ns", f"pod-{n}", "c")))
        for n in range(figures.MAX_PODS + 7)
    )
    problems = tuple(Problem("s", "k", str(n)) for n in range(figures.MAX_PROBLEMS + 3))
    page = Page(replace(report, usages=many, problems=problems))
    assert "and 7 more pods, together 48.16 USD/h" in page.text
    assert "and 3 more problems" in page.text
    assert f"{figures.MAX_PROBLEMS + 3} problems to mend" in page.text


# --- Escaping ---------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>",
    "<!--",
    "&lt;script&gt;",
    "line\nbreak\r\n",
    "\x00\x1b[31m",
    "\u202egnp.exe",
    "\ud800",
    "💸" * 10,
)


def with_text(text: str) -> Report:
    """A Report that has `text` wherever the outside world can put any."""
    report = sample_report()
    holder = Holder(text, text, text)
    payer = Payer(holder, text, text, text, H100, "on_demand")
    report = with_holder(report, NOTEBOOK, holder, payer)
    node = replace(
        report.snapshot.node,
        name=text,
        instance_type=text,
        zone=text,
        node_pool=text,
        capacity_type=text,
        provider=text,
    )
    first = report.snapshot.gpus[0]
    gpu = replace(first, device=replace(first.device, model=text, index=None), faults=(text,))
    return replace(
        report,
        snapshot=replace(
            report.snapshot,
            node=node,
            gpus=(gpu, *report.snapshot.gpus[1:]),
            sources=(SourceStatus(text, up=True, duration_seconds=0.1, last_success=NOW),),
        ),
        prices={
            uuid: replace(price, source=text, split=text, detail=text)
            for uuid, price in report.prices.items()
        },
        problems=(Problem(text, text, text, text),),
        month=text,
    )


SHAPE = [tag for tag, _ in Page(with_text("plain")).elements]
NAMES = [sorted(attributes) for _, attributes in Page(with_text("plain")).elements]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_changes_no_element(text: str) -> None:
    page = Page(with_text(text))
    assert [tag for tag, _ in page.elements] == SHAPE
    assert [sorted(attributes) for _, attributes in page.elements] == NAMES


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1))
def test_any_text_changes_no_element(text: str) -> None:
    page = Page(with_text(text))
    assert [tag for tag, _ in page.elements] == SHAPE


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=MAX_TEXT))
def test_printable_text_is_read_as_it_was_written(text: str) -> None:
    class Reader(HTMLParser):
        title = ""
        read = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag == "p"
            self.title = dict(attrs)["title"] or ""

        def handle_data(self, data: str) -> None:
            self.read += data

    reader = Reader(convert_charrefs=True)
    reader.feed(el("p", text, title=text))
    reader.close()
    assert (reader.title, reader.read) == (text, text)


def test_text_without_end_is_cut() -> None:
    assert len(escape("x" * 10 * MAX_TEXT)) == MAX_TEXT


# --- Words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usd", "written"),
    [
        (None, "—"),
        (float("nan"), "—"),
        (float("inf"), "—"),
        (0.0, "0.00"),
        (0.00001, "< 0.0001"),
        (-0.00001, "> -0.0001"),
        (0.0123, "0.0123"),
        (0.0949, "0.0949"),
        (0.1, "0.10"),
        (1234567.891, "1,234,567.89"),
        (-2.5, "-2.50"),
    ],
)
def test_money_is_written_to_the_cent_and_small_money_is_not_nothing(
    usd: float | None, written: str
) -> None:
    assert words.money(usd) == written


@pytest.mark.parametrize(
    ("ratio", "written"),
    [
        (None, "—"),
        (0.0, "0 %"),
        (0.001, "< 1 %"),
        (0.5, "50 %"),
        (0.999, "> 99 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_is_0_or_100_only_where_it_is(ratio: float | None, written: str) -> None:
    assert words.percent(ratio).replace("\N{NARROW NO-BREAK SPACE}", " ") == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(None, "—"), (-5, "0 s"), (59, "59 s"), (119, "119 s"), (121, "2 min"), (9000, "2 h")],
)
def test_an_age_is_written_in_its_own_unit(seconds: float | None, written: str) -> None:
    assert words.age(seconds).replace("\N{NO-BREAK SPACE}", " ") == written


def test_the_first_gpu_hours_are_not_nothing() -> None:
    assert [words.hours(n) for n in (0, 0.02, 36, 12345.67)] == ["0.0", "0.020", "36.0", "12,345.7"]


def test_a_moment_out_of_the_calendar_is_unknown() -> None:
    assert words.moment(NOW) == "2026-11-22 19:56:03 UTC"
    assert words.moment(1e30) == words.moment(float("nan")) == "—"


def test_every_state_has_its_meaning_and_its_place() -> None:
    assert set(words.MEANINGS) == set(State) == set(figures.BAR_ORDER)
