"""A fleet of GPU nodes with known truth, looked at by the real core of the exporter.

Pods come and go at any moment of continuous time, wait to be Ready, work in phases and idle;
some share a GPU by replicas. Nodes arrive and die. The exporter sees each node once a cycle, as
NVML, the kubelet and the API server would show it; it crashes, and goes on from its checkpoint.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

from gpucost.checkpoint import Checkpoint, decode, encode
from gpucost.config import Config, Prices
from gpucost.cycle import Terms, advance
from gpucost.gap import holds_of
from gpucost.model import (
    Activity,
    ContainerStatus,
    Device,
    GpuReading,
    Holder,
    Holding,
    Holdings,
    Node,
    Pod,
    Report,
    Signal,
    Snapshot,
    UnitReading,
)
from gpucost.pricing import Catalogue
from gpucost.restart import Moment, resumed

MODEL = "NVIDIA H100 80GB HBM3"
USD_PER_HOUR = 3.6
GPUS = 8
SHARED = GPUS - 1
"""The index of each node's GPU that is offered as two replicas."""
NAMESPACES = ("research", "serving", "batch", "vision", "speech")
SHORT_SECONDS = (45.0, 900.0)
LONG_SECONDS = (3600.0, 6 * 3600.0)


class Job(NamedTuple):
    """A pod's life on one GPU: `share` of it, Ready at `ready`, then `busy` and idle in turns."""

    holder: Holder
    workload: str
    gpu: int
    replica: int | None
    start: float
    ready: float
    end: float
    busy: float
    phase_seconds: float

    @property
    def share(self) -> float:
        return 1.0 if self.replica is None else 0.5

    def work(self, since: float, until: float) -> float:
        """The integral of its activity over a stretch."""
        since, until = max(since, self.ready), min(until, self.end)
        if until <= since:
            return 0.0
        return self.busy * (self._busy_seconds(until) - self._busy_seconds(since))

    def _busy_seconds(self, at: float) -> float:
        """The time in busy phases from Ready until then; the even phases are."""
        whole, rest = divmod(at - self.ready, 2 * self.phase_seconds)
        return whole * self.phase_seconds + min(rest, self.phase_seconds)


