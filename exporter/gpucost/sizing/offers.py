"""What machines with a GPU cost, from a price list. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.pricing.price_list import EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpucost.pricing.price_list import PriceList

HOURS_PER_MONTH = 730.0
"""A year's hours by twelve."""


class Offer(Struct, frozen=True):
    """A machine with GPUs of one model, whole, and its price in the cheapest place asked for."""

    provider: str
    instance_type: str
    gpu_model: str
    gpus: int
    usd_per_hour: float
    place: str
    source: str
    day: str

    @property
    def usd_per_gpu_hour(self) -> float:
        """Of one of its GPUs."""
        return self.usd_per_hour / self.gpus


class Wanted(Struct, frozen=True):
    """Which offers are looked at; patterns as in a shell, empty is any."""

    capacity_type: str = "on_demand"
    region: str = ""
    provider: str = ""


def offers(listed: PriceList, wanted: Wanted) -> list[Offer]:
    """The machines of a list with whole GPUs, each once, cheapest first."""
    found = []
    for it in listed.types:
        if not it.gpu_model or it.gpu_count is None or it.gpu_count < 1 or it.gpu_count % 1:
            continue  # parts of a GPU hold no model of their own
        if it.name.startswith("accelerator:"):
            continue  # the GPU's price without its host
        if not _like(it.provider, wanted.provider):
            continue
        prices = [
            Offer(
                it.provider,
                it.name,
                it.gpu_model,
                int(it.gpu_count),
                price.usd_per_hour,
                place,
                price.source,
                listed.sources[price.source].day,
            )
            for price in it.prices
            if price.capacity_type == wanted.capacity_type
            for place in price.places
            if place == EVERYWHERE or _like(place, wanted.region)
        ]
        if prices:
            found.append(min(prices, key=lambda offer: (offer.usd_per_hour, offer.place)))
    return sorted(
        found, key=lambda offer: (offer.usd_per_hour, offer.provider, offer.instance_type)
    )


def own_offers(usd_per_gpu_hour: Mapping[str, float], gpus: int = 8) -> list[Offer]:
    """Machines at a person's own prices, of one to eight GPUs."""
    return [
        Offer("own", f"{count} x {model}", model, count, usd * count, "own", "own", "")
        for model, usd in usd_per_gpu_hour.items()
        for count in (1, 2, 4, 8)
        if count <= gpus
    ]


def by_model(found: Iterable[Offer]) -> dict[str, list[Offer]]:
    """Offers by GPU model."""
    models: dict[str, list[Offer]] = {}
    for offer in found:
        models.setdefault(offer.gpu_model, []).append(offer)
    return models


def _like(value: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(value.casefold(), pattern.casefold())
