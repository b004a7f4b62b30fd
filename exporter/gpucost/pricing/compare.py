"""Two price lists compared, and one with itself: what changed, and what stands out. Pure."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.pricing.places import spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.pricing.price_list import InstanceType, PriceList

NEAR_FACTOR = 10.0
"""No cloud's price of a GPU model is this many times off the median of its own: that is the price
of eight GPUs taken for one, another currency, or a slipped point."""

FAR_FACTOR = 30.0
"""The same over all clouds, which differ by up to ten times among themselves."""

FEW = 4
"""A cloud with fewer prices of a model is compared with all clouds."""


class Row(Struct, frozen=True, order=True):
    """One price: a type in a place under a capacity type."""

    provider: str
    instance_type: str
    capacity_type: str
    place: str


class Change(Struct, frozen=True):
    """A price that is not the same in two lists; None where a list does not have it."""

    row: Row
    before: float | None
    after: float | None


class Outlier(Struct, frozen=True):
    """A price of one GPU that is many times off its peers' median, in USD an hour."""

    row: Row
    usd_per_gpu: float
    peers_usd: float

    @property
    def factor(self) -> float:
        """How many times off, above 1."""
        return max(self.usd_per_gpu / self.peers_usd, self.peers_usd / self.usd_per_gpu)


def rows(listed: PriceList) -> dict[Row, float]:
    """Every price of the list."""
    return {
        Row(it.provider, it.name, capacity, place): usd
        for it in listed.types
        for (capacity, place), (usd, _) in spread(it.prices).items()
    }


def changes(before: PriceList, after: PriceList) -> Iterator[Change]:
    """What is not the same, in the order of the lists."""
    old, new = rows(before), rows(after)
    for row in sorted(old.keys() | new.keys()):
        if old.get(row) != new.get(row):
            yield Change(row, old.get(row), new.get(row))


def types_apart(before: PriceList, after: PriceList) -> tuple[list[str], list[str]]:
    """The types that are gone, and those that are new."""
    old = {f"{it.provider} {it.name}" for it in before.types}
    new = {f"{it.provider} {it.name}" for it in after.types}
    return sorted(old - new), sorted(new - old)


def outliers(listed: PriceList) -> list[Outlier]:
    """The prices that stand out: against their own cloud's where it has enough, else all clouds'.

    Only types whose GPUs are known by model and number can be compared.
    """
    own: dict[tuple[str, ...], list[float]] = defaultdict(list)
    figures: list[tuple[Row, str, float]] = []
    for it in listed.types:
        for (capacity, place), (usd, _) in spread(it.prices).items():
            if (each := _each(it, usd)) is not None:
                figures.append((Row(it.provider, it.name, capacity, place), it.gpu_model, each))
                own[it.provider, it.gpu_model, capacity].append(each)
                own["", it.gpu_model, capacity].append(each)
    middle = {key: median(usd) for key, usd in own.items()}
    found = []
    for row, model, each in figures:
        key, factor = (row.provider, model, row.capacity_type), NEAR_FACTOR
        if len(own[key]) < FEW:
            key, factor = ("", model, row.capacity_type), FAR_FACTOR
        outlier = Outlier(row, each, middle[key])
        if outlier.factor >= factor:
            found.append(outlier)
    return sorted(found, key=lambda it: -it.factor)


def _each(it: InstanceType, usd: float) -> float | None:
    return usd / it.gpu_count if it.gpu_count and it.gpu_model else None
