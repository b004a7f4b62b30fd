"""Invoices as clouds write them, beside the ledger."""

from __future__ import annotations

import gzip
from datetime import date
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gpucost.advice.report import invoice
from gpucost.advice.report.facts import Facts, Node, OtherPrice, Pool
from gpucost.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

H100 = "NVIDIA H100 80GB HBM3"
DAY = date(2026, 1, 12)
START = 1_768_176_000.0
"""2026-01-12 00:00:00 UTC."""

CUR = """\
identity/LineItemId,lineItem/UsageStartDate,lineItem/LineItemType,lineItem/UsageType,\
lineItem/UsageAmount,lineItem/UnblendedCost,product/instanceType,reservation/EffectiveCost,\
savingsPlan/SavingsPlanEffectiveCost
1,2026-01-12T00:00:00Z,Usage,USE1-BoxUsage:p5.48xlarge,10,550.40,p5.48xlarge,,
2,2026-01-12T10:00:00Z,SavingsPlanCoveredUsage,BoxUsage:p5.48xlarge,14,770.56,p5.48xlarge,,462.34
3,2026-01-12T00:00:00Z,SavingsPlanNegation,BoxUsage:p5.48xlarge,14,-770.56,p5.48xlarge,,
4,2026-01-12T00:00:00Z,DiscountedUsage,BoxUsage:p4d.24xlarge,24,0,p4d.24xlarge,480,
5,2026-01-12T00:00:00Z,Usage,EBS:VolumeUsage.gp3,100,8.00,,,
6,2026-01-12T00:00:00Z,Usage,DataTransfer-Out-Bytes,100,9.00,p5.48xlarge,,
7,2026-01-12T00:00:00Z,Tax,,1,90.00,,,
"""

CUR_2 = """\
line_item_usage_start_date,line_item_line_item_type,line_item_usage_type,line_item_usage_amount,\
line_item_unblended_cost,product_instance_type
2026-01-12 00:00:00,Usage,BoxUsage:p5.48xlarge,24,1320.96,p5.48xlarge
"""

FOCUS = """\
ChargePeriodStart,ChargeCategory,EffectiveCost,ConsumedQuantity,ConsumedUnit,x_UsageType,\
ChargeDescription
2026-01-12T00:00:00Z,Usage,1320.96,24,Hours,BoxUsage:p5.48xlarge,
2026-01-12T00:00:00Z,Usage,652.8,24,Hours,,Standard_ND96isr_H100_v5 running in eastus
2026-01-12T00:00:00Z,Usage,2118.0,24,Hours,,Nvidia H100 on a3-highgpu-8g in Iowa
2026-01-12T00:00:00Z,Tax,99,1,,BoxUsage:p5.48xlarge,
2026-01-12T00:00:00Z,Usage,4.2,10,GB,,Standard storage
"""


def read(tmp_path: Path, text: str) -> dict[str, invoice.Charge]:
    path = tmp_path / "invoice.csv"
    path.write_text(text)
    return {kind: it for (kind, _), it in invoice.read(path).charges.items()}


def test_a_cur_is_read_at_what_an_hour_costs(tmp_path: Path) -> None:
    found = read(tmp_path, CUR)
    assert found == {
        "p5.48xlarge": invoice.Charge(550.40 + 462.34, 24.0),
        "p4d.24xlarge": invoice.Charge(480.0, 24.0),
    }


def test_the_new_names_of_a_cur_are_the_old_ones(tmp_path: Path) -> None:
    assert read(tmp_path, CUR_2) == {"p5.48xlarge": invoice.Charge(1320.96, 24.0)}


def test_focus_is_read_of_every_cloud(tmp_path: Path) -> None:
    assert read(tmp_path, FOCUS) == {
        "p5.48xlarge": invoice.Charge(1320.96, 24.0),
        "standard_nd96isr_h100_v5": invoice.Charge(652.8, 24.0),
        "a3-highgpu-8g": invoice.Charge(2118.0, 24.0),
    }


