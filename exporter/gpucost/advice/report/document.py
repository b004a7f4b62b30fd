"""The report as a document: what is rendered, and what `--format json` writes.

docs/report.schema.json is made from these types. Fields are added, not taken away or given another
meaning; where that must be, `version` rises. null is not known.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

VERSION = 1

By = Literal["namespace", "team", "workload", "model", "node"]


class Scope(Struct, frozen=True):
    """What the figures are of."""

    start: Annotated[str, Meta(description="RFC 3339, whole hours")]
    end: str
    time_zone: Annotated[str, Meta(description="of days and of the week's hours")]
    seen_hours: Annotated[float, Meta(description="hours that were recorded in that range")]
    cluster: Annotated[str, Meta(description="the one that was asked for; empty: all")] = ""
    clusters: tuple[str, ...] = ()


class Total(Struct, frozen=True):
    """All dollars of the range."""

    usd: float
    usd_per_month: Annotated[float, Meta(description="at this pace, 730 hours")]
    waste_usd: Annotated[
        float,
        Meta(description="of holders: idle, underused, starting, failing, terminating"),
    ]
    nodes_usd: Annotated[float, Meta(description="that nodes bear: unallocated, stranded, ...")]
    by_ledger: Annotated[
        bool, Meta(description="whether the exporters' ledgers say the total, or rates only")
    ]
    savings_usd_per_month: Annotated[
        float, Meta(description="of all actions together, every dollar once")
    ]
    savings_by_confidence: Annotated[
        dict[str, float], Meta(description="the same by high, medium, low; USD a month")
    ]


class StateUsd(Struct, frozen=True):
    """The dollars of one state."""

    state: str
    usd: float
    meaning: str


class Day(Struct, frozen=True):
    """The dollars of a day, by state."""

    day: Annotated[str, Meta(description="YYYY-MM-DD in the report's time zone")]
    usd: float
    states: dict[str, float]


class Row(Struct, frozen=True):
    """One of what the report is by; an empty name is what nodes bear themselves."""

    name: str
    usd: float
    waste_usd: float | None
    activity: Annotated[float | None, Meta(description="mean, 0 to 1")]
    savings_usd_per_month: float | None


class Served(Struct, frozen=True):
    """What a workload served, and what it cost."""

    cluster: str
    namespace: str
    workload: str
    served_models: tuple[str, ...]
    engines: tuple[str, ...]
    usd: float
    requests: float | None
    usd_per_request: float | None
    tokens: Annotated[float | None, Meta(description="computed input and output")]
    usd_per_million_tokens: float | None
    cache_hit_ratio: float | None
    mean_batch: float | None


class Evidence(Struct, frozen=True):
    """A query by which a reader checks."""

    says: str
    promql: str
    at: Annotated[str, Meta(description="the moment to ask it for")]


class Other(Struct, frozen=True):
    """What could be done in its place, and would save by itself."""

    kind: str
    title: str
    do: str
    usd_per_month: float
    confidence: str


class Advice(Struct, frozen=True):
    """Something to do."""

    rank: int
    kind: str
    title: str
    do: str
    why: str
    cluster: str
    namespace: str
    workload: str
    node_pool: str
    usd: Annotated[float, Meta(description="that it would have saved in the range")]
    usd_per_month: float
    confidence: str
    risk: str
    risk_words: str
    expected: Annotated[str, Meta(description="the range and its source, of an estimate")]
    ended: Annotated[bool, Meta(description="its last day was over before the range's end")]
    evidence: tuple[Evidence, ...]
    instead: tuple[Other, ...]
    patch: str = ""


class Remark(Struct, frozen=True):
    """Something about the data, and what it does to the figures."""

    kind: str
    text: str


class Billed(Struct, frozen=True):
    """The ledger beside an invoice: an instance type on a day, or all its days (`day` empty).

    `factor` is invoice over ledger: what a price list is to be multiplied by.
    """

    instance_type: str
    day: str
    invoice_usd: float | None
    ledger_usd: float | None
    invoice_hours: float | None
    ledger_hours: float | None
    factor: float | None
    reason: str


class Invoice(Struct, frozen=True):
    """An invoice set beside the ledger."""

    file: str
    form: str
    invoice_usd: float
    ledger_usd: float
    factor: float | None
    types: tuple[Billed, ...]
    days: tuple[Billed, ...]


class Report(Struct, frozen=True):
    """All of it."""

    version: int
    generated_at: str
    gpucost: Annotated[str, Meta(description="the version that made it")]
    scope: Scope
    total: Total
    remarks: tuple[Remark, ...]
    states: tuple[StateUsd, ...]
    days: tuple[Day, ...]
    by: By
    rows: tuple[Row, ...]
    services: tuple[Served, ...]
    actions: tuple[Advice, ...]
    invoice: Invoice | None = None
