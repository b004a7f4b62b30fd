"""What was observed, and what is concluded from it: frozen values, units in their names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from gpucost.model import HOUR_SECONDS, WASTE_STATES
from gpucost.sizing.offers import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.offers import Offer

WEEK_HOURS = 168
GIB = 1 << 30

WHOLE = "nvidia_com_gpu"
"""How kube-state-metrics writes the resource of whole GPUs."""


def mig_resource(profile: str) -> str:
    """How it writes that of MIG instances: nvidia.com/mig-1g.10gb."""
    return f"nvidia_com_mig_{re.sub('[^a-zA-Z0-9]', '_', profile)}"


UNKNOWN_STATE = "unknown"
"""Dollars that the ledgers charged and whose state no rate has shown: pods of seconds, and gaps."""

RUNNING = ("used", "underused", "idle")
"""States of a holder whose activity is known."""

GIVEN_BACK = {
    "free_idle": "idle",
    "failing": "failing",
    "terminating": "terminating",
    "drain": "unallocated",
    "repartition": "stranded",
    "replace": "unhealthy",
}
"""What rules/advice.yaml calls what could be given back, and the state of the dollars in it."""


class Place(Struct, frozen=True):
    """What something is about; what is empty is left open."""

    cluster: str
    namespace: str = ""
    workload: str = ""
    node_pool: str = ""


class Key(Struct, frozen=True, order=True):
    """Whose dollars: a workload on one kind of GPU, or with empty namespace the nodes' own."""

    cluster: str
    namespace: str
    team: str
    workload: str
    workload_kind: str
    gpu_model: str
    capacity_type: str
    node_pool: str

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.cluster, self.namespace, self.workload, self.node_pool)

    @property
    def pool(self) -> Pool:
        """The GPUs it is on."""
        return Pool(self.cluster, self.node_pool, self.gpu_model, self.capacity_type)


class Pool(Struct, frozen=True, order=True):
    """GPUs of one kind in one node pool."""

    cluster: str
    node_pool: str
    gpu_model: str
    capacity_type: str


class Week(Struct, frozen=True):
    """A week by its hours, Monday 0:00 first, in the report's time zone: USD, summed over weeks."""

    used_usd: tuple[float, ...]
    idle_usd: tuple[float, ...]
    hours: tuple[int, ...]
    """How often this hour of the week was seen."""


class Line(Struct, frozen=True):
    """A Key's dollars in the range, by state, and how it spent them.

    `longest_hours` is for how long it held GPUs without a pause, `quiet_hours` those without work.
    """

    key: Key
    usd: Mapping[str, float]
    usd_by_day: Mapping[int, float]
    held_hours: int
    longest_hours: int
    quiet_hours: int
    first_seconds: float
    last_seconds: float
    week: Week
    free_usd: Mapping[str, float] = {}
    """What of them could be given back, by the advice of GIVEN_BACK."""
    gpus: float | None = None
    """Mean while it held any."""
    peak_activity: float | None = None
    """The activity that it stayed below for 99 % of the time."""
    memory_peak_bytes: float | None = None
    """Of its fullest GPU."""
    idle_is_wanted: bool = False
    """Its pods are annotated gpucost.io/exempt=idle."""

    @property
    def total_usd(self) -> float:
        """Of all states."""
        return sum(self.usd.values())

    @property
    def running_usd(self) -> float:
        """Of the states whose activity is known."""
        return sum(self.usd.get(state, 0.0) for state in RUNNING)

    @property
    def activity(self) -> float | None:
        """Mean share of time its GPUs were busy; None where no signal told."""
        running = self.running_usd
        return self.usd.get("used", 0.0) / running if running else None

    @property
    def waste_usd(self) -> float:
        """Of the states that do no work."""
        return sum(self.usd.get(state, 0.0) for state in WASTE_STATES)

    def given_back(self, advice: str) -> Claim:
        """What of it could be given back, by an advice of GIVEN_BACK."""
        state = GIVEN_BACK[advice]
        spent = self.usd.get(state)
        return Claim(
            self.key, state, min(1.0, self.free_usd.get(advice, 0.0) / spent if spent else 0.0)
        )


class Node(Struct, frozen=True):
    """A node and what of it lay free.

    `free_gpus` is the mean, `always_free_gpus` what was free at every moment that was looked at;
    `free_now` what nobody held at the end, by the resource that a pod would ask for.
    """

    cluster: str
    name: str
    node_pool: str
    instance_type: str
    region: str
    zone: str
    capacity_type: str
    provider: str
    gpu_model: str
    gpus: float
    free_gpus: float
    always_free_gpus: float
    free_now: Mapping[str, float] = {}


