"""The price parsers as functions of bytes: the clouds' answers, and our own list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.pricing import price_list
from gpucost.sources.base import SourceError
from gpucost.sources.price_apis import aws, azure, gcp, oci
from gpucost.sources.price_apis.base import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "https://prices.example"
REGION = "us-east-1"
WANTED = Wanted(("g4dn.xlarge", "a3-highgpu-8g", "Standard_NC24ads_A100_v4"), ())
ONE_REGION = Wanted(WANTED.types, (REGION,))


def parse_aws(data: bytes) -> None:
    """The CSV file of a region, and a history of spot prices."""
    _any_of(
        lambda: aws.parse_csv(data.splitlines(keepends=True), URL, REGION, WANTED),
        lambda: aws.parse_spot_history(data, WANTED),
    )


def parse_azure(data: bytes) -> None:
    """A page of retail prices."""
    list(azure.offers_of(azure.parse_page(data, URL).items, WANTED))


def parse_gcp(data: bytes) -> None:
    """The file of machines, and a page of SKUs."""
    _any_of(
        lambda: list(gcp.parse_machines(data.splitlines(keepends=True), URL, ONE_REGION)),
        lambda: list(gcp.attached_of(gcp.parse_skus(data, URL).skus, ONE_REGION)),
    )


def parse_oci(data: bytes) -> None:
    """The list of products."""
    oci.parse_products(data, URL)


def parse_list(data: bytes) -> None:
    """Our own list: what is read is written as it is read again."""
    lines = data.decode("ascii", "replace").splitlines(keepends=True)
    found = price_list.parse(lines)
    price_list.find(lines, lambda _, name: name.endswith("e"))
    for source in found.sources.values():
        price_list.day_of(source.day)
    written = list(price_list.render(found))
    if list(price_list.render(price_list.parse(written))) != written:
        raise AssertionError("the list reads otherwise once it was written")


def _any_of(*parsers: Callable[[], object]) -> None:
    """Refused only where each refuses."""
    refusals: list[SourceError] = []
    for parse in parsers:
        try:
            parse()
        except SourceError as error:
            refusals.append(error)
    if len(refusals) == len(parsers):
        raise refusals[-1]
