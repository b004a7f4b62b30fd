"""The domain: frozen values that flow from the sources to the page, units in their names.

`None` always means "not known", never zero. Nothing here reads, waits or logs.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads the annotations of recordings
from enum import StrEnum
from math import fsum
from typing import NewType

from msgspec import Struct


class Value(Struct, frozen=True, gc=False):
    """A frozen value: a tree of what was there before it, which cannot refer back to it.

    So none is ever garbage in a cycle, and the collector need not know them: without its header
    (16 bytes) a Report of some thousand values is smaller, and sooner made and freed.
    """


UnitId = NewType("UnitId", str)
"""What can be held: a GPU's UUID, or `<gpu uuid>/<gi>/<ci>` for a MIG instance.

GPU and compute instance ids are the join that NVML and DCGM share (DCGM knows no MIG UUID).
"""


HOUR_SECONDS = 3600.0


class State(StrEnum):
    """The one state of a GPU-second, in the order in which they are asked (docs/design.md)."""

    PROVISIONING = "provisioning"
    UNHEALTHY = "unhealthy"
    STRANDED = "stranded"
    UNALLOCATED = "unallocated"
    UNATTRIBUTED = "unattributed"
    STARTING = "starting"
    FAILING = "failing"
    TERMINATING = "terminating"
    UNMEASURED = "unmeasured"
    USED = "used"
    UNDERUSED = "underused"
    IDLE = "idle"


NODE_STATES = (
    State.PROVISIONING,
    State.UNHEALTHY,
    State.STRANDED,
    State.UNALLOCATED,
    State.UNATTRIBUTED,
)
"""The states that the node pays for."""

HOLDER_STATES = (
    State.STARTING,
    State.FAILING,
    State.TERMINATING,
    State.UNMEASURED,
    State.USED,
    State.UNDERUSED,
    State.IDLE,
)
"""The states that a holder pays for; by setting, `unhealthy` too."""

WASTE_STATES = (
    State.IDLE,
    State.UNDERUSED,
    State.STARTING,
    State.FAILING,
    State.TERMINATING,
)
"""A pod's waste, each state its own reason."""


class Signal(StrEnum):
    """Where an activity comes from; all mean the share of time that the device was busy."""

    DCGM_GR_ENGINE = "dcgm_gr_engine_active"
    GPM_GRAPHICS = "gpm_graphics_util"
    NVML_SAMPLES = "nvml_utilization_samples"
    NVML_RATES = "nvml_utilization_rates"
    DCGM_GPU_UTIL = "dcgm_gpu_util"
    PROCESSES = "nvml_process_utilization"


class Method(StrEnum):
    """How a share was found."""

    EXCLUSIVE = "exclusive"
    MIG = "mig"
    REPLICAS = "replicas"
    FRACTION = "fraction"
    EVEN = "even"


# --- What a device is -------------------------------------------------------------------------


class MigInstance(Value, frozen=True):
    """A MIG device: one compute instance of one GPU instance.

    `compute_slices` are those of the compute instance (the 1 of `1c.3g.20gb`); `uuid` is None
    where only DCGM sees it.
    """

    gi: int
    ci: int
    profile: str
    compute_slices: int
    memory_bytes: int | None = None
    uuid: str | None = None
    placement: int | None = None
    """The memory slice of the GPU at which its GPU instance begins."""


class Device(Value, frozen=True):
    """A physical GPU.

    `index` is the driver's, `minor` the N of /dev/nvidiaN (GKE names devices by it). `mig` is
    None where MIG mode is off, else its instances, perhaps none.
    """

    uuid: str
    model: str
    index: int | None = None
    minor: int | None = None
    memory_bytes: int | None = None
    mig: tuple[MigInstance, ...] | None = None
    mig_slices: int | None = None
    """Compute slices of the whole GPU when partitioned (7 on A100 and H100, 4 on A30)."""