def test_a_file_may_be_gzipped_and_begin_with_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "cur.csv.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + CUR_2.encode()))
    assert len(invoice.read(path).charges) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "neither FOCUS"),
        ("", "neither FOCUS"),
        (CUR_2.replace("2026-01-12 00", "yesterday"), "line 2: `yesterday:00:00` is no time"),
        (CUR_2.replace("1320.96", "much"), "line 2: `much` is no number"),
        (CUR_2.replace("1320.96", "nan"), "line 2: `nan` is no number"),
        ("ChargePeriodStart,EffectiveCost,x\n" + "y" * (5 << 20), "is no CSV"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x1f\x8bno gzip", None])
def test_what_cannot_be_read_names_its_flag(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "invoice.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="--invoice: "):
        invoice.read(path)


def test_another_currency_is_no_dollar(tmp_path: Path) -> None:
    head, *rows = FOCUS.splitlines()
    for currency, name in (("EUR", "BillingCurrency"), ("JPY", "lineItem/CurrencyCode")):
        billed = [f"{head},{name}", *(f"{row},USD" for row in rows[:1]), f"{rows[1]},{currency}"]
        with pytest.raises(ConfigError, match=f"line 3: it is in {currency}, and the ledger in US"):
            read(tmp_path, "\n".join(billed))


def test_semicolons_and_a_byte_order_mark_are_read_too(tmp_path: Path) -> None:
    assert read(tmp_path, f"\ufeff{FOCUS.replace(',', ';')}") == read(tmp_path, FOCUS)


def test_a_file_without_a_single_instance_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names an instance type.*SkuPriceDetails"):
        read(tmp_path, "ChargePeriodStart,EffectiveCost\n2026-01-12,5\n")


def test_an_invoice_of_other_days_is_refused_with_both() -> None:
    old = {("p5.48xlarge", date(2025, 1, 1)): invoice.Charge(100.0, None)}
    words = "2025-01-01 to 2025-01-01 and the report's whole days .UTC. are 2026-01-12 to 2026-01-1"
    with pytest.raises(ConfigError, match=words):
        invoice.compare(invoice.BilledRows("f", "FOCUS", old), FACTS, COUNTS)


# --- Beside the ledger ----------------------------------------------------------------------------

NODE = Node(
    *("c", "n1", "pool", "p5.48xlarge", "us-east-1", "us-east-1a", "on_demand", "aws", H100),
    gpus=8.0,
    free_gpus=0.0,
    always_free_gpus=0.0,
)
FACTS = Facts(
    start=START - 6 * 3600,
    end=START + 3 * 86_400 + 3600,
    seen_seconds=1.0,
    lines=(),
    nodes=(NODE,),
    prices=(OtherPrice(Pool("c", "pool", H100, "on_demand"), 6.88, {}),),
    node_usd={("c", "n1"): {DAY.toordinal() + n: 1320.96 for n in range(-1, 4)}},
    node_types={("c", "n1"): "p5.48xlarge"},
)
COUNTS = {"p5.48xlarge": 8.0, "p4d.24xlarge": 8.0}


def billed(usd: float, hours: float | None = 24.0) -> invoice.BilledRows:
    days = [date.fromordinal(DAY.toordinal() + n) for n in range(-1, 4)]
    charges = {("p5.48xlarge", day): invoice.Charge(usd, hours) for day in days}
    return invoice.BilledRows("cur.csv", "AWS CUR", charges)


def reason(rows: invoice.BilledRows) -> str:
    return invoice.compare(rows, FACTS, COUNTS).types[0].reason


def test_days_that_the_range_has_only_in_part_are_left_out() -> None:
    found = invoice.compare(billed(1320.96), FACTS, COUNTS)
    assert [it.day for it in found.days] == ["2026-01-12", "2026-01-13", "2026-01-14"]
    assert found.factor == pytest.approx(1.0)
    assert found.types[0].reason == "they agree"
    assert found.types[0].ledger_hours == pytest.approx(72.0)


def test_another_price_is_told_from_other_hours() -> None:
    assert "the price is 0.800 of the list's" in reason(billed(0.8 * 1320.96))
    more = reason(billed(2 * 1320.96, 48.0))
    assert "144 node hours and the ledger 72" in more
    assert "price of" not in more
    both = reason(billed(1320.96, 48.0))
    assert "144 node hours" in both, "that the dollars agree is chance"
    assert "a price of 0.500 of the ledger's" in both


def test_hours_of_a_node_that_is_gone_are_not_known_and_its_type_is() -> None:
    """Its price was asked at the range's end: without it no hours are reckoned, nor compared."""
    gone = replace(
        FACTS,
        node_usd={**FACTS.node_usd, ("c", "n2"): {DAY.toordinal(): 1320.96}},
        node_types={**FACTS.node_types, ("c", "n2"): "p5.48xlarge"},
    )
    found = invoice.compare(billed(1320.96), gone, COUNTS)
    [kind] = found.types
    assert kind.instance_type == "p5.48xlarge"
    assert kind.ledger_usd == pytest.approx(4 * 1320.96)
    assert [it.ledger_hours for it in found.days] == [None, pytest.approx(24), pytest.approx(24)]
    assert kind.ledger_hours is None
    assert "node hours" not in kind.reason


def test_what_only_one_of_them_has_is_named() -> None:
    other = invoice.BilledRows("f", "FOCUS", {("p4d.24xlarge", DAY): invoice.Charge(100.0, None)})
    types = {it.instance_type: it for it in invoice.compare(other, FACTS, COUNTS).types}
    assert "not in the ledger" in types["p4d.24xlarge"].reason
    assert "not in the invoice" in types["p5.48xlarge"].reason
    nowhere = replace(FACTS, node_types={})
    [unknown, _] = invoice.compare(other, nowhere, COUNTS).types
    assert unknown.instance_type == "(not known)"
