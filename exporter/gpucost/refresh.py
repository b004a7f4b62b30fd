"""Makes a new price list out of one there is and what a cloud's price API says.

What the API does not say stays as it was, with the day it was right. A refresh that looks wrong is
refused whole, and the list before it stays: an API that lost half of the prices, or one whose
figures are ten times off what they were or off their peers, is not believed. What was read is kept
in a journal beside the list until it is done, so that a refresh that was stopped goes on.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gpucost.pricing.compare import NEAR_FACTOR, Row, outliers, rows
from gpucost.pricing.places import PlaceKey, Quoted, gathered, spread
from gpucost.pricing.price_list import InstanceType, PriceList, Source
from gpucost.sources.base import SourceError
from gpucost.sources.price_apis import aws, azure, gcp, oci
from gpucost.sources.price_apis.base import Unit, Wanted
from gpucost.sources.price_apis.stream import Bounds, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

PROVIDERS = ("aws", "azure", "gcp", "oci")

KEPT_RATIO = 0.5
"""At least this part of what the list had where the API was asked must be in the API's answer."""

JOURNAL_SECONDS = 24 * 3600.0
"""Prices that were read earlier than this are read again."""

_SHOWN = 5


class RefusedError(Exception):
    """What was read is not believed. The message says why; nothing was changed."""


class Asked(Struct, frozen=True):
    """What to refresh. `addresses` stand in for the APIs' own, by name (see `addresses_of`)."""

    provider: str
    regions: tuple[str, ...] = ()
    spot_history: bytes | None = None
    api_key: str = ""
    addresses: tuple[tuple[str, str], ...] = ()


ADDRESSES = {
    "aws": aws.ADDRESS,
    "azure": azure.ADDRESS,
    "gcp": gcp.ADDRESS,
    "gcp-billing": gcp.BILLING_ADDRESS,
    "oci": oci.ADDRESS,
}


class _Begun(Struct):
    """The first line of a journal: for which refresh it is."""

    provider: str
    regions: tuple[str, ...]
    spot_history: bool
    at: float


class Journal:
    """The units that are read, one a line; a line that was cut off is read again."""

    def __init__(self, path: Path, asked: Asked) -> None:
        """Take up the journal of the same refresh, if it is not old; else begin one."""
        self.path = path
        self.units: list[Unit] = []
        spot = asked.spot_history is not None
        begun = _Begun(asked.provider, asked.regions, spot, time.time())
        try:
            lines = path.read_bytes().split(b"\n")
            found = msgspec.json.decode(lines[0], type=_Begun)
            same = msgspec.structs.replace(found, at=begun.at) == begun
            if same and 0 <= begun.at - found.at < JOURNAL_SECONDS:
                # What follows the last line end was cut off.
                self.units = [msgspec.json.decode(it, type=Unit) for it in lines[1:-1]]
                begun = found
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.units = []
        with path.open("wb") as file:
            for line in (begun, *self.units):
                file.write(msgspec.json.encode(line) + b"\n")

    def add(self, unit: Unit) -> None:
        """Keep a unit on disk."""
        self.units.append(unit)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(unit) + b"\n")

    def close(self) -> None:
        """It is done: there is nothing to go on with."""
        self.path.unlink(missing_ok=True)


def read(
    base: PriceList, asked: Asked, journal: Journal, progress: Callable[[str], None], bounds: Bounds
) -> list[Unit]:
    """Read what the journal does not have yet. Raises SourceError; the journal keeps the rest."""
    for unit in journal.units:
        progress(f"{asked.provider} {unit.name}: {len(unit.offers)} prices, read before")
    client = Client(bounds, progress)
    try:
        for unit in _units(base, asked, client, {it.name for it in journal.units}):
            journal.add(unit)
            progress(f"{asked.provider} {unit.name}: {len(unit.offers)} prices")
    finally:
        client.close()
    return journal.units


def _units(base: PriceList, asked: Asked, client: Client, done: set[str]) -> Iterator[Unit]:
    known = [it for it in base.types if it.provider == asked.provider]
    wanted = Wanted(frozenset(it.name for it in known), asked.regions)
    address = {**ADDRESSES, **dict(asked.addresses)}
    today = datetime.now(UTC).date().isoformat()
    if asked.spot_history is not None:
        if asked.provider != "aws":
            raise SourceError("unsupported", "Only AWS has a history of spot prices.")
        yield aws.parse_spot_history(asked.spot_history, wanted)
    elif asked.provider == "aws":
        yield from aws.read(client, address["aws"], wanted, done)
    elif asked.provider == "azure":
        regions = asked.regions or _places(known)
        wanted = replace(wanted, regions=regions)
        yield from azure.read(client, address["azure"], wanted, done, today)
    elif asked.provider == "gcp":
        both = (address["gcp"], address["gcp-billing"])
        yield from gcp.read(client, both, wanted, done, today, asked.api_key)
    elif asked.provider == "oci":
        counts = {it.name: it.gpu_count for it in known if it.gpu_count is not None}
        yield from oci.read(client, address["oci"], counts, done, today)
    else:
        raise SourceError(
            "unsupported", f"{asked.provider} has no price API here.", ", ".join(PROVIDERS)
        )