def unit_of(gpu_uuid: str, instance: MigInstance | None = None) -> UnitId:
    """The id of a GPU, or of one of its MIG instances."""
    if instance is None:
        return UnitId(gpu_uuid)
    return UnitId(f"{gpu_uuid}/{instance.gi}/{instance.ci}")


# --- What a device does -----------------------------------------------------------------------


class Activity(Value, frozen=True):
    """The share of time a device was busy since the last reading.

    `ratio` is the mean and `peak` the highest sample, both 0 to 1.
    """

    ratio: float
    peak: float
    signal: Signal


class Efficiency(Value, frozen=True):
    """How hard the busy device worked, 0 to 1. Published, and never decides money."""

    sm: float | None = None
    tensor: float | None = None
    memory: float | None = None


class Process(Value, frozen=True):
    """A process on a device, by its host PID.

    `cgroup` is its /proc/<pid>/cgroup: None where the host's processes cannot be seen, empty
    where there is none by that PID (any more). `sm_ratio` and `sm_peak` are its part of the
    device's busy time since the last reading, 0 to 1, None where it was not measured. `mps` marks
    a server or a client of an MPS daemon, whose work the driver does not tell apart.
    """

    pid: int
    memory_bytes: int | None = None
    cgroup: str | None = None
    sm_ratio: float | None = None
    sm_peak: float | None = None
    mps: bool = False


class UnitReading(Value, frozen=True):
    """What one unit (a GPU or a MIG instance) did since the last reading."""

    activity: Activity | None = None
    efficiency: Efficiency | None = None
    memory_used_bytes: int | None = None
    processes: tuple[Process, ...] | None = None


class GpuReading(Value, frozen=True):
    """One physical GPU at one moment: what it is, what it did, how it is.

    `instances` holds a reading for each MIG instance of `device`, in the same order. `faults`
    are empty on a healthy GPU, else say why it cannot be used. Counters (`energy_joules`,
    `xid_events`: XID code to count) are as their source keeps them, and may restart.
    """

    device: Device
    reading: UnitReading = UnitReading()
    instances: tuple[UnitReading, ...] = ()
    power_watts: float | None = None
    energy_joules: float | None = None
    temperature_celsius: float | None = None
    sm_clock_hertz: float | None = None
    faults: tuple[str, ...] = ()
    xid_events: Mapping[int, int] = {}
    seen: bool = True
    """False where no source could look this time: only what it is is known, not how."""


# --- Who holds it -----------------------------------------------------------------------------


class Holder(Value, frozen=True, order=True, cache_hash=True):
    """A container of a pod."""

    namespace: str
    pod: str
    container: str


NODE = Holder(namespace="", pod="", container="")
"""The node itself, who pays for what nobody holds."""


class Seat(Value, frozen=True, order=True, cache_hash=True):
    """A holder on one GPU model."""

    holder: Holder
    gpu_model: str


class Holding(Value, frozen=True):
    """A device id that the kubelet (or DCGM's pod labels) says a container holds.

    `device_id` is in the source's words: a UUID, `<uuid>::<n>`, `nvidia<minor>/gi<g>`, ...;
    `attribution.DeviceIndex` knows them. `resource` is the extended resource's name, or empty.
    `claim` is the DRA claim by which it is held (`<namespace>/<name>`, and its share where it has
    one: it is then `shareable` with other claims), `fraction` the part of the device that was
    reserved by it where that is stated; None where the id says it.
    """

    holder: Holder
    resource: str
    device_id: str
    claim: str = ""
    shareable: bool = False
    fraction: float | None = None


class Claimed(Value, frozen=True, order=True):
    """A device that a container holds through a DRA claim, in the kubelet's words.

    `claim` is `<namespace>/<name>`; which GPU it is, only the driver's ResourceSlices say.
    """

    holder: Holder
    claim: str
    pool: str
    device: str
    share_id: str = ""


