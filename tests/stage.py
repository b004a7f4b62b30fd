"""A node under the hands of a test: change what it shows, let a cycle pass, look at the Report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucost.checkpoint import Checkpoint, decode, encode
from gpucost.config import Config, Prices
from gpucost.cycle import Terms, advance
from gpucost.exposition import families
from gpucost.gap import holds_of
from gpucost.model import (
    Activity,
    ContainerStatus,
    Device,
    EngineReading,
    GpuReading,
    Holder,
    Holding,
    Holdings,
    Ledger,
    ModelReading,
    Node,
    Pod,
    Report,
    Signal,
    Snapshot,
    UnitReading,
)
from gpucost.pricing import Catalogue
from gpucost.restart import Moment, Resumed, resumed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client.samples import Sample

H100 = "NVIDIA H100 80GB HBM3"
USD_PER_HOUR = 3.6
"""So that a GPU-second costs a thousandth of a dollar."""
NOW = 1_795_377_363.0
"""2026-11-22 19:56:03 UTC."""

ADA = Holder("research", "jupyter-ada-0", "notebook")


def priced(**settings: Any) -> Config:  # noqa: ANN401 - whatever Config takes
    """Settings under which an H100 costs `USD_PER_HOUR`."""
    return Config(prices=Prices(fallback={H100: USD_PER_HOUR}), **settings)


def gpu(
    index: int = 0,
    activity: tuple[float, float] | float | None = 0.0,
    *,
    signal: Signal = Signal.GPM_GRAPHICS,
    memory_used_bytes: int | None = None,
    **fields: Any,  # noqa: ANN401 - whatever GpuReading takes
) -> GpuReading:
    """An H100 that is as active as stated: (mean, peak), or both the same."""
    both = activity if isinstance(activity, tuple) or activity is None else (activity, activity)
    return GpuReading(
        device=Device(f"GPU-{index}", H100, index=index, minor=index),
        reading=UnitReading(
            activity=None if both is None else Activity(*both, signal),
            memory_used_bytes=memory_used_bytes,
        ),
        **fields,
    )


def pod(holder: Holder = ADA, **fields: Any) -> Pod:  # noqa: ANN401 - whatever Pod takes
    """A pod that runs, is Ready and asks for a GPU, unless told otherwise."""
    stated: dict[str, Any] = {
        "namespace": holder.namespace,
        "name": holder.pod,
        "uid": f"uid-of-{holder.pod}",
        "phase": "Running",
        "workload": "jupyter-ada",
        "workload_kind": "StatefulSet",
        "team": "research",
        "ready": True,
        "containers": (ContainerStatus(holder.container, running=True),),
        "gpu_containers": (holder.container,),
    }
    return Pod(**{**stated, **fields})


class Stage:
    """The node. What a test sets stays until it sets something else."""

    def __init__(self, *gpus: GpuReading, **settings: Any) -> None:  # noqa: ANN401
        """One idle H100 that nobody holds, where nothing else is said."""
        self.config = priced(**settings)
        self.gpus: tuple[GpuReading, ...] = gpus or (gpu(),)
        self.held: list[Holding] = []
        self.offered: tuple[str, ...] | None = None
        self.kubelet_speaks = True
        self.pods: dict[tuple[str, str], Pod] | None = {}
        self.engines: Mapping[tuple[str, str], EngineReading] = {}
        self.ended: Mapping[str, float] = {}
        self.node = Node("node-1", capacity_type="on_demand")
        self.node_known = True
        self.labels_expected = True
        self.booted_at: float | None = None
        self.wall = NOW
        self.steady = 50_000.0
        self.boot_id = "boot-1"
        self.report: Report | None = None
        self._ledger: Ledger | None = None

    def hold(self, holder: Holder = ADA, index: int = 0, *, shown: Pod | None = None) -> None:
        """A container takes a GPU; `shown` is its pod as the API server shows it."""
        self.held.append(Holding(holder, "nvidia.com/gpu", f"GPU-{index}"))
        if shown is not None:
            self.show(shown)

    def show(self, *pods: Pod) -> None:
        """The API server shows these pods, beside those it shows already."""
        self.pods = {**(self.pods or {}), **{(it.namespace, it.name): it for it in pods}}

    def end(self, holder: Holder = ADA, *, at: float | None = None) -> None:
        """The pod is gone, and what it held is free; the API server may have said since when."""
        self.held = [it for it in self.held if it.holder != holder]
        if self.pods is not None:
            ended = (holder.namespace, holder.pod)
            if at is not None:
                self.ended = {**self.ended, self.pods[ended].uid: at}
            self.pods = {key: it for key, it in self.pods.items() if key != ended}

    def snapshot(self) -> Snapshot:
        """The node now."""
        return Snapshot(
            wall_time=self.wall,
            node=self.node,
            node_known=self.node_known,
            gpus=self.gpus,
            holdings=Holdings(tuple(self.held), self.offered) if self.kubelet_speaks else None,
            pods=self.pods,
            clock_seconds=self.steady,
            engines=self.engines,
            ended=self.ended,
        )

    def answer(self, *models: ModelReading, holder: Holder = ADA, age: float = 0.0) -> None:
        """A pod's inference server says this, `age` seconds before the cycle to come ends."""
        key = (holder.namespace, holder.pod)
        reading = EngineReading(self.steady - age, models)
        self.engines = {**self.engines, key: reading}

    def cycle(self, seconds: float = 5.0, times: int = 1) -> Report:
        """So many cycles of so many seconds pass; the first cycle of all charges nothing."""
        for _ in range(times):
            elapsed = 0.0 if self.report is None else seconds
            self.wall += elapsed
            self.steady += elapsed
            terms = Terms(
                self.config,
                Catalogue(),
                labels_expected=self.labels_expected,
                booted_at=self.booted_at,
            )
            snapshot = self.snapshot()
            self.report = advance(self.report, snapshot, elapsed, terms, ledger=self._ledger)
            self._ledger = None
        if self.report is None:
            raise ValueError("times must be at least 1")
        return self.report

    def go_on_with(self, ledger: Ledger) -> None:
        """The next cycle begins with this ledger."""
        self._ledger = ledger

    def checkpoint(self) -> bytes:
        """What a keeper writes after the last cycle."""
        if self.report is None:
            raise ValueError("no cycle has run")
        return encode(
            Checkpoint(
                node=self.node.name,
                boot_id=self.boot_id,
                wall_time=self.wall,
                monotonic_seconds=self.steady,
                ledger=self.report.ledger,
                devices=tuple(it.device for it in self.report.snapshot.gpus),
                holds=holds_of(self.report),
            )
        )

    def restart(self, down_seconds: float, *, uptime_seconds: float | None = None) -> Resumed:
        """The exporter dies and comes back so much later, in the next cycle.

        `uptime_seconds`: the machine was booted anew, and had run for so long by then.
        """
        data = self.checkpoint()
        self.wall += down_seconds
        self.steady += down_seconds
        if uptime_seconds is not None:
            self.boot_id += "'"
            self.steady = uptime_seconds
            self.booted_at = self.wall - uptime_seconds
        now = Moment(self.wall, self.steady, self.node.name, self.boot_id)
        found = resumed(decode(data), now, self.config.zone)
        self.report, self._ledger = None, found.ledger
        return found


def samples(report: Report, name: str, *, reveal: bool = False, **labels: str) -> list[Sample]:
    """The samples of a family that have these labels."""
    return [
        sample
        for metric in families(report, version="0", reveal=reveal)
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def values(report: Report, name: str, *, reveal: bool = False, **labels: str) -> list[float]:
    """Their values."""
    return [sample.value for sample in samples(report, name, reveal=reveal, **labels)]


def by_label(
    report: Report, name: str, label: str, *, reveal: bool = True, **labels: str
) -> dict[str, float]:
    """The sums of the values that are not 0, by one of their labels."""
    sums: dict[str, float] = {}
    for sample in samples(report, name, reveal=reveal, **labels):
        if sample.value:
            key = sample.labels[label]
            sums[key] = sums.get(key, 0.0) + sample.value
    return sums


def without(gpus: Sequence[GpuReading], index: int) -> tuple[GpuReading, ...]:
    """All but one of them."""
    return tuple(it for place, it in enumerate(gpus) if place != index)
