"""The dollars as a CSV in FOCUS 1.0 columns (focus.finops.org), for finance. Pure.

A row is a day's dollars of a workload on one kind of GPU, or of what nodes bear. These are an
allocation of list or agreed prices, not an invoice: BilledCost is 0, and the cost is EffectiveCost
and ContractedCost. GPU-hours are those at the price of the range's end. What FOCUS has no column
for is in x_ columns and in Tags.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from gpucost.advice.report.facts import Facts, Line

COLUMNS = (
    *("AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName"),
    *("BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass"),
    *("ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart"),
    *("CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName"),
    *("CommitmentDiscountStatus", "CommitmentDiscountType", "ConsumedQuantity", "ConsumedUnit"),
    *("ContractedCost", "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost"),
    *("ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName"),
    *("PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType"),
    *("ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName"),
    *("Tags", "x_WasteShare", "x_NodePool", "x_GpuModel", "x_CapacityType"),
)

_PRICING = {"spot": "Dynamic", "reserved": "Committed", "on_demand": "Standard"}


def rows(facts: Facts, generated_at: str) -> str:
    """The CSV, days in order, then what no rate has seen and so no day has."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    zone = ZoneInfo(facts.zone)
    prices = {it.pool: it.usd_per_hour for it in facts.prices}
    for ordinal in sorted({day for line in facts.lines for day in line.usd_by_day}):
        day = date.fromordinal(ordinal)
        period = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
        for line in facts.lines:
            if usd := line.usd_by_day.get(ordinal):
                price = prices.get(line.key.pool)
                writer.writerow(_row(line, usd, price, period, zone, generated_at))
    whole = datetime.fromtimestamp(facts.start, UTC), datetime.fromtimestamp(facts.end, UTC)
    for line in facts.lines:
        if not line.usd_by_day and line.total_usd:
            price = prices.get(line.key.pool)
            writer.writerow(_row(line, line.total_usd, price, whole, zone, generated_at))
    return out.getvalue()


Period = tuple[datetime, datetime]


def _row(
    line: Line, usd: float, price: float | None, period: Period, zone: ZoneInfo, generated_at: str
) -> dict[str, str]:
    key = line.key
    start, end = period
    month = start.astimezone(zone).date().replace(day=1)
    after = (month + timedelta(days=31)).replace(day=1)
    cost = f"{usd:.6f}"
    tags = {
        "namespace": key.namespace,
        "team": key.team,
        "workload": key.workload,
        "workload_kind": key.workload_kind,
        "generated_at": generated_at,
    }
    held = key.workload or "GPUs that nobody held"
    priced = {}
    if price:
        hours, unit_price = f"{usd / price:.6f}", f"{price:.6f}"
        priced = {
            "PricingQuantity": hours,
            "PricingUnit": "GPU-Hours",
            "ConsumedQuantity": hours,
            "ConsumedUnit": "GPU-Hours",
            "ListUnitPrice": unit_price,
            "ContractedUnitPrice": unit_price,
        }
    return {
        "BilledCost": "0",
        "BillingAccountId": key.cluster or "cluster",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _utc(_midnight(month, zone)),
        "BillingPeriodEnd": _utc(_midnight(after, zone)),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{key.gpu_model} of {held}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _utc(start),
        "ChargePeriodEnd": _utc(end),
        "ContractedCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "InvoiceIssuerName": "gpucost",
        "PricingCategory": _PRICING.get(key.capacity_type, ""),
        "ProviderName": "gpucost",
        "PublisherName": "gpucost",
        "ResourceId": "/".join(filter(None, (key.cluster, key.namespace, key.workload))) or "nodes",
        "ResourceName": key.workload,
        "ResourceType": key.workload_kind or "GPU",
        "ServiceCategory": "Compute",
        "ServiceName": "Kubernetes GPUs",
        "SubAccountId": key.namespace,
        "SubAccountName": key.namespace,
        "Tags": json.dumps({name: value for name, value in tags.items() if value}),
        "x_WasteShare": f"{line.waste_usd / line.total_usd:.4f}" if line.total_usd else "",
        "x_NodePool": key.node_pool,
        "x_GpuModel": key.gpu_model,
        "x_CapacityType": key.capacity_type,
        **priced,
    }


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone)


def _utc(at: datetime) -> str:
    """As FOCUS wants every moment."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
