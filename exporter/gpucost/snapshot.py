"""Gathers the sources into a Snapshot.

A source that fails or hangs becomes a Problem, never an exception and never a zero: what it
last said stays for as long as it may be believed, and after that it is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gpucost.attribution import DeviceIndex
from gpucost.claims import may_hold_unlisted, resolved, with_reserved, with_unlisted
from gpucost.merge import merge_devices
from gpucost.model import (
    Device,
    GpuReading,
    Holder,
    Holding,
    Holdings,
    Node,
    Problem,
    Signal,
    Snapshot,
    SourceStatus,
    UnitId,
    UnitReading,
    unit_of,
)
from gpucost.sources.base import ClusterRead, DeviceRead, DraRead, HoldingsRead, RequestsRead
from gpucost.waste import readings_by_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gpucost.model import Pod
    from gpucost.reader import Asked

T = TypeVar("T")

SIGNAL_CHANGE_SHOWN_SECONDS = 900.0
"""How long a change of a unit's activity signal stays a Problem."""

_NO_DEVICES = DeviceRead(gpus=())
_NOBODY = Holdings(assumed=True)


class Sources(Struct, frozen=True):
    """The sources of a node; None for one that is not there.

    A DCGM read is None where no dcgm-exporter was found, and a requests read where no pod shows
    metrics. `in_kubernetes` is False on a plain machine, where nobody can hold a GPU.
    """

    nvml: Asked[DeviceRead] | None = None
    dcgm: Asked[DeviceRead | None] | None = None
    kubelet: Asked[HoldingsRead] | None = None
    kubernetes: Asked[ClusterRead] | None = None
    dra: Asked[DraRead] | None = None
    requests: Asked[RequestsRead | None] | None = None
    in_kubernetes: bool = True