class Service(Struct, frozen=True):
    """What a workload served in the range. None is not known."""

    cluster: str
    namespace: str
    workload: str
    served_models: tuple[str, ...]
    engines: tuple[str, ...]
    usd: float
    requests: float | None = None
    tokens: float | None = None
    input_tokens: float | None = None
    cached_tokens: float | None = None
    best_hit_ratio: float | None = None
    """Of the input tokens that came from the prefix cache, in its best hour."""
    batch: float | None = None
    best_batch: float | None = None

    @property
    def usd_per_request(self) -> float | None:
        """All its cost over all its requests."""
        return self.usd / self.requests if self.requests else None

    @property
    def usd_per_million_tokens(self) -> float | None:
        """All its cost over the tokens that were computed or made."""
        return 1e6 * self.usd / self.tokens if self.tokens else None

    @property
    def hit_ratio(self) -> float | None:
        """Of the input tokens, what came from the prefix cache."""
        if self.cached_tokens is None or self.input_tokens is None:
            return None
        asked = self.input_tokens + self.cached_tokens
        return self.cached_tokens / asked if asked else None


class Pending(Struct, frozen=True):
    """Pods that wait, all for as many GPUs of one node; `workload` may be a pod's own name.

    `peak_bytes` is what the fullest GPU of their workload's other pods held, by GPU model.
    """

    cluster: str
    namespace: str
    workload: str
    resource: str
    gpus: float
    pods: int
    peak_bytes: Mapping[str, float] = {}


class OtherPrice(Struct, frozen=True):
    """What a GPU of a pool costs, and would cost under another capacity type: USD an hour."""

    pool: Pool
    usd_per_hour: float
    other_usd_per_hour: Mapping[str, float]


Market = tuple[str, str, str]
"""Provider, region and capacity type."""


class Note(Struct, frozen=True):
    """Something about the data, in the report's head: what it is and what it does to figures."""

    kind: str
    text: str


class Query(Struct, frozen=True):
    """A query, its time, and what it shows; for a reader to ask again."""

    says: str
    promql: str
    at: str


class Facts(Struct, frozen=True):
    """All that was observed in a range, Unix seconds.

    `ledger_usd` is the bill by the exporters' own ledgers, None where they do not cover the range.
    """

    start: float
    end: float
    seen_seconds: float
    lines: tuple[Line, ...]
    sample_seconds: float = 0.0
    """What a sample of a recorded rate stands for; 0 where nothing is recorded."""
    ledger_usd: float | None = None
    nodes: tuple[Node, ...] = ()
    services: tuple[Service, ...] = ()
    pending: tuple[Pending, ...] | None = None
    prices: tuple[OtherPrice, ...] = ()
    hardware: Mapping[str, GpuSpeed] = {}
    offers: Mapping[Market, Sequence[Offer]] = {}
    notes: tuple[Note, ...] = ()
    floors: Mapping[Pool, float] = {}
    """USD that the work in a pool cost in its cheapest hour: what is idle or free is not in it."""
    days: Mapping[int, Mapping[str, float]] = {}
    """Of each day in the report's time zone, by its ordinal, USD by state."""
    node_usd: Mapping[tuple[str, str], Mapping[int, float]] = {}
    """By (cluster, node) and day of UTC, by its ordinal; asked only where it is needed."""
    node_types: Mapping[tuple[str, str], str] = {}
    """Instance types of those, by (cluster, node), of nodes that are gone too."""
    zone: str = "UTC"

    @property
    def months(self) -> float:
        """How many months of 730 hours were seen: savings in the range over it are a month's."""
        return self.seen_seconds / HOUR_SECONDS / HOURS_PER_MONTH


Group = Literal["free", "fit", "buy"]
Level = Literal["high", "medium", "low"]


class Claim(Struct, frozen=True):
    """The part of a Key's dollars in a state that an action would save, 0 to 1."""

    key: Key
    state: str
    ratio: float


class Action(Struct, frozen=True):
    """Something to do, and the dollars that it is about."""

    kind: str
    group: Group
    title: str
    place: Place
    do: str
    why: str
    confidence: Level
    risk: Level
    risk_words: str
    claims: tuple[Claim, ...]
    evidence: tuple[Query, ...]
    expected: str = ""
    """The range that is expected, and whose word it is, where the saving is an estimate."""
    patch: str = ""
    """A manifest, for a person to review."""


class Found(Struct, frozen=True):
    """A chosen action, what it saves of what is left, and what could be done in its place."""

    action: Action
    usd: float
    usd_per_month: float
    saved: Mapping[Key, float]
    """Whose dollars they are."""
    instead: tuple[Alternative, ...] = ()


class Alternative(Struct, frozen=True):
    """What else could be done with the same dollars, and what it would save by itself."""

    action: Action
    usd_per_month: float
