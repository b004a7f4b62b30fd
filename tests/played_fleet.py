"""A day of a small fleet: the demo's simulated node, several times, slowed from minutes to hours.

Only the Snapshots are made up, by gpucost.demo. What they lead to goes the way of every figure:
attribution, prices, ledger, page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.config import Config
from gpucost.cycle import Terms, advance
from gpucost.demo import SimulatedNode
from gpucost.exposition import families
from gpucost.model import Node
from gpucost.prices import asked_of, load_catalogue
from played_neighbours import CLUSTER, Engines
from real_prometheus import STALE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpucost.model import GpuReading, Report, Snapshot
    from real_prometheus import Labels

START = 1_767_225_600.0
"""2026-01-01 00:00:00 UTC, when a month begins: the bill of the month is that of the whole play.
And past on any machine's clock, for remote write refuses the future."""

PRICES_OF = "2025-12-15"

SLOWDOWN = 11.0
"""So that the demo's visits of minutes last about an hour."""


class Machine(Struct, frozen=True):
    """A node of the fleet: what it is, and which of the demo's pods it has under which names."""

    node: Node
    model: str
    gpus: int
    memory_gib: float
    watts_scale: float
    workloads: dict[str, str]
    late_seconds: float = 0.0
    """How long after the day's beginning the node comes."""
    boot_seconds: float = 0.0
    """How long before its first page it was started; 0: long before."""


WORKLOADS = ("llm-train", "chat", "ada", "embed", "reindex", "render", "rerank", "grace")
"""The demo's."""

MACHINES = (
    Machine(
        Node("gpu-h100-1", "p5.48xlarge", "us-east-1", "us-east-1a", "h100", "on_demand", "aws"),
        "NVIDIA H100 80GB HBM3",
        gpus=8,
        memory_gib=79.6,
        watts_scale=1.0,
        workloads={name: name for name in WORKLOADS},
    ),
    Machine(
        Node("gpu-a100-1", "p4d.24xlarge", "us-east-1", "us-east-1b", "a100", "spot", "aws"),
        "NVIDIA A100-SXM4-40GB",
        gpus=8,
        memory_gib=40.0,
        watts_scale=0.6,
        workloads={"llm-train": "vision-train", "render": "upscale", "embed": "embed-batch"},
    ),
    Machine(
        Node("gpu-l4-1", "g6.12xlarge", "us-east-1", "us-east-1b", "l4", "on_demand", "aws"),
        "NVIDIA L4",
        gpus=4,
        memory_gib=22.5,
        watts_scale=0.12,
        workloads={"chat": "support-bot", "ada": "linus", "llm-train": "lora"},
        late_seconds=4.6 * 3600.0,
        boot_seconds=420.0,
    ),
)


class Page(Struct, frozen=True):
    """What a node's exporter shows at a moment, Unix seconds."""

    at: float
    samples: dict[Labels, float]


