"""What the shipped table knows of one instance type, and its price on this node. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.config import Prices
    from gpucost.model import Node


class CatalogueRow(Struct, frozen=True):
    """The list price of the catalogue's instance type: USD an hour for the whole instance.

    An empty region is every region of the provider. `source_date` is YYYY-MM-DD, or empty.
    """

    region: str
    capacity_type: str
    usd_per_hour: float
    source: str
    source_date: str = ""


class Catalogue(Struct, frozen=True):
    """What the shipped table knows of one instance type; empty: nothing.

    `gpu_count` may be a fraction. `names` are the known GPU models (names.index).
    """

    instance_type: str = ""
    gpu_model: str = ""
    gpu_count: float | None = None
    rows: tuple[CatalogueRow, ...] = ()
    names: Mapping[str, str] = {}


def same(stated: str, actual: str) -> bool:
    """Clouds differ in case between their lists and their labels; empty matches nothing."""
    return bool(stated) and stated.casefold() == actual.casefold()


def listed(node: Node, prices: Prices, catalogue: Catalogue) -> CatalogueRow | None:
    """The list price here: this region's, else that of every region.

    Only a node that states no capacity type is taken as on_demand; a reserved one is not.
    """
    if not prices.use_catalogue:
        return None
    wanted = node.capacity_type or "on_demand"
    rows = [row for row in catalogue.rows if row.capacity_type == wanted]
    for region in (node.region, ""):
        for row in rows:
            if row.region == region or same(row.region, region):
                return row
    return None