class Machine:
    """One node: what happens on it, who looks, and what is really owed."""

    def __init__(self, name: str, born: float, died: float, seed: int, config: Config) -> None:
        self.name, self.born, self.died = name, born, died
        self.chance = random.Random(seed)  # noqa: S311 - a play
        self.jobs = sorted(self._jobs(), key=lambda job: job.start)
        self.linger_seconds = config.linger_seconds
        self._terms = Terms(config, Catalogue(), booted_at=born)
        self._node = Node(name, capacity_type="on_demand")
        self._devices = tuple(
            Device(f"{name}-gpu-{index}", MODEL, index=index, minor=index) for index in range(GPUS)
        )
        self._next_job = 0
        self._present: list[Job] = []
        self._shown: tuple[Holdings, dict[tuple[str, str], Pod]] | None = None
        self._shown_until = born
        self._ended: dict[str, float] = {}
        self.report: Report | None = None
        self._seen_at = 0.0
        self._kept: bytes | None = None
        self._down_until = born
        self.away: list[tuple[float, float]] = []
        """When its exporter was not there, but for the wait until the next cycle."""

    def _jobs(self) -> list[Job]:
        """The pods of its life: on each GPU one after another."""
        chance = self.chance
        jobs: list[Job] = []
        for index in range(GPUS):
            for replica in (0, 1) if index == SHARED else (None,):
                at = self.born + chance.uniform(0.0, 600.0)
                long = chance.random() < 0.3
                while at < self.died:
                    lasts = chance.uniform(*(LONG_SECONDS if long else SHORT_SECONDS))
                    end = min(at + lasts, self.died)
                    namespace = chance.choice(NAMESPACES)
                    jobs.append(
                        Job(
                            Holder(namespace, f"{self.name}-{index}-{replica}-{len(jobs)}", "main"),
                            f"{namespace}-{chance.randrange(8)}",
                            index,
                            replica,
                            at,
                            min(at + chance.uniform(2.0, 60.0), end),
                            end,
                            chance.uniform(0.2, 1.0),
                            chance.uniform(20.0, 600.0),
                        )
                    )
                    at = end + chance.expovariate(1 / 120.0)
        return jobs

    def look(self, now: float) -> None:
        """A cycle that ends now, where the exporter runs."""
        if now < self._down_until:
            return
        since = self._seen_at if self.report is not None else now
        snapshot = self._snapshot(since, now)
        ledger, seconds = None, 0.0
        if self.report is not None:
            seconds = now - since
        elif self._kept is not None:
            moment = Moment(now, now - self.born, self.name, self.name)
            ledger = resumed(decode(self._kept), moment, self._terms.config.zone).ledger
        self.report = advance(self.report, snapshot, seconds, self._terms, ledger=ledger)
        self._seen_at = now

    def crash(self, now: float, down_seconds: float) -> None:
        """The exporter dies, and is back so much later; what it showed is on disk."""
        if self.report is not None:
            self._kept = encode(
                Checkpoint(
                    node=self.name,
                    boot_id=self.name,
                    wall_time=self._seen_at,
                    monotonic_seconds=self._seen_at - self.born,
                    ledger=self.report.ledger,
                    devices=tuple(gpu.device for gpu in self.report.snapshot.gpus),
                    holds=holds_of(self.report),
                )
            )
            self.away.append((self._seen_at, now + down_seconds))
        self.report, self._down_until = None, now + down_seconds

    def _snapshot(self, since: float, now: float) -> Snapshot:
        """The node at a moment; its activity is that of the time since another."""
        while self._next_job < len(self.jobs) and self.jobs[self._next_job].start <= now:
            self._present.append(self.jobs[self._next_job])
            self._next_job += 1
        length = max(now - since, 1e-9)
        ratios = [0.0] * GPUS
        for job in self._present:
            ratios[job.gpu] += job.work(since, now) / length
        if self._shown is None or now >= self._shown_until:
            # As the API server writes moments: in whole seconds.
            self._ended = {it.holder.pod: int(it.end) for it in self._present if it.end <= now}
            self._present = [job for job in self._present if job.end > now]
            self._shown = self._holders(now)
            changes = [job.end for job in self._present]
            changes += [job.ready for job in self._present if job.ready > now]
            changes += [job.start for job in self.jobs[self._next_job : self._next_job + 1]]
            self._shown_until = min(changes, default=self.died)
        holdings, pods = self._shown
        return Snapshot(
            wall_time=now,
            node=self._node,
            node_known=True,
            gpus=tuple(
                GpuReading(device, UnitReading(Activity(busy, busy, Signal.NVML_SAMPLES)))
                for device, ratio in zip(self._devices, ratios, strict=True)
                for busy in (min(ratio, 1.0),)
            ),
            holdings=holdings,
            pods=pods,
            ended=self._ended,
        )

    def _holders(self, now: float) -> tuple[Holdings, dict[tuple[str, str], Pod]]:
        """What the kubelet and the API server say; the same objects until it changes."""
        held, pods = [], {}
        for job in self._present:
            name = self._devices[job.gpu].uuid
            device = name if job.replica is None else f"{name}::{job.replica}"
            held.append(Holding(job.holder, "nvidia.com/gpu", device))
            pods[job.holder.namespace, job.holder.pod] = Pod(
                namespace=job.holder.namespace,
                name=job.holder.pod,
                uid=job.holder.pod,
                phase="Running",
                workload=job.workload,
                workload_kind="Deployment",
                team=job.holder.namespace,
                started_at=int(job.start),
                ready=now >= job.ready,
                ready_probe=True,
                containers=(ContainerStatus("main", running=True),),
                gpu_containers=("main",),
            )
        names = [device.uuid for device in self._devices]
        offered = (*names[:SHARED], f"{names[SHARED]}::0", f"{names[SHARED]}::1")
        return Holdings(tuple(held), offered), pods

    # --- The truth ----------------------------------------------------------------------------

    def owed(self, since: float, until: float) -> float:
        """The node's bill in a stretch."""
        seconds = max(0.0, min(until, self.died) - max(since, self.born))
        return GPUS * seconds * USD_PER_HOUR / 3600

    def owed_by(self, since: float, until: float) -> dict[Holder, float]:
        """The same by who held."""
        found: defaultdict[Holder, float] = defaultdict(float)
        for job in self.jobs:
            seconds = min(until, job.end) - max(since, job.start)
            if seconds > 0:
                found[job.holder] += job.share * seconds * USD_PER_HOUR / 3600
        return found

    def owed_in_states(self, since: float, until: float) -> dict[str, float]:
        """The holders' bill by state, had somebody looked all the time."""
        found: defaultdict[str, float] = defaultdict(float)
        for job in self.jobs:
            usd = job.share * USD_PER_HOUR / 3600
            found["starting"] += max(0.0, min(until, job.ready) - max(since, job.start)) * usd
            seconds = max(0.0, min(until, job.end) - max(since, job.ready))
            if job.replica is not None:
                found["unmeasured"] += seconds * usd
                continue
            busy_seconds = job.work(since, until) / job.busy
            found["used"] += busy_seconds * job.busy * usd
            found["underused"] += busy_seconds * (1 - job.busy) * usd
            found["idle"] += (seconds - busy_seconds) * usd
        return found


def fleet(nodes: int, hours: float, start: float, linger_seconds: float) -> list[Machine]:
    """Nodes of which a third arrive late and a third die early."""
    chance = random.Random(nodes)  # noqa: S311 - a play
    prices = Prices(fallback={MODEL: USD_PER_HOUR})
    config = Config(prices=prices, linger_seconds=linger_seconds)
    end = start + hours * 3600
    made = []
    for number in range(nodes):
        born = start - 7200.0 if number % 3 else start + chance.uniform(0.0, 0.3) * hours * 3600
        died = end + 7200.0 if number % 3 != 1 else end - chance.uniform(0.0, 0.3) * hours * 3600
        made.append(Machine(f"gpu-{number:02}", born, died, number, config))
    return made