class Claimable(Value, frozen=True):
    """A device that NVIDIA's DRA driver offers on this node.

    A GPU has its UUID, and so has a MIG device that is there already; one that is made when it is
    claimed has none, and is known by its parent's UUID, its profile and where it begins
    (`placement`, in memory slices). `capacity` is what there is of it to be consumed, by name
    (bytes of `memory`, ...).
    """

    kind: str
    uuid: str | None = None
    parent_uuid: str | None = None
    profile: str | None = None
    placement: int | None = None
    capacity: Mapping[str, float] = {}


class ClaimResult(Value, frozen=True):
    """A device that the scheduler gave to a claim, and for which of its requests.

    An `admin` one is for looking after the device: it does not hold it. `consumed` is what it takes
    of the device's capacities, empty where it takes the device.
    """

    request: str
    pool: str
    device: str
    share_id: str = ""
    admin: bool = False
    consumed: Mapping[str, float] = {}


class Holdings(Value, frozen=True):
    """Everything held on the node, by one source.

    `offered` lists the device ids that can be held at all (replicas of a shared GPU counted
    one by one), None where the source cannot say. `claimed` is held through DRA, and not yet
    among `holdings` (claims.py). `unresolved` counts what is held in a form that could not be
    expressed as a device id: while it is not 0, nobody knows that a device is free. `assumed`
    marks a machine without Kubernetes: nobody can hold, but nobody said so either.
    """

    holdings: tuple[Holding, ...] = ()
    offered: tuple[str, ...] | None = None
    unresolved: int = 0
    assumed: bool = False
    claimed: tuple[Claimed, ...] = ()


class ContainerStatus(Value, frozen=True):
    """A container as the kubelet reports it through the API; `waiting` is its reason or empty.

    `id` is the runtime's (64 hex digits, without its scheme), empty before it has one.
    """

    name: str
    running: bool = False
    waiting: str = ""
    restarts: int = 0
    last_exit_code: int | None = None
    init: bool = False
    id: str = ""


class ContainerClaim(Value, frozen=True):
    """A container's word for what it takes of a claim of its pod: one request, or all (empty)."""

    container: str
    claim: str
    request: str = ""


class Reserved(Value, frozen=True):
    """The part of a GPU that a scheduler of fractions (HAMi) reserved for a container.

    0 stands for what was not limited.
    """

    container: str
    uuid: str
    memory_bytes: int = 0
    cores_ratio: float = 0.0


