"""AWS: the bulk price list of EC2, one CSV file a region, without credentials.

The CSV has a product and its price in one row, so that it can be read as it comes; in the JSON they
are gigabytes apart. Rows that count are chosen as Karpenter does (pkg/providers/pricing) and the
price list's own documentation says. Spot prices are another API's and need credentials: they are
taken from what `aws ec2 describe-spot-price-history` writes.
"""

from __future__ import annotations

import csv
import re
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import msgspec
from msgspec import Struct

from gpucost.sources.base import SourceError
from gpucost.sources.price_apis.base import Offer, Unit
from gpucost.sources.price_apis.stream import changed, decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gpucost.sources.price_apis.base import Wanted
    from gpucost.sources.price_apis.stream import Client

ADDRESS = "https://pricing.us-east-1.amazonaws.com"
INDEX = "/offers/v1.0/aws/AmazonEC2/current/region_index.json"

NOT_NVIDIA = ("g4ad.", "dl1.", "dl2q.", "f1.", "f2.", "inf", "trn", "vt1.", "mac")
"""Families with accelerators of other makers."""

_COLUMNS = (
    *("TermType", "Unit", "PricePerUnit", "Currency", "Product Family", "Instance Type", "vCPU"),
    *("Memory", "Tenancy", "Operating System", "GPU", "CapacityStatus", "Pre Installed S/W"),
    "Region Code",
)
_PREAMBLE_LINES = 20


class _Region(Struct, rename="camel"):
    region_code: str
    current_version_url: str


class _Index(Struct):
    regions: dict[str, _Region]


class _Spot(Struct, rename="pascal"):
    availability_zone: str
    instance_type: str
    product_description: str
    spot_price: str
    timestamp: str


class _SpotHistory(Struct, rename="pascal"):
    spot_price_history: list[_Spot]


def regions(client: Client, address: str) -> dict[str, str]:
    """The address of each region's CSV file, by the region's code."""
    url = address + INDEX
    index = decoded(client.page(url), _Index, url, "an index of regions")
    return {
        code: urljoin(url, it.current_version_url.removesuffix(".json") + ".csv")
        for code, it in sorted(index.regions.items())
    }


def read(client: Client, address: str, wanted: Wanted, done: Iterable[str]) -> Iterator[Unit]:
    """One Unit a region. Raises SourceError."""
    files = regions(client, address)
    if unknown := set(wanted.regions) - files.keys():
        raise SourceError(
            "region",
            f"AWS has no region {', '.join(sorted(unknown))}.",
            f"It has {', '.join(files)}.",
        )
    for code, url in files.items():
        if code in done or (wanted.regions and code not in wanted.regions):
            continue
        with closing(client.lines(url)) as lines:
            unit = parse_csv(lines, url, code, wanted)
        yield unit


def parse_csv(lines: Iterable[bytes], url: str, region: str, wanted: Wanted) -> Unit:
    """The GPU instances' prices of a region's file. Raises SourceError where it is another format.

    Most rows are reserved prices: they are dropped by their bytes, before they are taken apart.
    """
    it = iter(lines)
    day, columns, width = _head(it, url)
    quoted: dict[tuple[str, str], Offer] = {}
    torn: set[tuple[str, str]] = set()
    for line in it:
        if b"OnDemand" not in line:
            continue
        row = next(csv.reader([line.decode("utf-8", "replace")]))
        if len(row) != width:
            raise changed(url, f"a row of {len(row)} columns in a table of {width}")
        offer = _offer({name: row[at] for name, at in columns.items()}, region, wanted)
        if offer is None:
            continue
        key = (offer.instance_type, offer.place)
        if quoted.setdefault(key, offer).usd_per_hour != offer.usd_per_hour:
            torn.add(key)
    offers = tuple(offer for key, offer in sorted(quoted.items()) if key not in torn)
    return Unit(region, day, offers)


def _head(lines: Iterator[bytes], url: str) -> tuple[str, dict[str, int], int]:
    """The publication's day, and where the columns are. Lines before the header are pairs."""
    day = ""
    for _, line in zip(range(_PREAMBLE_LINES), lines, strict=False):
        row = next(csv.reader([line.decode("utf-8", "replace")]), [])
        if row[:1] == ["Publication Date"] and len(row) > 1:
            day = row[1][:10]
        if row[:1] == ["SKU"]:
            if missing := [name for name in _COLUMNS if name not in row]:
                raise changed(url, f"no column `{missing[0]}`")
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
                raise changed(url, "no publication date")
            names = (*_COLUMNS, *(name for name in ("MarketOption",) if name in row))
            return day, {name: row.index(name) for name in names}, len(row)
    raise changed(url, "no header in its first lines")


def _offer(row: Mapping[str, str], region: str, wanted: Wanted) -> Offer | None:
    """The price of a GPU instance by the hour, as most people pay it; None for anything else."""
    name, family = row["Instance Type"], row["Product Family"]
    known = name in wanted.types
    if not known and (row["GPU"] in ("", "0", "NA") or name.startswith(NOT_NVIDIA)):
        return None
    metal = family == "Compute Instance (bare metal)"
    usual = (
        row["TermType"] == "OnDemand"
        and (family == "Compute Instance" or metal)
        and (row["Tenancy"] == "Shared" or (metal and row["Tenancy"] == "Dedicated"))
        and row["Operating System"] == "Linux"
        and row["CapacityStatus"] == "Used"
        and row.get("MarketOption", "OnDemand") in ("OnDemand", "")
        and row["Pre Installed S/W"] in ("", "NA")
        and row["Unit"] == "Hrs"
        and row["Currency"] == "USD"
    )
    usd = _number(row["PricePerUnit"])
    if not usual or not usd:
        return None
    return Offer(
        name,
        "on_demand",
        row["Region Code"] or region,
        usd,
        _number(row["GPU"]),
        _number(row["vCPU"]),
        _number(row["Memory"].removesuffix(" GiB").replace(",", "")),
    )


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII) else None


def parse_spot_history(text: bytes, wanted: Wanted) -> Unit:
    """The latest spot price of each zone, of what `describe-spot-price-history` gave.

    Raises SourceError. `Linux/UNIX` only; VPC is said where an account still has both.
    """
    try:
        history = msgspec.json.decode(text, type=_SpotHistory).spot_price_history
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(
            "malformed",
            f"not a history of spot prices: {error}.",
            "Give what `aws ec2 describe-spot-price-history --output json` writes.",
        ) from error
    latest: dict[tuple[str, str], _Spot] = {}
    for spot in history:
        linux = spot.product_description.startswith("Linux/UNIX")
        key = (spot.instance_type, spot.availability_zone)
        if linux and spot.instance_type in wanted.types:
            before = latest.setdefault(key, spot)
            if spot.timestamp > before.timestamp:
                latest[key] = spot
    offers = tuple(
        Offer(name, "spot", zone, usd)
        for (name, zone), spot in sorted(latest.items())
        if (usd := _number(spot.spot_price))
    )
    day = max((spot.timestamp for spot in latest.values()), default="")[:10]
    return Unit("spot history", day, offers)
