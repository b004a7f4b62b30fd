"""The report's forms: hostile names stay text, long ones stay inside, and nothing is invented."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import msgspec
import yaml

from gpucost.advice.report import charts, focus, html, patches, text
from gpucost.advice.report.choose import actions, choose, spent_by
from gpucost.advice.report.compose import compose
from gpucost.advice.report.facts import WEEK_HOURS, Facts, Key, Line, Note, OtherPrice, Week
from gpucost.advice.report.office import Opening
from programs import ROOT

HOSTILE = '<script>alert(1)</script>|`*_[x](y)\x1b[2J"\n: {evil}'
KEY = Key("c", HOSTILE, HOSTILE, HOSTILE, "Deployment", HOSTILE, "on_demand", HOSTILE)
EVENLY = Week((0.0,) * WEEK_HOURS, (1.0,) * WEEK_HOURS, (4,) * WEEK_HOURS)
LINE = Line(
    key=KEY,
    usd={"idle": 100.0},
    usd_by_day={739_628: 100.0},
    held_hours=720,
    longest_hours=720,
    quiet_hours=720,
    first_seconds=1.0,
    last_seconds=30 * 86_400.0,
    week=EVENLY,
    free_usd={"free_idle": 100.0},
)
FACTS = Facts(
    start=0.0,
    end=30 * 86_400.0,
    seen_seconds=30 * 86_400.0,
    lines=(LINE,),
    days={739_628 + n: {"idle": 100.0 / 30} for n in range(30)},
    notes=(Note("kind", HOSTILE),),
)
FOUND = choose(actions(FACTS), spent_by(FACTS), FACTS.months, 1.0)
REPORT = compose(FACTS, FOUND, by="workload", now=0.0)


class Tags(HTMLParser):
    """The elements of a page, and whether every one that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - its base's
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_runs_nothing() -> None:
    page = html.page(REPORT)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "\x1b" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_a_terminal_is_not_moved_by_a_name() -> None:
    for form in (text.terminal(REPORT, 80), text.markdown(REPORT), text.short(REPORT)):
        assert "\x1b" not in form


def test_markdown_has_as_many_columns_as_its_head() -> None:
    for line in text.markdown(REPORT).splitlines():
        if "alert(1)" in line and line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 7


def test_patches_of_hostile_names_are_manifests_of_that_name() -> None:
    hours = Opening((0, 1, 2, 3, 4), 8, 24)
    for patch in (
        patches.replicas(KEY, 0),
        patches.resource(KEY, "nvidia.com/mig-1g.10gb"),
        patches.spot(KEY),
        patches.cron(KEY, hours, "Europe/Berlin"),
    ):
        manifest = yaml.safe_load(patch)
        assert HOSTILE in manifest["metadata"]["name"]
        assert manifest["metadata"]["namespace"] == HOSTILE
    values = yaml.safe_load(patches.scaling_target(KEY, "batch"))
    assert values["scaling"]["targets"][0]["name"] == HOSTILE
    assert yaml.safe_load(patches.cron(KEY, hours, "UTC"))["spec"]["triggers"][0]["metadata"][
        "end"
    ].startswith("59 23 ")


def test_what_is_not_known_is_no_zero() -> None:
    [row] = REPORT.rows
    assert row.activity == 0.0, "idle all the time is known"
    unknown = msgspec.structs.replace(LINE, usd={"unmeasured": 100.0})
    facts = msgspec.structs.replace(FACTS, lines=(unknown,))
    report = compose(facts, [], by="workload", now=0.0)
    assert report.rows[0].activity is None
    assert "—" in text.terminal(report, 80)


def test_the_csv_stays_a_csv() -> None:
    [row] = csv.DictReader(io.StringIO(focus.rows(FACTS, "now")))
    assert row["ResourceName"] == HOSTILE
    assert json.loads(row["Tags"])["team"] == HOSTILE
    assert None not in row, "no cell beyond the columns"


def test_the_csv_has_its_moments_in_utc_and_gpu_hours_where_the_price_is_known() -> None:
    price = OtherPrice(KEY.pool, 4.0, {})
    here = msgspec.structs.replace(FACTS, zone="America/New_York", prices=(price,))
    [row] = csv.DictReader(io.StringIO(focus.rows(here, "now")))
    assert row["ChargePeriodStart"] == "2026-01-12T05:00:00Z"
    assert row["ChargePeriodEnd"] == "2026-01-13T05:00:00Z"
    assert row["BillingPeriodStart"] == "2026-01-01T05:00:00Z"
    assert row["BillingPeriodEnd"] == "2026-02-01T05:00:00Z"
    assert (float(row["PricingQuantity"]), row["PricingUnit"]) == (25.0, "GPU-Hours")
    [unpriced] = csv.DictReader(io.StringIO(focus.rows(FACTS, "now")))
    assert unpriced["PricingQuantity"] == ""


def test_the_csv_has_the_dollars_that_no_day_has() -> None:
    """What a ledger charged and no rate has seen: of the whole range."""
    unseen = msgspec.structs.replace(LINE, usd={"unknown": 7.0}, usd_by_day={})
    both = msgspec.structs.replace(FACTS, lines=(LINE, unseen))
    rows = list(csv.DictReader(io.StringIO(focus.rows(both, "now"))))
    assert [float(row["EffectiveCost"]) for row in rows] == [100.0, 7.0]
    assert rows[1]["ChargePeriodStart"] == "1970-01-01T00:00:00Z"
    assert rows[1]["ChargePeriodEnd"] == "1970-01-31T00:00:00Z"


def test_a_chart_scales_to_its_highest_day() -> None:
    drawn = charts.days([("2026-01-01", {"used": 30.0}), ("2026-01-02", {"idle": 90.0})], "spend")
    heights = [float(it) for it in re.findall(r'height="([\d.]+)"', drawn)]
    assert max(heights) / min(heights) == 3.0
    assert ">100<" in drawn, "a round number at the top"


def test_the_published_schema_is_that_of_the_document() -> None:
    schema = json.loads((ROOT / "docs/report.schema.json").read_text())
    document = json.loads(msgspec.json.encode(REPORT))
    assert set(document) == set(schema["$defs"]["Report"]["properties"])
    assert set(document["actions"][0]) == set(schema["$defs"]["Advice"]["properties"])