class Gatherer:
    """Makes Snapshots; remembers only what bridges a silence: node, devices, holders, signals."""

    def __init__(self, sources: Sources, node: Node, keep_holders_seconds: float = 300.0) -> None:
        """Take the sources, and the node as settings and flags describe it.

        `keep_holders_seconds` is how long the last holders of a silent kubelet are believed.
        """
        self.sources = sources
        self._node = node
        self._shown_node: Node | None = None
        self._completed: tuple[Node, Node, Node] | None = None
        self._keep_holders = keep_holders_seconds
        self._last_success: dict[str, float] = {}
        self._statuses: list[SourceStatus] = []
        self._problems: list[Problem] = []
        self._nvml = _NO_DEVICES
        self._in_nvml: set[str] = set()
        self._gpus: tuple[GpuReading, ...] = ()
        self._holdings: Holdings | None = None
        self._holdings_at = 0.0
        self._signals: dict[UnitId, Signal] = {}
        self._seen_signals: dict[str, tuple[Device, list[Signal | None]]] = {}
        self._finished: tuple[object, frozenset[tuple[str, str]]] = (None, frozenset())
        self._changes: dict[UnitId, tuple[float, Problem]] = {}
        self._dra: DraRead | None = None
        self._reserving: tuple[object, bool] = (None, False)
        self._resolved: tuple[tuple[object, ...], Holdings, tuple[Problem, ...]] | None = None

    def reconfigure(self, sources: Sources, node: Node, keep_holders_seconds: float) -> None:
        """Go on with these sources and settings, remembering what was known."""
        self.sources, self._node, self._keep_holders = sources, node, keep_holders_seconds

    def remember(self, devices: Sequence[Device]) -> None:
        """Know these GPUs from before: one that no source shows now is billed as missing."""
        self._gpus = tuple(_unseen(GpuReading(device=device)) for device in devices)
        if self.sources.nvml is not None:
            self._in_nvml.update(device.uuid for device in devices)

    def gather(self, wall_time: float, clock_seconds: float) -> Snapshot:
        """Ask every source and take what came in time. Never raises for a source.

        `wall_time` is Unix time; `clock_seconds` any monotonic clock.
        """
        self._statuses, self._problems = [], []
        sources = self.sources
        # Whether DCGM and the kubelet are asked goes by what the API server shows. NVML answers
        # last, and its thread would share the interpreter with what is still to be asked.
        for source in (sources.kubernetes, sources.dcgm, sources.kubelet, sources.nvml):
            if source is not None:
                source.ask()
        cluster = self._answer(sources.kubernetes, wall_time)
        nvml = self._answer(sources.nvml, wall_time)
        dcgm = self._answer(sources.dcgm, wall_time)
        kubelet = self._answer(sources.kubelet, wall_time)
        requests = self._asked_now(sources.requests, wall_time)
        for read in (cluster, nvml, dcgm, kubelet, requests):
            self._problems += () if read is None else read.problems

        pods = None if cluster is None else cluster.pods
        gpus = self._devices(nvml, dcgm)
        holdings = self._holders(kubelet, dcgm, pods, gpus, clock_seconds)
        if holdings is not None:
            holdings = self._living(holdings, pods)
            if holdings.claimed or self._is_said_by_pods(pods):
                holdings = self._resolve(holdings, pods, gpus, wall_time)
        self._watch_signals(gpus, clock_seconds)
        if cluster is not None and cluster.node is not None:
            self._shown_node = cluster.node
        node = self._shown_node  # the last known: without its type it would have no price
        return Snapshot(
            wall_time=wall_time,
            node=self._node if node is None else self._complete(node),
            node_known=node is not None,
            gpus=gpus,
            holdings=holdings,
            pods=pods,
            sources=tuple(self._statuses),
            problems=tuple(self._problems),
            clock_seconds=clock_seconds,
            engines={} if requests is None else requests.pods,
            ended={} if cluster is None else cluster.ended,
        )

    def _asked_now(self, source: Asked[T] | None, wall_time: float) -> T | None:
        """The answer of a source that does no I/O and goes by what the others have said."""
        if source is None:
            return None
        source.ask()
        return self._answer(source, wall_time)

    def _complete(self, node: Node) -> Node:
        """The Node with the settings' part; the same object while both are (so are its prices)."""
        last = self._completed
        if last is None or last[0] is not node or last[1] is not self._node:
            self._completed = last = (node, self._node, _completed(node, self._node))
        return last[2]

    def _answer(self, source: Asked[T] | None, wall_time: float) -> T | None:
        """A source's answer; its status and its error are noted."""
        if source is None:
            return None
        outcome = source.answer()
        if outcome.error is not None:
            error = outcome.error
            self._problems.append(Problem(source.name, error.kind, str(error), error.remedy))
        elif outcome.value is None:
            return None
        # What is believed of a source that has fallen silent is no success of its.
        silent = isinstance(outcome.value, ClusterRead | DraRead) and outcome.value.stale
        if outcome.error is None and outcome.fresh and not silent:
            self._last_success[source.name] = wall_time
        self._statuses.append(
            SourceStatus(
                source=source.name,
                up=outcome.error is None and not silent,
                duration_seconds=outcome.seconds,
                last_success=self._last_success.get(source.name),
            )
        )
        return outcome.value

    def _devices(self, nvml: DeviceRead | None, dcgm: DeviceRead | None) -> tuple[GpuReading, ...]:
        """The node's GPUs: as read now, else as last known but with nothing measured."""
        nvmls_word = nvml  # None where it is silent, though its devices stay below
        if nvml is not None:
            self._nvml = nvml
            self._in_nvml.update(gpu.device.uuid for gpu in nvml.gpus)
        elif self._nvml.gpus:
            # Still the ones that know the MIG UUIDs and minors that the kubelet's ids name.
            nvml = DeviceRead(gpus=tuple(_unseen(gpu) for gpu in self._nvml.gpus))
        gpus, problems = merge_devices(nvml, dcgm)
        self._problems += problems
        present = {gpu.device.uuid for gpu in gpus}
        for known in self._gpus:
            if known.device.uuid not in present:
                # Only the source that showed it can say that it is gone.
                word = nvmls_word if known.device.uuid in self._in_nvml else dcgm
                gone = _unseen(known) if word is None else _missing(known)
                gpus = (*gpus, gone)
        self._gpus = gpus
        return gpus

    def _holders(
        self,
        kubelet: HoldingsRead | None,
        dcgm: DeviceRead | None,
        pods: Mapping[tuple[str, str], Pod] | None,
        gpus: Sequence[GpuReading],
        clock_seconds: float,
    ) -> Holdings | None:
        """Who holds what: the kubelet's word, its last word for a while, else DCGM's labels."""
        if kubelet is not None:
            held = kubelet.holdings
            if not self._nvml.gpus and dcgm is not None and dcgm.holdings is not None:
                held = _in_dcgms_words(held, dcgm.holdings, [gpu.device for gpu in gpus])
            self._holdings, self._holdings_at = held, clock_seconds
            return held
        if self._holdings is not None and clock_seconds - self._holdings_at <= self._keep_holders:
            return _still_shown(self._holdings, pods)
        if dcgm is not None and dcgm.holdings is not None:
            return dcgm.holdings
        return None if self.sources.in_kubernetes else _NOBODY

    def _living(self, holdings: Holdings, pods: Mapping[tuple[str, str], Pod] | None) -> Holdings:
        """Without those of finished pods, which kubelets before 1.34 still list.

        Their devices may be someone else's already (kubernetes/kubernetes issue 119423).
        """
        if self._finished[0] is not pods:
            finished = frozenset(key for key, pod in (pods or {}).items() if pod.finished)
            self._finished = (pods, finished)
        finished = self._finished[1]
        return _keep(holdings, lambda key: key not in finished) if finished else holdings

    def _is_said_by_pods(self, pods: Mapping[tuple[str, str], Pod] | None) -> bool:
        """Whether any pod holds what the kubelet does not say, or says in no device's name."""
        if self._reserving[0] is not pods:
            found = any(pod.reserved or may_hold_unlisted(pod) for pod in (pods or {}).values())
            self._reserving = (pods, found)
        return self._reserving[1]

    def _resolve(
        self,
        holdings: Holdings,
        pods: Mapping[tuple[str, str], Pod] | None,
        gpus: Sequence[GpuReading],
        wall_time: float,
    ) -> Holdings:
        """With what is held through DRA claims, reserved in parts or listed for nobody.

        The same object while nothing of it changed.
        """
        dra = self._dra
        if (source := self.sources.dra) is not None and holdings.claimed:
            source.ask()  # only now: the kubelet has said which claims there are
            if (read := self._answer(source, wall_time)) is not None:
                self._problems += read.problems
                dra = self._dra = read
        devices = tuple(gpu.device for gpu in gpus)
        before = self._resolved
        if (
            before is None
            or (before[0][0] is not holdings and before[0][0] != holdings)
            or before[0][1] is not dra
            or before[0][2] is not pods
            or before[0][3] != devices
        ):
            by_plugin = with_reserved(holdings, devices, pods)
            found, strangers = resolved(by_plugin, dra, devices, pods)
            found, unlisted = with_unlisted(found, pods)
            before = self._resolved = (
                (holdings, dra, pods, devices),
                found,
                (*strangers, *unlisted),
            )
        self._problems += before[2]
        return before[1]

    def _watch_signals(self, gpus: tuple[GpuReading, ...], clock_seconds: float) -> None:
        """Note a unit whose activity now comes from another signal: its dollars may shift."""
        for gpu in gpus:
            readings = readings_by_unit(gpu)
            signals = [None if r.activity is None else r.activity.signal for r in readings]
            if self._seen_signals.get(gpu.device.uuid) == (gpu.device, signals):
                continue
            self._seen_signals[gpu.device.uuid] = (gpu.device, signals)
            instances = (None,) if gpu.device.mig is None else gpu.device.mig
            for instance, signal in zip(instances, signals, strict=True):
                unit = unit_of(gpu.device.uuid, instance)
                before = signal and self._signals.setdefault(unit, signal)
                if signal and before and before is not signal:
                    self._signals[unit] = signal
                    self._changes[unit] = (clock_seconds, _signal_changed(unit, before, signal))
        for unit, (changed_at, problem) in list(self._changes.items()):
            if clock_seconds - changed_at < SIGNAL_CHANGE_SHOWN_SECONDS:
                self._problems.append(problem)
            else:
                del self._changes[unit]


