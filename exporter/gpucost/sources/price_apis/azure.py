"""Azure: the Retail Prices API, a query a region, without credentials.

Several meters share an armSkuName (Windows, Cloud Services, dedicated hosts, low priority); what
counts is the Linux virtual machine by the hour. On-demand and spot come in one answer. Values in
filters are case sensitive (learn.microsoft.com, Azure Retail Prices).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from gpucost.sources.price_apis.base import Offer, Unit
from gpucost.sources.price_apis.stream import changed, decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gpucost.sources.price_apis.base import Wanted
    from gpucost.sources.price_apis.stream import Client

ADDRESS = "https://prices.azure.com"
PATH = "/api/retail/prices"
VERSION = "2023-01-01-preview"

_MAX_PAGES = 500
"""Of a region; it has some dozens."""


class _Item(Struct, rename="camel"):
    currency_code: str
    retail_price: float
    arm_region_name: str
    meter_name: str
    product_name: str
    sku_name: str
    unit_of_measure: str
    arm_sku_name: str = ""
    type: str = "Consumption"
    is_primary_meter_region: bool = True
    tier_minimum_units: float = 0.0


class _Page(Struct):
    items: list[_Item] = msgspec.field(name="Items")
    next_page_link: str | None = msgspec.field(name="NextPageLink", default=None)


def read(
    client: Client, address: str, wanted: Wanted, done: Iterable[str], today: str
) -> Iterator[Unit]:
    """One Unit a region. Raises SourceError."""
    for region in wanted.regions:
        if region in done:
            continue
        query = (
            "serviceName eq 'Virtual Machines' and serviceFamily eq 'Compute' and priceType eq"
            f" 'Consumption' and armRegionName eq '{region}'"
        )
        params = {"api-version": VERSION, "currencyCode": "'USD'", "$filter": query}
        url: str | None = address + PATH
        offers: dict[tuple[str, str], set[float]] = {}
        for _ in range(_MAX_PAGES):
            page = parse_page(client.page(url or "", params), address + PATH)
            for offer in offers_of(page.items, wanted):
                key = (offer.instance_type, offer.capacity_type)
                offers.setdefault(key, set()).add(offer.usd_per_hour)
            url, params = page.next_page_link, {}
            if not url:
                break
            if urlsplit(url)[:2] != urlsplit(address)[:2]:
                raise changed(address + PATH, "its next page is on another server")
        else:
            raise changed(address + PATH, f"more than {_MAX_PAGES} pages for {region}")
        yield Unit(
            region,
            today,
            tuple(  # two prices of one machine: nobody can say which is paid
                Offer(name, capacity, region, next(iter(usd)))
                for (name, capacity), usd in sorted(offers.items())
                if len(usd) == 1
            ),
        )


def parse_page(text: bytes, url: str) -> _Page:
    """A page of the API. Raises SourceError where it is something else."""
    return decoded(text, _Page, url, "a page of prices")


def _is_linux(product: str) -> bool:
    """As `Virtual Machines NCads H100 v5 Series` and `NCads A100 v4 Series Linux` are.

    And `... Windows`, `... Cloud Services` and `... Dedicated Host` are not.
    """
    return product.endswith(" Linux") or (
        product.startswith("Virtual Machines ")
        and not product.endswith((" Windows", "CloudServices", " Cloud Services", "Dedicated Host"))
    )


def offers_of(items: Iterable[_Item], wanted: Wanted) -> Iterator[Offer]:
    """The Linux machines with GPUs, by the hour."""
    for item in items:
        spot = item.sku_name.endswith(" Spot") or item.meter_name.endswith(" Spot")
        if (
            item.arm_sku_name in wanted.types
            and item.retail_price > 0
            and item.currency_code == "USD"
            and item.unit_of_measure == "1 Hour"
            and item.type == "Consumption"
            and item.is_primary_meter_region
            and not item.tier_minimum_units
            and _is_linux(item.product_name)
            and not item.meter_name.endswith("Low Priority")
            and not item.sku_name.endswith("Low Priority")
        ):
            yield Offer(
                item.arm_sku_name,
                "spot" if spot else "on_demand",
                item.arm_region_name,
                item.retail_price,
            )
