"""What the same instance type would cost under another capacity type. Pure.

A price that says nothing of capacity types (an annotation, a fallback by model, a row of the
table that does not name one) is no alternative: it would be the same figure again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.pricing.order import by_catalogue, by_table, matching_row
from gpucost.pricing.price_list import CAPACITY_TYPES

if TYPE_CHECKING:
    from gpucost.model import Price
    from gpucost.pricing.order import Case


def alternatives(case: Case) -> tuple[Price, ...]:
    """The price of this GPU under each other capacity type that has one."""
    own = case.node.capacity_type or "on_demand"
    found = (_under(case, capacity) for capacity in CAPACITY_TYPES if capacity != own)
    return tuple(price for price in found if price is not None)


def _under(case: Case, capacity_type: str) -> Price | None:
    node = replace(case.node, capacity_type=capacity_type)
    row = matching_row(case.gpu.device.model, node, case.prices, case.catalogue.names)
    named = row if row is not None and row[1].capacity_type == capacity_type else None
    other = replace(case, node=node, row=named, annotated=None)
    return by_table(other) or by_catalogue(other)
