"""Reads the tables that are shipped in the package: list prices and GPU models.

Only the rows of one instance type are kept, so that a catalogue of any length costs no memory.
Figures are facts with their public source and day beside them (docs/operations.md, "Prices").
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from gpucost.pricing import Catalogue, CatalogueRow, GpuModel
from gpucost.pricing.names import index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PRICES = "prices.csv"
"""provider, instance_type, region, capacity_type, gpu_model, gpu_count, vcpus, memory_gib,
usd_per_hour, source, source_date; sorted. An empty region is every region of the provider, an
empty price a type whose GPUs are known and whose price is not."""

MODELS = "gpu_models.csv"
"""gpu_model, nvml_names, other_names, memory_gib, mig_slices, names_source,
names_source_date; sorted, lists separated by `; `."""


@lru_cache(maxsize=2)
def load_catalogue(instance_type: str, region: str) -> Catalogue:
    """What the shipped table knows of an instance type; its prices for this region only.

    A node asks at every cycle, so the table is read again only when it turns out another type.
    """
    names = index(load_models())
    return parse_catalogue(rows_of(PRICES), instance_type, region, names)


def parse_catalogue(
    rows: Iterable[Mapping[str, str]], instance_type: str, region: str, names: Mapping[str, str]
) -> Catalogue:
    """Keep what the price table has of an instance type. Raises ValueError on a bad figure."""
    alike = [row for row in rows if row["instance_type"].casefold() == instance_type.casefold()]
    if not alike:
        return Catalogue(names=names)
    first = alike[0]
    return Catalogue(
        instance_type=first["instance_type"],
        gpu_model=first["gpu_model"],
        gpu_count=float(first["gpu_count"]) if first["gpu_count"] else None,
        rows=tuple(
            CatalogueRow(
                row["region"],
                row["capacity_type"],
                float(row["usd_per_hour"]),
                row["source"],
                row["source_date"],
            )
            for row in alike
            if row["usd_per_hour"] and row["region"].casefold() in ("", region.casefold())
        ),
        names=names,
    )


def load_models() -> tuple[GpuModel, ...]:
    """Every GPU model that is known by name."""
    return tuple(
        GpuModel(
            id=row["gpu_model"],
            names=tuple(
                name
                for column in ("nvml_names", "other_names")
                for name in row[column].split("; ")
                if name
            ),
            memory_gib=float(row["memory_gib"]),
            mig_slices=int(row["mig_slices"]) if row["mig_slices"] else None,
        )
        for row in rows_of(MODELS)
    )


def rows_of(table: str) -> Iterator[Mapping[str, str]]:
    """The rows of a shipped table, by column."""
    path = resources.files("gpucost") / "data" / table
    with path.open(encoding="utf-8") as file:
        yield from csv.DictReader(file)
