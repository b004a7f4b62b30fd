"""What the price list in force knows of one node's instance type, and its price there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.pricing.names import is_model
from gpucost.pricing.places import local_zone_group, places_of
from gpucost.pricing.price_list import EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpucost.config import Prices
    from gpucost.model import Node


class CatalogueRow(Struct, frozen=True):
    """The list price of the catalogue's instance type: USD an hour for the whole instance.

    `place` is a region, a zone, or `*` for everywhere. `source_date` is YYYY-MM-DD, with `<`
    before it where that is the latest it can be, or empty.
    """

    place: str
    capacity_type: str
    usd_per_hour: float
    source: str
    source_date: str = ""


class Catalogue(Struct, frozen=True):
    """What the price list knows of one instance type; empty: nothing.

    `gpu_count` may be a fraction. `attached` are the prices of one GPU that is attached to a
    host (GCP's accelerators), to be paid beside `rows`; `cards` those of every GPU that may be,
    by model, where no label says which is. `names` are the known GPU models (names.index).
    """

    instance_type: str = ""
    gpu_model: str = ""
    gpu_count: float | None = None
    rows: tuple[CatalogueRow, ...] = ()
    names: Mapping[str, str] = {}
    provider: str = ""
    attached: tuple[CatalogueRow, ...] = ()
    cards: Mapping[str, tuple[CatalogueRow, ...]] = {}

    def with_card(self, seen: Iterable[str]) -> Catalogue:
        """Of a host that a GPU is attached to, with the one that it is by the names seen.

        Without it there is no price: the host's alone would pass for the GPU's.
        """
        if not self.cards:
            return self
        models = [card for card in self.cards for name in seen if is_model(card, name, self.names)]
        if len(models) != 1:
            return replace(self, rows=())
        return replace(self, gpu_model=models[0], attached=self.cards[models[0]])


class Quote(Struct, frozen=True):
    """A price that the list gives for a node: USD an hour, and in words what it is of.

    `estimated` where the list has another capacity type's price, or another zone's.
    """

    usd_per_hour: float
    words: str
    source_date: str
    estimated: bool = False


def same(stated: str, actual: str) -> bool:
    """Clouds differ in case between their lists and their labels; empty matches nothing."""
    return bool(stated) and stated.casefold() == actual.casefold()


def listed(node: Node, prices: Prices, catalogue: Catalogue) -> Quote | None:
    """The list price of the instance here."""
    return _quote(node, prices, catalogue.rows, catalogue.provider)


def attached(node: Node, prices: Prices, catalogue: Catalogue) -> Quote | None:
    """The list price here of one GPU that is attached to the instance."""
    return _quote(node, prices, catalogue.attached, catalogue.provider)


def _quote(node: Node, prices: Prices, rows: Sequence[CatalogueRow], provider: str) -> Quote | None:
    """The price at the nearest place; of another capacity type by its stated ratio.

    Only a node that states no capacity type is taken as on_demand. A reserved one is not, unless
    the user says what part of the list price is paid.
    """
    if not prices.use_catalogue:
        return None
    wanted = node.capacity_type or "on_demand"
    assumed = "" if node.capacity_type else ", assumed"
    if row := _nearest(node, rows, wanted):
        lowest = wanted == "spot" and provider == "aws" and row.place != node.zone
        anywhere = provider == "gcp" and row.place == EVERYWHERE
        doubt = ", lowest of its zones" * lowest + ", of no stated region" * anywhere
        words = _words(row, wanted + assumed + doubt)
        return Quote(row.usd_per_hour, words, row.source_date, bool(assumed or doubt))
    ratio = {"spot": prices.spot_ratio, "reserved": prices.reserved_ratio}.get(wanted)
    row = _nearest(node, rows, "on_demand")
    if ratio is None or row is None:
        return None
    words = f"{_words(row, wanted)} taken as {100 * ratio:.10g} % of on_demand"
    usd = row.usd_per_hour * ratio
    return Quote(usd, words, row.source_date, estimated=wanted == "spot")


def _nearest(node: Node, rows: Sequence[CatalogueRow], capacity_type: str) -> CatalogueRow | None:
    """The row of the nearest place; of an unknown place, where all places have one price, that."""
    alike = [row for row in rows if row.capacity_type == capacity_type]
    for place in places_of(node.region, node.zone):
        for row in alike:
            if same(row.place, place):
                return row
    if not node.region and not node.zone and len({row.usd_per_hour for row in alike}) == 1:
        return replace(alike[0], place=EVERYWHERE)
    return None


def _words(row: CatalogueRow, capacity: str) -> str:
    return capacity if row.place == EVERYWHERE else f"{row.place} {capacity}"


def where(node: Node) -> str:
    """The place whose price was looked for, for a person."""
    group = local_zone_group(node.region, node.zone)
    return (group[0] if group else node.region) or "an unknown region"