class Pod(Value, frozen=True):
    """A pod of this node as the API server shows it.

    `ready_probe` is True where any container has a readiness probe. `gpu_containers` are the
    containers that ask for a GPU resource; `init_gpus` says of each such resource the most that one
    of its ordinary init containers asks for. `labels` and `annotations` hold only those that the
    settings allow to be published.
    """

    namespace: str
    name: str
    uid: str
    phase: str
    workload: str
    workload_kind: str
    team: str
    started_at: float | None = None
    ready: bool = False
    ready_probe: bool = False
    deleted: bool = False
    containers: tuple[ContainerStatus, ...] = ()
    gpu_containers: tuple[str, ...] = ()
    init_gpus: Mapping[str, int] = {}
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    claims: tuple[ContainerClaim, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    cgroup_uid: str = ""
    """The UID in its cgroup's name where that is not `uid`: of a static pod."""
    serving: Serving | None = None
    """None where nothing says that it shows metrics, nor what it is to others."""

    @property
    def finished(self) -> bool:
        """Whether it ended; kubelets before 1.34 still list its devices."""
        return self.phase in ("Succeeded", "Failed")


class Node(Value, frozen=True):
    """This node. `labels` and `annotations` are whole: the price table selects by them."""

    name: str
    instance_type: str = ""
    region: str = ""
    zone: str = ""
    node_pool: str = ""
    capacity_type: str = ""
    """on_demand, spot or reserved; empty where nothing says."""
    provider: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


# --- What work came out -----------------------------------------------------------------------


class Count(StrEnum):
    """What an engine counts of its work, each since its start.

    Requests in all and by outcome, tokens (`prompt` holds the cached ones, `input` does not),
    seconds of work by phase and in all, and what went through how many batches.
    """

    FINISHED = "finished"
    SUCCESS = "success"
    FAILURE = "failure"
    ABORTED = "aborted"
    PROMPT = "prompt"
    CACHED = "cached"
    INPUT = "input"
    OUTPUT = "output"
    PREFILL_SECONDS = "prefill_seconds"
    DECODE_SECONDS = "decode_seconds"
    COMPUTE_SECONDS = "compute_seconds"
    BATCHED = "batched"
    BATCHES = "batches"


OUTCOMES = (Count.SUCCESS, Count.FAILURE, Count.ABORTED)


class Part(StrEnum):
    """What a pod is to the work that is asked of it.

    ALONE: what it counts is what it costs. MEMBER: it counts what several pods do together.
    HELPER: it does a part of what another pod counts, so that its own counts would be twice.
    """

    ALONE = "alone"
    MEMBER = "member"
    HELPER = "helper"


class Endpoint(Value, frozen=True):
    """Where a pod shows its metrics, at its own address.

    `rule` is the place of the settings' rule that says so, None where the pod says so itself;
    `stated` is False where its words were not meant for us (a port called metrics).
    """

    url: str
    engine: str = ""
    """The row of the table of engines; empty: whichever knows the page."""
    rule: int | None = None
    stated: bool = True


class Serving(Value, frozen=True):
    """How a pod's work can be seen.

    `served_model` names what it serves where its engine does not say; `models`, where it is not
    empty, are the only ones that count.
    """

    endpoints: tuple[Endpoint, ...] = ()
    part: Part = Part.ALONE
    served_model: str = ""
    models: tuple[str, ...] = ()


class ModelReading(Value, frozen=True):
    """What an engine says of one served model; a count that it does not keep is absent.

    A count is made of series, each by a name of its own: one may go, or begin anew, while the
    others go on (workers of one pod). `started_at` is when the engine's process started (Unix
    time), None where it does not say.
    """

    engine: str
    served_model: str
    counts: Mapping[Count, Mapping[int, float]]
    running: float | None = None
    waiting: float | None = None
    batch: float | None = None
    started_at: float | None = None

    def totals(self) -> dict[Count, float]:
        """Each count as it stands."""
        return {count: fsum(series.values()) for count, series in self.counts.items()}


class EngineReading(Value, frozen=True):
    """What a pod's engines answered at `read_at`, on the monotonic clock."""

    read_at: float
    models: tuple[ModelReading, ...]


# --- One look at the node ---------------------------------------------------------------------


class Problem(Value, frozen=True, order=True):
    """Something wrong that a person can mend: counted by (source, kind), shown in full."""

    source: str
    kind: str
    message: str
    remedy: str = ""


class SourceStatus(Value, frozen=True):
    """How a source's last read went; `last_success` is Unix time, None before the first."""

    source: str
    up: bool
    duration_seconds: float
    last_success: float | None = None


class Snapshot(Value, frozen=True):
    """The node at one moment, as far as the sources could tell.

    `holdings` is None where no source knows who holds what (a silent kubelet); on a machine
    without Kubernetes it is empty, for there nobody can hold. `pods` is None without the API
    server, keyed by (namespace, name). `node_known` is False until the Node was read.
    `clock_seconds` is the moment on the monotonic clock; `engines` is what the inference servers
    in pods said last, the same mapping until one says something new. `ended` is when the last
    pods that ended did, Unix time by UID.
    """

    wall_time: float
    node: Node
    node_known: bool
    gpus: tuple[GpuReading, ...]
    holdings: Holdings | None
    pods: Mapping[tuple[str, str], Pod] | None
    sources: tuple[SourceStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    clock_seconds: float = 0.0
    engines: Mapping[tuple[str, str], EngineReading] = {}
    ended: Mapping[str, float] = {}


# --- Who pays ---------------------------------------------------------------------------------


class Share(Value, frozen=True):
    """A part of one GPU, and whose it is. The shares of a GPU sum to 1.

    `holder` is None for a part that nobody holds, whose `state` then says why (stranded,
    unallocated or unattributed). `state` is None on held parts: waste.py decides.
    """

    gpu_uuid: str
    seat: Seat
    """Who pays: the holder on this GPU's model, or the node."""
    ratio: float
    unit: UnitId
    instance: MigInstance | None
    slot: int | None
    """The instance's place among its GPU's, and so that of its reading."""
    holder: Holder | None
    method: Method
    state: State | None = None
    measured: bool = True
    """Whether the unit's activity is this holder's alone; else its processes tell (work.py)."""
    of_unit: float = 1.0
    """The part of its unit, 0 to 1: what of the unit's time it has paid for."""


class Attributed(Value, frozen=True):
    """Shares, and what they were made of: while that is the same, so are they.

    `seats` are the present ones, each with its shares (tenure.py).
    """

    devices: tuple[Device, ...]
    holdings: Holdings | None
    mig_split: str
    pods: Mapping[tuple[str, str], Pod] | None
    shares: tuple[Share, ...]
    problems: tuple[Problem, ...]
    seats: Mapping[Seat, tuple[Share, ...]]
    shared: tuple[tuple[Share, ...], ...] = ()
    """The shares of each unit on which the work of several must be told apart."""


class Price(Value, frozen=True):
    """What one whole GPU costs. `usd_per_hour` is None for an unpriced one."""

    usd_per_hour: float | None
    capacity_type: str
    source: str
    """node_annotation, table, catalogue, fallback, on_premises; `none` when unpriced."""
    split: str
    """whole_node, gpu_only, per_gpu (priced as a GPU), on_premises; `none` when unpriced."""
    detail: str = ""
    estimated: bool = False


class Pricing(Value, frozen=True):
    """The price of every GPU of the node, by UUID.

    `gpu_count` is how many GPUs the node should show, None where nothing says; `missing` of
    them are not among the readings, and cost `missing_price` each (a caller who could not read
    the devices must not take them for missing). `dates` is the Unix time at which prices were
    right, by price source.
    """

    by_gpu: Mapping[str, Price]
    problems: tuple[Problem, ...] = ()
    gpu_count: int | None = None
    missing: int = 0
    missing_price: Price | None = None
    dates: Mapping[str, float] = {}
    alternatives: Mapping[str, tuple[Price, ...]] = {}
    """What each GPU would cost under other capacity types, by UUID."""


class Priced(Value, frozen=True):
    """Prices, and what they were made of: while that is the same, so are they.

    Unless they are `metered`: a GPU on premises costs what it draws.
    """

    made_of: tuple[object, ...]
    metered: bool
    pricing: Pricing


class Rate(Value, frozen=True):
    """What flows each second in one state: GPU-seconds and, where priced, dollars."""

    state: State
    gpus: float
    usd_per_second: float | None


# --- The ledger -------------------------------------------------------------------------------


class Account(Value, frozen=True):
    """Totals of one subject since its first second, by state.

    `usd` is None until a first second had a price. `shown_at` and `priced_at` are the ledger's
    clock when the seconds and the dollars were first exposed: they are shown at 0 for a while,
    so that Prometheus sees the first increase.
    """

    seconds: Mapping[State, float]
    usd: Mapping[State, float] | None = None
    shown_at: float | None = None
    priced_at: float | None = None


class GpuLabels(Value, frozen=True):
    """The labels of a GPU's counters, frozen once shown."""

    gpu: str
    gpu_model: str
    capacity_type: str


class GpuAccount(Value, frozen=True):
    """A physical GPU's totals; not shown while `labels` is None."""

    account: Account
    opened_at: float
    labels: GpuLabels | None = None
    awaited: GpuLabels | None = None
    """Those labels that the GPU itself gives, while the node's are waited for."""


class PodAccount(Value, frozen=True):
    """A pod's totals, and the ledger's clock when its holder went; None while it is there."""

    account: Account
    gone_at: float | None = None


class Payer(Value, frozen=True, order=True, cache_hash=True):
    """The labels of a pod's counters, frozen once shown."""

    holder: Holder
    workload: str
    workload_kind: str
    team: str
    gpu_model: str
    capacity_type: str


class Workload(Value, frozen=True, order=True, cache_hash=True):
    """The labels of a month's counters: `month` is like 2026-11."""

    month: str
    namespace: str
    workload: str
    workload_kind: str
    team: str
    gpu_model: str
    capacity_type: str


class Tenure(Value, frozen=True):
    """What is remembered of a seat while it is taken, and until its counters are dropped.

    `since` and `last_active` are Unix time; `opened_at`, `held_at` and `gone_at` the ledger's
    clock. `since` and `held_at` are None while a pod asks for a GPU and holds none yet;
    `held_before` is how long it had held when it was first seen. `payer` is None until the
    labels are known; until then what it spent waits in `pending`, by month, and its energy in
    `pending_joules`.
    """

    uid: str
    opened_at: float
    since: float | None = None
    held_at: float | None = None
    held_before: float = 0.0
    payer: Payer | None = None
    pending: Mapping[str, Account] = {}
    started: bool = False
    last_active: float | None = None
    memory_peak_bytes: int | None = None
    pending_joules: float = 0.0
    gone_at: float | None = None


class Worker(Value, frozen=True, order=True, cache_hash=True):
    """The labels of a pod's energy: all its payers' together, whatever team they name."""

    holder: Holder
    workload: str
    gpu_model: str


class Energy(Value, frozen=True):
    """The energy of what a worker held, since its power was first known and shown."""

    joules: float
    shown_at: float


class Service(Value, frozen=True, order=True, cache_hash=True):
    """The labels of what a pod serves: one model of one engine."""

    namespace: str
    pod: str
    workload: str
    engine: str
    served_model: str


class WorkAccount(Value, frozen=True):
    """What a service has done since it was first seen, over its engine's restarts.

    `counts` go on where those on the page begin anew; `read` is what the page said last, by
    count and series. `shown_at` is the ledger's clock when each count was first exposed. `uid`
    is the pod's and `started_at` the engine's own word of its start (Unix time).
    """

    counts: Mapping[Count, float]
    read: Mapping[Count, Mapping[int, float]]
    shown_at: Mapping[Count, float]
    uid: str = ""
    started_at: float | None = None


class XidCount(Value, frozen=True):
    """XID events of one GPU and code, and the ledger's clock when they were first shown.

    `read` is what the source last counted: it begins anew when the source is opened again.
    """

    count: int
    shown_at: float
    read: int


class Hold(Value, frozen=True):
    """That this very pod held `ratio` of a GPU by this very unit, at some moment.

    Two such facts from both ends of a stretch of time prove that it held throughout: the kubelet
    gives a pod its devices when it admits it, and takes them when the pod has ended. `since` is
    when the pod was given its place (Unix time), None where the API server was silent.
    """

    seat: Seat
    uid: str
    unit: UnitId
    mig_uuid: str | None
    ratio: float
    since: float | None = None


class Gap(Value, frozen=True):
    """Time that passed unseen and is still to be charged (gap.py).

    `stretches` are its seconds by billing month. `gpus` were there at its beginning, None for
    those that are there when it is charged; `holds` are the facts of its beginning. `state` is
    that of what nobody provably held. `found_at` is the ledger's clock when it was noticed.
    """

    stretches: tuple[tuple[str, float], ...]
    found_at: float
    gpus: tuple[str, ...] | None = None
    holds: tuple[Hold, ...] = ()
    state: State = State.UNATTRIBUTED


class Ledger(Value, frozen=True):
    """Every GPU-second since `started_at` (Unix time), in exactly one state and one account.

    `clock_seconds` is the time in which somebody looked: monotonic, deaf to the wall clock's
    jumps, and still while the exporter was down. `looked_from` is that clock when the present
    look began, and `gap` the time before it that is still to be charged.
    `billed_usd` is the integral of the GPUs' prices, kept apart from the accounts so that the
    two can be compared; `node` is what nobody held, `settled_usd` what dropped accounts held.
    """

    started_at: float
    clock_seconds: float = 0.0
    billed_usd: float = 0.0
    settled_usd: float = 0.0
    gpus: Mapping[str, GpuAccount] = {}
    node: Account = Account(seconds={})
    tenures: Mapping[Seat, Tenure] = {}
    pods: Mapping[Payer, PodAccount] = {}
    energy: Mapping[Worker, Energy] = {}
    months: Mapping[Workload, Account] = {}
    charged_at: Mapping[str, float] = {}
    """The ledger's clock when each month was last charged."""
    xids: Mapping[tuple[str, int], XidCount] = {}
    looked_from: float = 0.0
    gap: Gap | None = None
    work: Mapping[Service, WorkAccount] = {}


# --- What work costs --------------------------------------------------------------------------


class WorkSample(Value, frozen=True):
    """A pod's work and cost since its beginning, at one moment of the monotonic clock.

    `usd` is None while its GPUs have no price.
    """

    at: float
    usd: float | None
    counts: Mapping[Service, Mapping[Count, float]]


class UnitCost(Value, frozen=True):
    """What a service's work cost over the window; None where there was none, or no price.

    `share` is its part of the pod's cost and `split` how that was found: `whole`,
    `compute_time`, `tokens` or `requests`. `method` is how the cost was divided between input
    and output: `prefill_decode_time` or `tokens`. `batch` is the mean number of requests that
    were worked on together.
    """

    service: Service
    share: float | None = None
    split: str = ""
    usd_per_request: float | None = None
    method: str = ""
    usd_per_million_input: float | None = None
    usd_per_million_output: float | None = None
    cache_savings_usd_per_hour: float | None = None
    batch: float | None = None


class ServedPod(Value, frozen=True):
    """The trailing window of a pod that serves: the samples of its work, and what they say."""

    reading: EngineReading
    part: Part
    models: tuple[tuple[Service, ModelReading], ...]
    samples: tuple[WorkSample, ...] = ()
    costs: tuple[UnitCost, ...] = ()


# --- What is shown ----------------------------------------------------------------------------


class Usage(Value, frozen=True):
    """What a share of one unit does now; `activity` is None where no signal exists.

    `paid_by` is the share's own seat, but for the node's where that pays for what is unhealthy.
    """

    share: Share
    paid_by: Seat
    rates: tuple[Rate, ...]
    activity: float | None = None
    memory_used_bytes: int | None = None


class Report(Value, frozen=True):
    """Everything one cycle found, ready to be shown. Never changed, only replaced.

    `usages` covers every part of every GPU, held or not. `price_dates` is Unix time by price
    source. `month` is the billing month, like 2026-11, and `month_start` when it began, Unix time.
    """

    snapshot: Snapshot
    usages: tuple[Usage, ...]
    prices: Mapping[str, Price]
    ledger: Ledger
    problems: tuple[Problem, ...]
    month: str
    attributed: Attributed | None = None
    priced: Priced | None = None
    price_dates: Mapping[str, float] = {}
    served: Mapping[tuple[str, str], ServedPod] = {}
    """The pods whose inference servers answer now."""
    config_in_force: bool = True
    config_read_at: float | None = None
    hold_seconds: float = 30.0
    """How long new counters are shown at 0."""
    holder_states: tuple[State, ...] = HOLDER_STATES
    """The states that pods are charged in; `unhealthy` only by setting."""
    simulated: bool = False
    month_start: float | None = None