class Played:
    """One machine through the day: a page every `scrape_seconds`."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self._number = number
        self._simulated = SimulatedNode(machine.node.name)
        self._engines = Engines()
        self._began: float | None = None
        self._report: Report | None = None
        self.config = Config(scrape_interval_seconds=60)
        found = load_catalogue(asked_of(machine.node))
        dated = tuple(replace(row, source_date=PRICES_OF) for row in found.rows)
        self._catalogue = replace(found, rows=dated)

    @property
    def billed_usd(self) -> float:
        """What its ledger has charged."""
        assert self._report is not None
        return self._report.ledger.billed_usd

    def page(self, wall_time: float) -> Page:
        """The page at this moment, which must be after the last."""
        began = wall_time if self._began is None else self._began
        before, self._began = self._report, began
        snapshot = self._cast(self._simulated.gather(wall_time, (wall_time - began) / SLOWDOWN))
        terms = Terms(
            config=self.config,
            catalogue=self._catalogue,
            config_read_at=began,
            booted_at=began - self.machine.boot_seconds if self.machine.boot_seconds else None,
            simulated=True,
        )
        elapsed = 0.0 if before is None else wall_time - before.snapshot.wall_time
        self._report = advance(before, snapshot, elapsed, terms)
        more = (("cluster", CLUSTER), ("instance", self.machine.node.name), ("job", "gpucost"))
        return Page(
            wall_time,
            {
                tuple(sorted((("__name__", it.name), *more, *it.labels.items()))): it.value
                for family in families(self._report, version="0.1.0")
                for it in family.samples
            },
        )

    def _cast(self, snapshot: Snapshot) -> Snapshot:
        """The demo's snapshot as this machine's: its GPUs, its pods, times that are slowed."""
        machine = self.machine
        gpus = tuple(self._gpu(it) for it in snapshot.gpus[: machine.gpus])
        here = {it.device.uuid for it in gpus}
        here |= {mig.uuid for it in gpus for mig in it.device.mig or () if mig.uuid}
        pods = snapshot.pods or {}
        mine = {
            key: replace(
                pod,
                name=self._name(pod.workload, pod.name),
                workload=machine.workloads[pod.workload],
                started_at=None
                if pod.started_at is None
                else snapshot.wall_time - SLOWDOWN * (snapshot.wall_time - pod.started_at),
            )
            for key, pod in pods.items()
            if pod.workload in machine.workloads
        }
        # A young node's time before its first pod is provisioning.
        if snapshot.wall_time - (self._began or 0.0) < machine.boot_seconds:
            mine = {}
        assert snapshot.holdings is not None
        holdings = tuple(
            replace(
                it,
                holder=replace(it.holder, pod=mine[it.holder.namespace, it.holder.pod].name),
                device_id=self._uuid(it.device_id),
            )
            for it in snapshot.holdings.holdings
            if (it.holder.namespace, it.holder.pod) in mine and self._uuid(it.device_id) in here
        )
        shown = {(pod.namespace, pod.name): pod for pod in mine.values()}
        units = {it.device.uuid: it.reading for it in gpus}
        for it in gpus:
            instances = zip(it.device.mig or (), it.instances, strict=False)
            units |= {mig.uuid or "": reading for mig, reading in instances}
        active = {
            (it.holder.namespace, it.holder.pod): reading.activity.ratio
            for it in holdings
            if (reading := units[it.device_id]).activity is not None
        }
        return replace(
            snapshot,
            node=machine.node,
            gpus=gpus,
            holdings=replace(snapshot.holdings, holdings=holdings),
            pods=shown,
            clock_seconds=snapshot.wall_time,
            engines=self._engines.read(snapshot.wall_time, shown, active),
        )

    def _name(self, workload: str, pod: str) -> str:
        return pod.replace(workload, self.machine.workloads[workload], 1)

    def _uuid(self, uuid: str) -> str:
        return uuid.replace("de300000", f"de30000{self._number}")

    def _gpu(self, gpu: GpuReading) -> GpuReading:
        machine = self.machine
        scale = machine.memory_gib / (gpu.device.memory_bytes or 1) * (1 << 30)
        mig = gpu.device.mig
        used = gpu.reading.memory_used_bytes
        return replace(
            gpu,
            device=replace(
                gpu.device,
                uuid=self._uuid(gpu.device.uuid),
                model=machine.model,
                memory_bytes=int(machine.memory_gib * (1 << 30)),
                mig=mig and tuple(replace(it, uuid=self._uuid(it.uuid or "")) for it in mig),
            ),
            reading=replace(
                gpu.reading, memory_used_bytes=None if used is None else int(used * scale)
            ),
            power_watts=gpu.power_watts and gpu.power_watts * machine.watts_scale,
            # The demo's clock is slowed, and its joules with it.
            energy_joules=gpu.energy_joules and gpu.energy_joules * machine.watts_scale * SLOWDOWN,
        )


def pages(fleet: Sequence[Played], end: float, scrape_seconds: float) -> Iterator[tuple[str, Page]]:
    """What a scraper of the fleet sees: a node's name and its page, in order of time for each."""
    for played in fleet:
        machine = played.machine
        at = START + machine.late_seconds
        while at <= end:
            yield machine.node.name, played.page(at)
            at += scrape_seconds


class Store:
    """Series being gathered. Where one is not on its target's next page, it is marked stale."""

    def __init__(self) -> None:
        self.series: dict[Labels, list[tuple[int, float]]] = {}
        self._last: dict[str, tuple[float, set[Labels]]] = {}

    def add(self, target: str, at: float, samples: dict[Labels, float]) -> None:
        """What a target shows at a moment after the last."""
        stamp = round(at * 1000)
        for labels, value in samples.items():
            self.series.setdefault(labels, []).append((stamp, value))
        _, shown = self._last.get(target, (0.0, set()))
        for labels in shown - samples.keys():
            self.series[labels].append((stamp, STALE))
        self._last[target] = (at, set(samples))
