"""The dollars as a CSV in FOCUS 1.0 columns (focus.finops.org), for finance. Pure.

A row is a day's dollars of a workload on one kind of GPU, or of what nodes bear. These are an
allocation of list or agreed prices, not an invoice: BilledCost is 0, and the cost is EffectiveCost
and ContractedCost. What FOCUS has no column for is in x_ columns and in Tags.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import date, timedelta
from typing import TYPE_CHECKING

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
    """The CSV, days in order."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    days = sorted({day for line in facts.lines for day in line.usd_by_day})
    for day in days:
        for line in facts.lines:
            if usd := line.usd_by_day.get(day):
                writer.writerow(_row(line, day, usd, generated_at))
    return out.getvalue()


def _row(line: Line, day: int, usd: float, generated_at: str) -> dict[str, str]:
    key = line.key
    of = date.fromordinal(day)
    month = of.replace(day=1)
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
    return {
        "BilledCost": "0",
        "BillingAccountId": key.cluster or "cluster",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _start(month),
        "BillingPeriodEnd": _start(after),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{key.gpu_model} of {held}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _start(of),
        "ChargePeriodEnd": _start(of + timedelta(days=1)),
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
    }


def _start(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