def _places(types: Iterable[InstanceType]) -> tuple[str, ...]:
    return tuple(sorted({place for it in types for price in it.prices for place in price.places}))


def merged(
    base: PriceList, asked: Asked, units: Sequence[Unit], now: str, *, drop_outliers: bool = False
) -> PriceList:
    """The list with what was read. Raises RefusedError where that is not to be believed.

    `drop_outliers` leaves prices that stand out as they were, instead of refusing all.
    """
    _check_kept(base, asked, units)
    new = _put(base, asked, units, now, skip=frozenset())
    if odd := _odd(base, new):
        if not drop_outliers:
            more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
            told = "; ".join(list(odd.values())[:_SHOWN])
            raise RefusedError(f"{told}{more}. If the others are right, give --drop-outliers.")
        new = _put(base, asked, units, now, skip=frozenset(odd))
    return new


def _check_kept(base: PriceList, asked: Asked, units: Sequence[Unit]) -> None:
    """Whether the answer has enough of what was there, where and for what it was asked."""
    offered = {
        Row(asked.provider, offer.instance_type, offer.capacity_type, offer.place)
        for unit in units
        for offer in unit.offers
    }
    if not offered:
        raise RefusedError("not one price was found.")
    places = {row.place for row in offered} | set(asked.regions)
    if not asked.regions and asked.spot_history is None and asked.provider != "azure":
        places |= {row.place for row in rows(base) if row.provider == asked.provider}
    # Attached GPUs are another API's, and need a key.
    before = {
        row
        for row in rows(base)
        if row.provider == asked.provider
        and row.place in places
        and row.capacity_type == "on_demand"
        and not row.instance_type.startswith("accelerator:")
        and (asked.provider != "oci" or row.instance_type in oci.PARTS)
    }
    if asked.spot_history is not None or not before:
        return
    kept = len(before & offered)
    if kept < KEPT_RATIO * len(before):
        raise RefusedError(
            f"of {len(before)} on-demand prices that the list has there, only {kept} were found:"
            " the answer was cut off, or the API has changed."
        )


def _odd(base: PriceList, new: PriceList) -> dict[Row, str]:
    """What is ten times off, of what changed: off what it was, or off its peers."""
    before, after = rows(base), rows(new)
    odd: dict[Row, str] = {}
    for row, usd in after.items():
        old = before.get(row)
        if old is not None and max(usd / old, old / usd) >= NEAR_FACTOR:
            odd[row] = f"{_said(row)} was {old:g} USD/h and is {usd:g}"
    for it in outliers(new):
        if before.get(it.row) != after[it.row]:
            text = f"{_said(it.row)} is {it.usd_per_gpu:g} USD/h a GPU, its peers {it.peers_usd:g}"
            odd.setdefault(it.row, text)
    return odd


def _said(row: Row) -> str:
    return f"{row.instance_type} in {row.place} as {row.capacity_type}"


def _put(
    base: PriceList, asked: Asked, units: Sequence[Unit], now: str, skip: frozenset[Row]
) -> PriceList:
    """The list with every offer in its place."""
    types = {(it.provider, it.name): it for it in base.types}
    sources = dict(base.sources)
    quoted: dict[str, dict[PlaceKey, Quoted]] = {}
    for unit in units:
        key = f"{asked.provider}-api-{unit.day}"
        sources[key] = Source(key, unit.day, _origin(asked))
        for offer in unit.offers:
            name = (asked.provider, offer.instance_type)
            if name not in types:
                types[name] = InstanceType(
                    *name,
                    gpu_count=offer.gpu_count,
                    vcpus=offer.vcpus,
                    memory_gib=offer.memory_gib,
                    source=key,
                )
            if Row(*name, offer.capacity_type, offer.place) not in skip:
                by_place = quoted.setdefault(offer.instance_type, spread(types[name].prices))
                by_place[offer.capacity_type, offer.place] = (offer.usd_per_hour, key)
    for type_name, by_place in quoted.items():
        it = types[asked.provider, type_name]
        types[asked.provider, type_name] = replace(it, prices=gathered(by_place))
    return PriceList(now, sources, tuple(it for _, it in sorted(types.items())))


def _origin(asked: Asked) -> str:
    if asked.spot_history is not None:
        return "aws ec2 describe-spot-price-history"
    return ADDRESSES[asked.provider]


def write(path: Path, text: str) -> None:
    """Put a list in its place at once: who reads it sees the one before or this one."""
    partial = path.with_name(f".{path.name}.new")
    with partial.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def summary(units: Iterable[Unit]) -> str:
    """How many prices were read, by capacity type."""
    counts = Counter(offer.capacity_type for unit in units for offer in unit.offers)
    return ", ".join(f"{count} {capacity}" for capacity, count in sorted(counts.items()))
