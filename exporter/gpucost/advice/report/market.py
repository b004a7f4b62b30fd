"""What else there is to run on: reads the package's own price list and speeds of GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.facts_files import shipped_facts
from gpucost.prices import load_models, shipped
from gpucost.pricing.names import index, plain
from gpucost.pricing.price_list import CAPACITY_TYPES, parse
from gpucost.sizing.gpus import gpu_speeds
from gpucost.sizing.offers import Wanted
from gpucost.sizing.offers import offers as offers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpucost.advice.report.facts import Market, Node
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.offers import Offer


def hardware() -> dict[str, GpuSpeed]:
    """Known GPU models by every plain name that they have, a list's or NVML's."""
    models = load_models()
    known = {plain(it.gpu_model): it for it in gpu_speeds(shipped_facts(), models).values()}
    return {name: known[model] for name, model in index(models).items() if model in known}


def offers(nodes: Iterable[Node]) -> dict[Market, list[Offer]]:
    """What the shipped price list has where these nodes are, by provider, region and capacity."""
    with shipped() as lines:
        listed = parse(lines)
    places = {(it.provider, it.region) for it in nodes if it.provider and it.region}
    return {
        (provider, region, capacity): offers_of(listed, Wanted(capacity, region, provider))
        for provider, region in places
        for capacity in CAPACITY_TYPES
    }


def gpu_counts() -> dict[str, float]:
    """How many GPUs an instance type has, by its name in small letters."""
    with shipped() as lines:
        listed = parse(lines)
    return {it.name.casefold(): it.gpu_count for it in listed.types if it.gpu_count is not None}
