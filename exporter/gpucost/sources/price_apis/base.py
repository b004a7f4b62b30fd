"""What a price API gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Collection


class Offer(Struct, frozen=True):
    """One price: USD an hour for the whole instance, in a place (`*`: everywhere).

    What the API does not say of the type is None.
    """

    instance_type: str
    capacity_type: str
    place: str
    usd_per_hour: float
    gpu_count: float | None = None
    vcpus: float | None = None
    memory_gib: float | None = None


class Unit(Struct, frozen=True):
    """A part of an API's prices that is read at once. `day` is when they were right."""

    name: str
    day: str
    offers: tuple[Offer, ...]


class Wanted(Struct, frozen=True):
    """What to read: the instance types that are known to have GPUs, and the regions; none: all."""

    types: Collection[str]
    regions: tuple[str, ...]
