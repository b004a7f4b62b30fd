"""Oracle: one price list for all regions, by part number, without credentials.

A GPU shape's price is its GPUs times the price of its part: `GPU Per Hour` includes the shape's
OCPUs and memory (oracle.com/cloud/price-list). Shapes whose part is not in the table keep the price
that they have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.sources.price_apis.base import Offer, Unit
from gpucost.sources.price_apis.stream import decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gpucost.sources.price_apis.stream import Client

ADDRESS = "https://apexapps.oracle.com"
PATH = "/pls/apex/cetools/api/v1/products"
UNIT = "products"

PARTS = {
    "BM.GPU2.2": "B88517",
    "VM.GPU2.1": "B88518",
    "BM.GPU3.8": "B89734",
    "VM.GPU3.1": "B89734",
    "VM.GPU3.2": "B89734",
    "VM.GPU3.4": "B89734",
    "BM.GPU4.8": "B92740",
    "BM.GPU.A100-v2.8": "B95907",
    "BM.GPU.A10.4": "B95909",
    "VM.GPU.A10.1": "B95909",
    "VM.GPU.A10.2": "B95909",
    "BM.GPU.H100.8": "B98415",
    "BM.GPU.H200.8": "B110519",
    "BM.GPU.L40S.4": "B109479",
}
"""Shape to the part number whose price each of its GPUs has."""


class _Price(Struct):
    value: float
    model: str = ""
    rangeMin: float | None = None  # noqa: N815 - the API's name


class _Localization(Struct, rename="camel"):
    currency_code: str
    prices: list[_Price] = []


class _Item(Struct, rename="camel"):
    part_number: str
    metric_name: str = ""
    currency_code_localizations: list[_Localization] = []


class _Products(Struct):
    items: list[_Item]


def read(
    client: Client,
    address: str,
    gpu_counts: Mapping[str, float],
    done: Iterable[str],
    today: str,
) -> Iterator[Unit]:
    """The one Unit. `gpu_counts` are the GPUs of each shape. Raises SourceError."""
    if UNIT in done:
        return
    url = address + PATH
    parts = parse_products(client.page(url, {"currencyCode": "USD"}), url)
    offers = tuple(
        Offer(shape, "on_demand", "*", gpu_counts[shape] * parts[part])
        for shape, part in PARTS.items()
        if part in parts and shape in gpu_counts
    )
    yield Unit(UNIT, today, offers)


def parse_products(text: bytes, url: str) -> dict[str, float]:
    """USD an hour of a GPU, by part number. Raises SourceError on another format."""
    products = decoded(text, _Products, url, "a list of products")
    return {
        item.part_number: price.value
        for item in products.items
        if item.metric_name.casefold() == "gpu per hour"
        for localization in item.currency_code_localizations
        if localization.currency_code == "USD"
        for price in localization.prices
        if price.model == "PAY_AS_YOU_GO" and price.value > 0 and not price.rangeMin
    }
