"""Reads the price list in force, the shipped one or the user's, and the table of GPU models.

Only the block of the node's instance type is kept, so that a list of any length costs no memory.
A list that cannot be used is a Problem, and the one before it stays in force. Figures are facts
with their public source and day beside them (docs/prices.md).
"""

from __future__ import annotations

import csv
import os
from contextlib import contextmanager
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.model import Problem
from gpucost.pricing import Catalogue, CatalogueRow, GpuModel
from gpucost.pricing.names import index
from gpucost.pricing.price_list import PriceListError, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gpucost.model import Node
    from gpucost.pricing.price_list import InstanceType, PriceList

PRICES = "prices.txt"
"""The shipped list, in the format of pricing/price_list.py; made by scripts/build_prices.py."""

MODELS = "gpu_models.csv"
"""gpu_model, nvml_names, other_names, memory_gib, mig_slices, names_source,
names_source_date; sorted, lists separated by `; `."""

MAX_LIST_BYTES = 8 << 20
"""Many times the shipped list; a ConfigMap holds an eighth of it."""

ACCELERATOR = "accelerator:"
"""Before the name of a GPU that GCP attaches to a host; its price is without the host's."""

ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"


class Asked(Struct, frozen=True):
    """What of a node decides its block of the list."""

    instance_type: str
    provider: str = ""
    accelerator: str = ""


def asked_of(node: Node) -> Asked:
    """What of this node decides its block."""
    accelerator = node.labels.get(ACCELERATOR_LABEL, "") if node.provider in ("gcp", "") else ""
    return Asked(node.instance_type, node.provider, accelerator)


@lru_cache(maxsize=2)
def load_catalogue(asked: Asked) -> Catalogue:
    """What the shipped list knows of an instance type.

    A node asks at every cycle, so the list is read again only when it turns out another type.
    """
    with shipped() as lines:
        return parse_catalogue(lines, asked)


@contextmanager
def shipped() -> Iterator[Iterator[str]]:
    """The lines of the shipped list."""
    with (resources.files("gpucost") / "data" / PRICES).open(encoding="ascii") as file:
        yield file


def parse_catalogue(lines: Iterable[str], asked: Asked) -> Catalogue:
    """Keep what the list has of an instance type. Raises PriceListError."""
    wanted = asked.instance_type.casefold()
    names = index(load_models())
    listed = find(lines, lambda _, name: name.casefold() == wanted or name.startswith(ACCELERATOR))
    host = _of(listed, asked.instance_type, asked.provider)
    card = _of(listed, f"{ACCELERATOR}{asked.accelerator}", "gcp")
    if host is not None and host.gpu_model:  # GKE labels types that include their GPUs too
        card = None
    cards = [it for it in listed.types if it.name.startswith(ACCELERATOR)]
    bare = host is not None and not host.gpu_model and card is None
    # A label that names a GPU of no known price (with a licence: nvidia-tesla-t4-vws) is believed.
    rows = () if host is None or (bare and asked.accelerator) else _rows(listed, host)
    known = card or host
    if known is None:
        return Catalogue(names=names)
    return Catalogue(
        instance_type=asked.instance_type if host is None else host.name,
        gpu_model=known.gpu_model,
        gpu_count=None if host is None else host.gpu_count,
        rows=rows,
        names=names,
        provider=known.provider,
        attached=() if card is None else _rows(listed, card),
        cards={it.gpu_model: _rows(listed, it) for it in cards} if bare and rows else {},
    )


def _of(listed: PriceList, name: str, provider: str) -> InstanceType | None:
    """The type of this name, of this provider if several have one."""
    alike = [it for it in listed.types if it.name.casefold() == name.casefold()]
    return next((it for it in alike if it.provider == provider), next(iter(alike), None))


def _rows(listed: PriceList, it: InstanceType) -> tuple[CatalogueRow, ...]:
    return tuple(
        CatalogueRow(
            place,
            price.capacity_type,
            price.usd_per_hour,
            price.source,
            listed.sources[price.source].day,
        )
        for price in it.prices
        for place in price.places
    )


class CatalogueFile:
    """The price list of the settings, followed while it changes; the shipped one without it."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._path: Path | None = None
        self._stamp: object = None
        self._asked: Asked | None = None
        self._catalogue: Catalogue | None = None
        self.problem: Problem | None = None

    def catalogue(self, node: Node, path: str | None) -> Catalogue:
        """What is known of this node's type: by the file if there is one, else as shipped."""
        asked = asked_of(node)
        if path is None:
            self.problem, self._catalogue, self._path = None, None, None
            return load_catalogue(asked)
        file = Path(path)
        stamp = _look(file)
        if (file, stamp, asked) != (self._path, self._stamp, self._asked):
            if (file, asked) != (self._path, self._asked):
                self._catalogue = None  # of another file or another type
            self._path, self._stamp, self._asked = file, stamp, asked
            self._read(file, asked)
        return load_catalogue(asked) if self._catalogue is None else self._catalogue

    def _read(self, file: Path, asked: Asked) -> None:
        before = "The shipped list" if self._catalogue is None else "The list before it"
        try:
            with open_list(file) as lines:
                self._catalogue = parse_catalogue(lines, asked)
        except PriceListError as error:
            self.problem = Problem(
                "pricing",
                "invalid_catalogue",
                f"prices.catalogue_file {file} cannot be used: {error}",
                f"{before} stays in force. `gpucost prices refresh` writes a list; `gpucost prices"
                " check --catalogue FILE` says whether one can be used.",
            )
        else:
            self.problem = None


@contextmanager
def open_list(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a list on disk. Raises PriceListError for one that cannot be read."""
    try:
        with path.open(encoding="ascii") as file:
            if os.fstat(file.fileno()).st_size > MAX_LIST_BYTES:
                raise PriceListError(f"larger than {MAX_LIST_BYTES} bytes. Is it a price list?")
            yield file
    except OSError as error:
        raise PriceListError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PriceListError(f"not plain text: byte {error.start}. Is it a price list?") from error


def _look(path: Path) -> tuple[int, int, int] | None:
    """What tells one file from the next; a ConfigMap's is a link that moves to a new file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - the numbers, through links
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1)
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
