"""Google Cloud: whole machines from gcloud-compute.com, attached GPUs from the Billing Catalog.

Google's own API prices cores, memory and GPUs one by one, and which SKUs make a machine is not in
it. gcloud-compute.com (Cyclenerd/google-cloud-compute-machine-types, Apache-2.0) publishes the sums
as CSV, and is what Karpenter's GCP provider uses. GPUs that are attached to N1 hosts are single
SKUs, so those are read from Google (cloud.google.com/billing/docs/reference/rest), with an API key.
"""

from __future__ import annotations

import csv
import re
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.sources.price_apis.base import Offer, Unit
from gpucost.sources.price_apis.stream import changed, decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpucost.sources.price_apis.base import Wanted
    from gpucost.sources.price_apis.stream import Client

ADDRESS = "https://gcloud-compute.com"
MACHINES = "/machine-types-regions.csv"
BILLING_ADDRESS = "https://cloudbilling.googleapis.com"
SKUS = "/v1/services/6F81-5844-456A/skus"
"""Of Compute Engine."""

MACHINES_UNIT = "machines"
GPUS_UNIT = "attached GPUs"

_MAX_PAGES = 200
_ATTACHED = re.compile(
    r"Nvidia Tesla (T4|V100|P100|P4|K80) GPU(?: attached to Spot Preemptible VMs)? running in .+"
)
_USAGE = {"OnDemand": "on_demand", "Preemptible": "spot"}


class _Category(Struct, rename="camel"):
    resource_group: str = ""
    usage_type: str = ""


class _Money(Struct, rename="camel"):
    units: str | int = "0"
    nanos: int = 0


class _Rate(Struct, rename="camel"):
    unit_price: _Money
    start_usage_amount: float = 0.0


class _Expression(Struct, rename="camel"):
    usage_unit: str = ""
    tiered_rates: list[_Rate] = []


class _Pricing(Struct, rename="camel"):
    pricing_expression: _Expression


class _Sku(Struct, rename="camel"):
    description: str
    category: _Category
    service_regions: list[str] = []
    pricing_info: list[_Pricing] = []


class _Page(Struct, rename="camel"):
    skus: list[_Sku]
    next_page_token: str = ""


def read(
    client: Client,
    addresses: tuple[str, str],
    wanted: Wanted,
    done: Iterable[str],
    today: str,
    api_key: str,
) -> Iterator[Unit]:
    """The machines and, where there is a key, the GPUs. Raises SourceError."""
    machines, billing = addresses
    if MACHINES_UNIT not in done:
        url = machines + MACHINES
        with closing(client.lines(url)) as lines:
            offers = tuple(parse_machines(lines, url, wanted))
        yield Unit(MACHINES_UNIT, today, offers)
    if api_key and GPUS_UNIT not in done:
        yield Unit(GPUS_UNIT, today, tuple(_attached(client, billing + SKUS, wanted, api_key)))


def parse_machines(lines: Iterable[bytes], url: str, wanted: Wanted) -> Iterator[Offer]:
    """The prices of known types, on-demand and spot. Raises SourceError on another format."""
    text = (line.decode("utf-8", "replace") for line in lines)
    rows = csv.DictReader(text)
    names = ("name", "region", "hour", "hourSpot")
    if missing := [name for name in names if name not in (rows.fieldnames or ())]:
        raise changed(url, f"no column `{missing[0]}`")
    for row in rows:
        if row["name"] not in wanted.types:
            continue
        if wanted.regions and row["region"] not in wanted.regions:
            continue
        for column, capacity in (("hour", "on_demand"), ("hourSpot", "spot")):
            figure = row[column] or ""
            if re.fullmatch(r"\d+(\.\d+)?", figure, re.ASCII) and float(figure) > 0:
                yield Offer(row["name"], capacity, row["region"], float(figure))


def _attached(client: Client, url: str, wanted: Wanted, api_key: str) -> Iterator[Offer]:
    params = {"key": api_key, "pageSize": "5000", "currencyCode": "USD"}
    for _ in range(_MAX_PAGES):
        page = parse_skus(client.page(url, params), url)
        yield from attached_of(page.skus, wanted)
        if not page.next_page_token:
            return
        params = {**params, "pageToken": page.next_page_token}
    raise changed(url, f"more than {_MAX_PAGES} pages")


def parse_skus(text: bytes, url: str) -> _Page:
    """A page of SKUs. Raises SourceError where it is something else."""
    return decoded(text, _Page, url, "a page of SKUs")


def attached_of(skus: Iterable[_Sku], wanted: Wanted) -> Iterator[Offer]:
    """The GPUs that are attached to hosts, by the hour; no commitments and no reservations."""
    for sku in skus:
        capacity = _USAGE.get(sku.category.usage_type)
        name = _ATTACHED.fullmatch(sku.description)
        if capacity is None or name is None or sku.category.resource_group != "GPU":
            continue
        rates = [
            rate
            for pricing in sku.pricing_info[-1:]
            if pricing.pricing_expression.usage_unit == "h"
            for rate in pricing.pricing_expression.tiered_rates
        ]
        if len(rates) != 1:  # a price that depends on how much is used is nobody's list price
            continue
        usd = int(rates[0].unit_price.units) + rates[0].unit_price.nanos / 1e9
        for region in sku.service_regions:
            if usd > 0 and (not wanted.regions or region in wanted.regions):
                card = f"accelerator:nvidia-tesla-{name[1].lower()}"
                yield Offer(card, capacity, region, round(usd, 9))
