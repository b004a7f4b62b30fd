"""The order in which a GPU finds its price. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.model import Price
from gpucost.pricing.catalogue import attached, listed, same, where
from gpucost.pricing.names import is_model
from gpucost.pricing.words import dated, number, sortable, usd_per_hour

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpucost.config import Discount, OnPremises, PriceRow, Prices
    from gpucost.model import GpuReading, Node
    from gpucost.pricing.catalogue import Catalogue, Quote
    from gpucost.pricing.count import Count

ANNOTATION = "gpucost.io/gpu-usd-per-hour"
"""On the Node: USD an hour for one GPU, as it is really paid."""

UNPRICED = "none"

_HOURS_A_YEAR = 8766


class Case(Struct, frozen=True):
    """Everything that one GPU's price is found from."""

    gpu: GpuReading
    node: Node
    prices: Prices
    catalogue: Catalogue
    annotated: float | None
    row: tuple[int, PriceRow] | None
    count: Count
    mixed: bool


def price(case: Case) -> Price:
    """The price of one GPU, by the first of the order that knows it."""
    for _, ask in ORDER:
        if (found := ask(case)) is not None:
            return found
    return Price(None, case.node.capacity_type, UNPRICED, UNPRICED, why_unpriced(case))


def _by_annotation(case: Case) -> Price | None:
    if case.annotated is None:
        return None
    detail = f"{usd_per_hour(case.annotated)} a GPU (annotation {ANNOTATION} of the node)"
    return Price(case.annotated, case.node.capacity_type, "node_annotation", "per_gpu", detail)


def by_table(case: Case) -> Price | None:
    """By the user's row that matches."""
    if case.row is None:
        return None
    position, row = case.row
    origin = dated(f"prices.table[{position}]", case.prices.updated)
    if row.on_premises is not None:
        return _on_premises(case, row.on_premises, origin)
    if row.gpu_usd_per_hour is not None:
        return _per_gpu(case, row.gpu_usd_per_hour, "table", origin)
    if row.node_usd_per_hour is not None:
        return _of_node(case, row.node_usd_per_hour, "table", "", origin)
    return None


def by_catalogue(case: Case) -> Price | None:
    """By the price list, on this node's place and capacity type."""
    quote = listed(case.node, case.prices, case.catalogue)
    card = attached(case.node, case.prices, case.catalogue)
    what = case.node.instance_type
    if case.catalogue.attached:
        return _with_host(case, quote, card)
    if quote is None:
        return None
    origin = dated("catalogue", quote.source_date)
    place = f"{what} {quote.words} "
    return _of_node(case, quote.usd_per_hour, "catalogue", place, origin, estimated=quote.estimated)


def _with_host(case: Case, host: Quote | None, card: Quote | None) -> Price | None:
    """GPUs that are attached to a host: the node's price is the host's and theirs.

    Where the list has no price for the host, a GPU has its own, which is less than the bill.
    """
    if card is None:
        return None
    name = case.catalogue.gpu_model
    if host is None:
        origin = dated("catalogue, without its host", card.source_date)
        found = _per_gpu(case, card.usd_per_hour, "catalogue", origin, f"{name} {card.words} ")
        return replace(found, estimated=card.estimated)
    count = case.count.devices
    place = (
        f"{case.node.instance_type} {host.words} {usd_per_hour(host.usd_per_hour)}"
        f" + {count} x {name} {usd_per_hour(card.usd_per_hour)} = "
    )
    usd = host.usd_per_hour + count * card.usd_per_hour
    origin = dated("catalogue", min(host.source_date, card.source_date, key=sortable))
    estimated = host.estimated or card.estimated
    return _of_node(case, usd, "catalogue", place, origin, estimated=estimated)


def _by_fallback(case: Case) -> Price | None:
    model = case.gpu.device.model
    for stated, usd in case.prices.fallback.items():
        if is_model(stated, model, case.catalogue.names):
            origin = dated(f"prices.fallback[{stated}]", case.prices.updated)
            return _per_gpu(case, usd, "fallback", origin)
    return None


def _per_gpu(case: Case, usd: float, source: str, origin: str, place: str = "") -> Price:
    ratio, less = _discounts(case)
    detail = f"{place}{usd_per_hour(usd)} a GPU{less} ({origin})"
    return Price(usd * ratio, case.node.capacity_type, source, "per_gpu", detail)


