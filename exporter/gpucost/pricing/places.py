"""Prices place by place, and back to a list's lines. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gpucost.pricing.price_list import EVERYWHERE, ListPrice, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PlaceKey = tuple[str, str]
"""Capacity type and place."""

Quoted = tuple[float, str]
"""USD an hour for the whole instance, and the key of its source."""


def spread(prices: Iterable[ListPrice]) -> dict[PlaceKey, Quoted]:
    """Each place's price by itself."""
    return {
        (price.capacity_type, place): (price.usd_per_hour, price.source)
        for price in prices
        for place in price.places
    }


def gathered(quoted: Mapping[PlaceKey, Quoted]) -> tuple[ListPrice, ...]:
    """The places of one price and source in one line, in the order in which lists are written."""
    lines: dict[tuple[str, float, str], list[str]] = {}
    for (capacity, place), (usd, source) in sorted(quoted.items()):
        lines.setdefault((capacity, usd, source), []).append(place)
    found = (ListPrice(*line, tuple(places)) for line, places in lines.items())
    return tuple(sorted(found, key=in_order))


def places_of(region: str, zone: str) -> tuple[str, ...]:
    """The places whose price a node in this zone may pay, the nearest first.

    AWS prices its Local and Wavelength Zones by themselves, higher than the region they hang on,
    so that region's price is not theirs. Their zones are called `us-west-2-lax-1a` and
    `us-east-1-wl1-atl-wlz-1`, their prices' regionCode `us-west-2-lax-1` and
    `us-east-1-wl1-atl1` (AWS price list; the first of a region's Wavelength Zones has only
    `us-east-1-wl1`).
    """
    own = (zone,) if zone else ()
    if group := local_zone_group(region, zone):
        return (*own, *group)
    return (*own, *((region,) if region else ()), EVERYWHERE)


def local_zone_group(region: str, zone: str) -> tuple[str, ...]:
    """The regionCode of an AWS Local or Wavelength Zone's prices; empty for any other zone."""
    if local := re.fullmatch(r"([a-z]{2}(?:-[a-z]+)+-\d-[a-z]{3}-\d+)[a-z]", zone):
        return (local[1],)
    if wave := re.fullmatch(r"([a-z]{2}(?:-[a-z]+)+-\d-wl\d)-([a-z]{3})-wlz-(\d)", zone):
        first = wave[2] in _FIRST_WAVELENGTH
        return (f"{wave[1]}-{wave[2]}{wave[3]}", *((wave[1],) if first else ()))
    # A region label that already says the zone's group.
    return (region,) if re.search(r"-\d-(?:[a-z]{3}-\d+|wl\d.*)$", region) else ()


_FIRST_WAVELENGTH = ("bos", "sfo")
"""Boston and San Francisco, whose regionCodes carry no city."""
