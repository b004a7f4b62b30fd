"""Why a node pays what it pays: every step of the order, with its answer. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.pricing.alternatives import alternatives
from gpucost.pricing.node import survey
from gpucost.pricing.order import ANNOTATION, ORDER, price, why_unpriced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpucost.config import Prices
    from gpucost.model import GpuReading, Node, Price
    from gpucost.pricing.catalogue import Catalogue
    from gpucost.pricing.order import Case


class Step(Struct, frozen=True):
    """Who was asked, and the price they give; None with the reason in `why`."""

    source: str
    price: Price | None
    why: str = ""


class Explained(Struct, frozen=True):
    """One GPU model of a node: its price, how it was found, and what else it could cost."""

    gpu_model: str
    gpus: int
    price: Price
    steps: tuple[Step, ...]
    alternatives: tuple[Price, ...]


def explain(
    gpus: Sequence[GpuReading], node: Node, prices: Prices, catalogue: Catalogue
) -> tuple[Explained, ...]:
    """How each model's price is found; without any GPU, that of the type's."""
    found = survey(gpus, node, prices, catalogue)
    by_model: dict[str, list[Case]] = {}
    for case in found.cases or (found.absent,) * found.absent.count.devices:
        by_model.setdefault(case.gpu.device.model, []).append(case)
    return tuple(
        Explained(
            model,
            len(alike),
            price(alike[0]),
            tuple(_step(source, ask(alike[0]), alike[0]) for source, ask in ORDER),
            alternatives(alike[0]),
        )
        for model, alike in by_model.items()
    )


def _step(source: str, given: Price | None, case: Case) -> Step:
    if given is not None:
        return Step(source, given)
    prices = case.prices
    why = {
        "node_annotation": f"the node has no {ANNOTATION}",
        "table": _none_of(len(prices.table), "row"),
        "catalogue": why_unpriced(case).removeprefix("nothing in prices matches, and "),
        "fallback": _none_of(len(prices.fallback), "model"),
    }
    return Step(source, None, why[source])


def _none_of(count: int, what: str) -> str:
    return f"no {what} is set" if not count else f"none of {count} {what}s matches"