def _completed(node: Node, settings: Node) -> Node:
    """The Node as the API shows it, where it says nothing as the settings describe it."""
    return replace(
        node,
        instance_type=node.instance_type or settings.instance_type,
        region=node.region or settings.region,
        capacity_type=settings.capacity_type or node.capacity_type,
        labels={**settings.labels, **node.labels},
    )


def _unseen(gpu: GpuReading) -> GpuReading:
    """A known GPU that nobody could look at this time."""
    return GpuReading(
        device=gpu.device,
        instances=tuple(UnitReading() for _ in gpu.device.mig or ()),
        faults=gpu.faults,
        xid_events=gpu.xid_events,
        seen=False,
    )


def _missing(gpu: GpuReading) -> GpuReading:
    """A known GPU that the driver no longer lists: fallen off the bus, and still billed."""
    return replace(_unseen(gpu), faults=("missing",), seen=True)


def _in_dcgms_words(kubelet: Holdings, dcgm: Holdings, devices: Sequence[Device]) -> Holdings:
    """The kubelet's holdings, where it names no device here as DCGM names that holder's.

    DCGM knows no MIG UUIDs; without NVML its pod labels are all that joins the two.
    """
    index = DeviceIndex(devices)
    kept = [h for h in kubelet.holdings if index.resolve(h.device_id) is not None]
    if len(kept) == len(kubelet.holdings):
        return kubelet
    strangers = [h for h in kubelet.holdings if index.resolve(h.device_id) is None]
    taken = {index.resolve(h.device_id) for h in kept}
    named: dict[Holder, list[Holding]] = {}
    for holding in dcgm.holdings:
        if index.resolve(holding.device_id) not in taken:
            named.setdefault(holding.holder, []).append(holding)
    holders = {h.holder for h in strangers}
    found = [h for holder in sorted(holders & named.keys()) for h in named[holder]]
    unknown = [h for h in strangers if h.holder not in named]
    return replace(kubelet, holdings=(*kept, *found, *unknown))


def _still_shown(holdings: Holdings, pods: Mapping[tuple[str, str], Pod] | None) -> Holdings:
    """Without those of pods that the API server no longer shows."""
    return holdings if pods is None else _keep(holdings, pods.__contains__)


def _keep(holdings: Holdings, wanted: Callable[[tuple[str, str]], bool]) -> Holdings:
    kept = tuple(h for h in holdings.holdings if wanted((h.holder.namespace, h.holder.pod)))
    claimed = tuple(c for c in holdings.claimed if wanted((c.holder.namespace, c.holder.pod)))
    if len(kept) == len(holdings.holdings) and len(claimed) == len(holdings.claimed):
        return holdings
    return replace(holdings, holdings=kept, claimed=claimed)


def _signal_changed(unit: UnitId, before: Signal, after: Signal) -> Problem:
    return Problem(
        source="attribution",
        kind="signal_changed",
        message=f"{unit}: activity now comes from {after}, not from {before}",
        remedy="Signals differ a little in what they see, so used and idle may shift. Look for"
        " why the first one went (dcgm-exporter restarted, driver changed).",
    )
