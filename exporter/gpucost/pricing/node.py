"""Prices all the GPUs of a node, those that it should have and does not show included. Pure."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.model import Device, GpuReading, Pricing
from gpucost.pricing.alternatives import alternatives
from gpucost.pricing.catalogue import Catalogue, attached, listed, same
from gpucost.pricing.count import count_gpus
from gpucost.pricing.names import plain
from gpucost.pricing.order import Case, matching_row, price
from gpucost.pricing.price_list import day_of
from gpucost.pricing.problems import doubtful, read_annotation, unpriced, without_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpucost.config import Prices
    from gpucost.model import Node, Price, Problem


class Survey(Struct, frozen=True):
    """What the price of each GPU is found from; `absent` is one that the node does not show."""

    cases: tuple[Case, ...]
    absent: Case
    models: int
    problems: tuple[Problem, ...]


def survey(gpus: Sequence[GpuReading], node: Node, prices: Prices, catalogue: Catalogue) -> Survey:
    """Put together what each GPU's price is found from."""
    if not same(catalogue.instance_type, node.instance_type):
        catalogue = Catalogue(names=catalogue.names)
    models = {plain(gpu.device.model): gpu.device.model for gpu in gpus}
    catalogue = catalogue.with_card(models.values())
    absent = next(iter(models.values())) if len(models) == 1 else catalogue.gpu_model
    rows = {
        model: matching_row(model, node, prices, catalogue.names)
        for model in (*models.values(), absent)
    }
    count = count_gpus(len(gpus), node, (row for _, row in filter(None, rows.values())), catalogue)
    annotated, problems = read_annotation(node)

    def case(gpu: GpuReading) -> Case:
        row = rows[models.get(plain(gpu.device.model), absent)]
        return Case(gpu, node, prices, catalogue, annotated, row, count, len(models) > 1)

    cases = tuple(case(gpu) for gpu in gpus)
    return Survey(cases, case(GpuReading(Device("", absent))), len(models), problems)


def price_gpus(
    gpus: Sequence[GpuReading], node: Node, prices: Prices, catalogue: Catalogue
) -> Pricing:
    """Price every GPU of the node, and those that it should have and does not show."""
    found = survey(gpus, node, prices, catalogue)
    problems, catalogue, count = found.problems, found.absent.catalogue, found.absent.count
    by_gpu = {case.gpu.device.uuid: price(case) for case in found.cases}
    expected = None if count.expected is None else math.ceil(count.expected)
    missing = 0 if expected is None else max(0, expected - len(gpus))
    by_list = any(it.source == "catalogue" for it in by_gpu.values())
    if by_list and catalogue.attached and listed(node, prices, catalogue) is None:
        problems = (*problems, without_host(node, catalogue))
    bare = [it for it in found.cases if by_gpu[it.gpu.device.uuid].usd_per_hour is None]
    return Pricing(
        by_gpu=by_gpu,
        problems=(
            *problems,
            *unpriced(bare),
            *doubtful(tuple(by_gpu.values()), node, count, len(gpus), found.models),
        ),
        gpu_count=expected,
        missing=missing,
        missing_price=price(found.absent) if missing else None,
        dates=_dates(by_gpu.values(), prices, node, catalogue),
        alternatives=_alternatives(found.cases),
    )


def _alternatives(cases: Sequence[Case]) -> dict[str, tuple[Price, ...]]:
    """Each GPU's prices under other capacity types, by UUID; the same for GPUs that are alike."""
    found: dict[tuple[str, int | None], tuple[Price, ...]] = {}
    by_gpu: dict[str, tuple[Price, ...]] = {}
    for case in cases:
        kind = (case.gpu.device.model, None if case.row is None else case.row[0])
        if kind not in found:
            found[kind] = alternatives(case)
        by_gpu[case.gpu.device.uuid] = found[kind]
    return by_gpu


def _dates(
    priced: Iterable[Price], prices: Prices, node: Node, catalogue: Catalogue
) -> dict[str, float]:
    """When the prices in use were right: the list's day, or the one the user states."""
    dates: dict[str, float] = {}
    for source in {it.source for it in priced}:
        day: date | None = None
        if source == "catalogue":
            quotes = (listed(node, prices, catalogue), attached(node, prices, catalogue))
            days = [day_of(it.source_date) for it in quotes if it is not None and it.source_date]
            day = min(filter(None, days), default=None)
        elif source in ("table", "on_premises", "fallback"):
            day = prices.updated
        if day is not None:
            dates[source] = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    return dates