def _of_node(
    case: Case, usd: float, source: str, place: str, origin: str, *, estimated: bool = False
) -> Price:
    ratio, less = _discounts(case)
    split, weights = case.prices.split, case.prices.gpu_only_weights
    part, carved = 1.0, ""
    if split == "gpu_only":
        part = weights.gpu / (weights.gpu + weights.cpu + weights.memory)
        carved = f" x {part:.4g} for the GPUs"
    # Nothing says how a node's price divides over models: evenly keeps the bill whole.
    evenly = " of several models, evenly" if case.mixed else ""
    detail = f"{place}{usd_per_hour(usd)}{less}{carved} / {case.count.words}{evenly} ({origin})"
    return Price(
        usd * ratio * part / case.count.devices,
        case.node.capacity_type,
        source,
        split,
        detail,
        estimated or case.mixed,
    )


def _on_premises(case: Case, terms: OnPremises, origin: str) -> Price:
    watts = case.gpu.power_watts
    measured = watts is not None and 0 <= watts < math.inf
    if watts is None or not measured:
        watts = terms.idle_watts
    capital = terms.capital_usd / (terms.lifetime_years * _HOURS_A_YEAR)
    energy = watts / 1000 * terms.pue * terms.usd_per_kwh
    detail = (
        f"{number(terms.capital_usd)} USD over {number(terms.lifetime_years)} years"
        f" + {watts:.0f} W{'' if measured else ' assumed'} x PUE {number(terms.pue)}"
        f" x {number(terms.usd_per_kwh)} USD/kWh ({origin})"
    )
    capacity = case.node.capacity_type
    source = "on_premises"
    return Price(capital + energy, capacity, source, source, detail, estimated=not measured)


def matching_row(
    model: str, node: Node, prices: Prices, names: Mapping[str, str]
) -> tuple[int, PriceRow] | None:
    """The first row of the user's table all of whose stated conditions match, and its place."""
    for position, row in enumerate(prices.table):
        if (
            (row.instance_type is None or same(row.instance_type, node.instance_type))
            and (row.region is None or same(row.region, node.region))
            and (row.capacity_type is None or row.capacity_type == node.capacity_type)
            and all(node.labels.get(key) == value for key, value in row.node_selector.items())
            and (row.gpu_model is None or is_model(row.gpu_model, model, names))
        ):
            return position, row
    return None


def _discounts(case: Case) -> tuple[float, str]:
    """What is left of a list price, and the words for it."""
    matching = [it for it in case.prices.discounts if _applies(it, case)]
    words = "".join(
        f" less {number(100 * it.ratio)} %" + (f" {it.name}" if it.name else "") for it in matching
    )
    return math.prod(1 - it.ratio for it in matching), words


def _applies(discount: Discount, case: Case) -> bool:
    node, model = case.node, case.gpu.device.model
    return (
        (discount.provider is None or same(discount.provider, node.provider))
        and (discount.capacity_type is None or discount.capacity_type == node.capacity_type)
        and (discount.instance_type is None or same(discount.instance_type, node.instance_type))
        and (
            discount.gpu_model is None or is_model(discount.gpu_model, model, case.catalogue.names)
        )
    )


ORDER: tuple[tuple[str, Callable[[Case], Price | None]], ...] = (
    ("node_annotation", _by_annotation),
    ("table", by_table),
    ("catalogue", by_catalogue),
    ("fallback", _by_fallback),
)
"""Who is asked for a price, and in which order; each answers with None where it knows none."""


def why_unpriced(case: Case) -> str:
    """What stood in the way, in words."""
    node, catalogue = case.node, case.catalogue
    if not case.prices.use_catalogue:
        return "nothing in prices matches and the catalogue is off."
    if not node.instance_type:
        return "nothing in prices matches, and the node's instance type is not known."
    if not catalogue.instance_type:
        return f"nothing in prices matches, and the catalogue does not have {node.instance_type}."
    if catalogue.cards and not catalogue.attached:
        card = case.gpu.device.model or "a GPU of unknown model"
        return (
            "nothing in prices matches, and the catalogue has no price for"
            f" {card} attached to {node.instance_type}."
        )
    place = f"{node.instance_type} in {where(node)}"
    return (
        "nothing in prices matches, and the catalogue has no price for"
        f" {place} as {node.capacity_type or 'on_demand'}."
    )
