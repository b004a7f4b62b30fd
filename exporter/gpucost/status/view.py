"""What the status page says, as values. Made by figures.py, written by page.py.

None means not known; a sum over parts of which some have no price says so (`Amount.complete`),
and is never passed off as the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from gpucost.model import (
        GpuReading,
        Holder,
        Method,
        Node,
        Price,
        Problem,
        SourceStatus,
        State,
    )


class Amount(Struct, frozen=True):
    """USD (or USD per hour), None where no part has a price; incomplete where only some have."""

    usd: float | None = None
    complete: bool = True


class Slice(Struct, frozen=True):
    """One state's piece of a bar: how many GPUs are in it, and what they cost per hour."""

    state: State
    gpus: float
    usd_per_hour: Amount


class Part(Struct, frozen=True):
    """A part of a GPU with what it is in: `count` alike parts of `gpus` GPUs in all.

    `profile` is the MIG profile, or empty; `holder` is None where nobody holds it.
    """

    profile: str
    holder: Holder | None
    gpus: float
    slices: tuple[Slice, ...]
    activity: float | None
    count: int = 1


class GpuCard(Struct, frozen=True):
    """A physical GPU."""

    name: str
    reading: GpuReading
    price: Price | None
    parts: tuple[Part, ...]
    parts_left_out: int


class PodRow(Struct, frozen=True):
    """A container that holds GPUs. `devices` are the names of its GPUs with their MIG profile."""

    holder: Holder
    workload: str
    workload_kind: str
    team: str
    gpus: float
    devices: tuple[str, ...]
    methods: tuple[Method, ...]
    activity: float | None
    memory_used_bytes: int | None
    slices: tuple[Slice, ...]
    usd_per_hour: Amount
    waste: Amount
    total: Amount


class StateLine(Struct, frozen=True):
    """A line of the ledger: one state, now and since the ledger's start."""

    state: State
    paid_by: str
    gpus: float
    usd_per_hour: Amount
    gpu_hours: float
    usd: Amount


class Headline(Struct, frozen=True):
    """The figures at the top. `waste_ratio` is of what is priced."""

    spend: Amount
    waste: Amount
    waste_ratio: float | None
    unheld: Amount
    since_start: Amount
    month_to_date: Amount


class View(Struct, frozen=True):
    """The whole page."""

    node: Node
    now: float
    read_at: float
    simulated: bool
    config_in_force: bool
    headline: Headline
    slices: tuple[Slice, ...]
    gpus: tuple[GpuCard, ...]
    gpus_left_out: int
    unpriced: int
    pods: tuple[PodRow, ...]
    pods_left_out: tuple[PodRow, ...]
    lines: tuple[StateLine, ...]
    started_at: float
    month: str
    imbalance_usd: float
    sources: tuple[SourceStatus, ...]
    sources_left_out: int
    problems: tuple[Problem, ...]
    problems_left_out: int
