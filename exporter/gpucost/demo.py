"""A simulated node of eight GPUs, for `gpucost demo`: every number it leads to is invented.

Its pods train, serve, idle, start slowly, crash, come and go on a fixed timetable, so that
every state can be seen within minutes. Only the Snapshot is made up: attribution, prices,
ledger and pages are the real ones, and its chat pod's metrics come over HTTP (demo_server.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.model import (
    Activity,
    ContainerStatus,
    Device,
    Efficiency,
    Endpoint,
    GpuReading,
    Holder,
    Holding,
    Holdings,
    MigInstance,
    Node,
    Pod,
    Process,
    Serving,
    Signal,
    Snapshot,
    SourceStatus,
    UnitReading,
)
from gpucost.sources.requests import RequestsSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.config import Requests

_MODEL = "NVIDIA H100 80GB HBM3"
_MEMORY = 81_559 << 20
_GIB = 1 << 30

_NODE = Node(
    name="demo-node",
    instance_type="p5.48xlarge",
    region="us-east-1",
    zone="us-east-1a",
    node_pool="demo",
    capacity_type="on_demand",
    provider="aws",
)


class _Act(Struct, frozen=True):
    """A pod of the play: what it holds and, `age` seconds after it came, how it does.

    `every` and `lasts` are its timetable in seconds: it comes each `every`, first at `comes`,
    and stays for `lasts` (0: for good).
    """

    namespace: str
    name: str
    workload: str
    kind: str
    team: str
    ids: tuple[str, ...]
    busy: Callable[[float], float]
    memory_gib: float
    comes: float = 0.0
    every: float = 0.0
    lasts: float = 0.0
    ready_after: float = 0.0
    leaves_after: float = math.inf
    crashing: bool = False

    def age(self, now: float) -> float | None:
        """Seconds since it came, None while it is not there."""
        age = now - self.comes
        if age < 0:
            return None
        if self.every:
            age %= self.every
        return age if not self.lasts or age < self.lasts else None

    def round(self, now: float) -> int:
        """Which of its visits this is."""
        return int((now - self.comes) // self.every) if self.every else 0


def _uuid(gpu: int) -> str:
    return f"GPU-de300000-0000-4000-8000-{gpu:012x}"


def _wave(low: float, high: float, period: float) -> Callable[[float], float]:
    return lambda age: low + (high - low) * (0.5 + 0.5 * math.sin(2 * math.pi * age / period))


def _flat(level: float) -> Callable[[float], float]:
    return lambda _: level


_MIG = tuple(
    MigInstance(
        gi=gi,
        ci=0,
        profile=profile,
        compute_slices=int(profile[0]),
        memory_bytes=int(gib * _GIB),
        uuid=f"MIG-de300000-0000-4000-8000-{gi:012x}",
    )
    for gi, profile, gib in ((1, "2g.20gb", 19.6), (7, "1g.10gb", 9.75), (8, "1g.10gb", 9.75))
)

_PLAY = (
    _Act(
        namespace="research",
        name="llm-train-worker-0",
        workload="llm-train",
        kind="PyTorchJob",
        team="research",
        ids=(_uuid(0), _uuid(1)),
        busy=_wave(0.88, 0.99, 90),
        memory_gib=71.0,
    ),
    _Act(
        namespace="serving",
        name="chat-6c5f8d7b9-x2v4q",
        workload="chat",
        kind="Deployment",
        team="assistant",
        ids=(_uuid(2),),
        busy=_wave(0.25, 0.75, 240),
        memory_gib=64.0,
    ),
    _Act(
        namespace="notebooks",
        name="ada-0",
        workload="ada",
        kind="Notebook",
        team="research",
        ids=(_uuid(3),),
        busy=_flat(0.0),
        memory_gib=12.0,
    ),
    _Act(
        namespace="serving",
        name="embed-75c8b6dd4f-lq7zp",
        workload="embed",
        kind="Deployment",
        team="search",
        ids=(_uuid(4),),
        busy=lambda age: 0.0 if age < 120 else 0.6,  # noqa: PLR2004 - its cold start
        memory_gib=33.0,
        comes=20,
        every=900,
        lasts=840,
        ready_after=120,
        leaves_after=800,
    ),
    _Act(
        namespace="search",
        name="reindex-5b9d7c4c6-8hj2k",
        workload="reindex",
        kind="Deployment",
        team="search",
        ids=(_uuid(5),),
        busy=_flat(0.0),
        memory_gib=0.0,
        ready_after=math.inf,
        crashing=True,
    ),
    _Act(
        namespace="batch",
        name="render-{round}",
        workload="render",
        kind="Job",
        team="media",
        ids=(_uuid(6),),
        busy=_flat(0.8),
        memory_gib=40.0,
        comes=45,
        every=240,
        lasts=150,
        leaves_after=130,
    ),
    _Act(
        namespace="serving",
        name="rerank-7f96d8c5d4-m9t2w",
        workload="rerank",
        kind="Deployment",
        team="search",
        ids=(_MIG[0].uuid or "",),
        busy=_wave(0.3, 0.6, 120),
        memory_gib=14.0,
    ),
    _Act(
        namespace="notebooks",
        name="grace-0",
        workload="grace",
        kind="Notebook",
        team="media",
        ids=(_MIG[1].uuid or "",),
        busy=lambda age: 0.4 if age % 300 < 60 else 0.0,  # noqa: PLR2004 - one minute in five
        memory_gib=6.0,
    ),
)


CHAT = ("serving", "chat-6c5f8d7b9-x2v4q")
"""The pod whose inference server is asked."""


def chat_load(age: float) -> float:
    """How busy that pod is, so many seconds after it came."""
    return next(act for act in _PLAY if (act.namespace, act.name) == CHAT).busy(age)


class SimulatedNode:
    """Gathers Snapshots of the play."""

    def __init__(self, name: str = _NODE.name, requests: Requests | None = None) -> None:
        """`name` is the node's, as a label; `requests` says how its servers are asked, if any."""
        self._node = Node(
            **{
                field: getattr(_NODE, field) for field in _NODE.__struct_fields__ if field != "name"
            },
            name=name,
        )
        self._requests = None if requests is None else RequestsSource(requests)
        self._chat: Serving | None = None
        self._began: float | None = None
        self._joules: dict[str, float] = {}
        self._last = 0.0

    def serve_chat(self, url: str) -> None:
        """The chat pod shows its metrics there."""
        self._chat = Serving((Endpoint(url),))

    def close(self) -> None:
        """End the threads that ask."""
        if self._requests is not None:
            self._requests.close()

    def gather(self, wall_time: float, clock_seconds: float) -> Snapshot:
        """The play at this moment; the first call is its beginning."""
        if self._began is None:
            self._began = self._last = clock_seconds
        now = clock_seconds - self._began
        on_stage = [(act, age) for act in _PLAY if (age := act.age(now)) is not None]
        held = {unit: (act, age) for act, age in on_stage for unit in act.ids}
        gpus = tuple(self._gpu(index, held, clock_seconds - self._last) for index in range(8))
        self._last = clock_seconds
        pods = {
            (pod.namespace, pod.name): pod
            for pod in (_pod(act, age, now, wall_time) for act, age in on_stage)
        }
        if self._chat is not None and CHAT in pods:
            pods[CHAT] = replace(pods[CHAT], serving=self._chat)
        read = None
        if self._requests is not None:
            self._requests.follow(pods)
            read = self._requests.read()
        holdings = Holdings(
            holdings=tuple(
                Holding(
                    holder=Holder(act.namespace, act.name.format(round=act.round(now)), "main"),
                    resource="nvidia.com/gpu",
                    device_id=unit,
                )
                for act, _ in on_stage
                for unit in act.ids
            )
        )
        return Snapshot(
            wall_time=wall_time,
            node=self._node,
            node_known=True,
            gpus=gpus,
            holdings=holdings,
            pods=pods,
            sources=(
                SourceStatus(
                    source="simulation", up=True, duration_seconds=0.0, last_success=wall_time
                ),
            ),
            problems=() if read is None else read.problems,
            clock_seconds=clock_seconds,
            engines={} if read is None else read.pods,
        )

    def _gpu(self, index: int, held: dict[str, tuple[_Act, float]], seconds: float) -> GpuReading:
        uuid = _uuid(index)
        mig = _MIG if index == 7 else None  # noqa: PLR2004 - the last one is partitioned
        reading = _reading(held.get(uuid), with_signal=mig is None)
        instances = tuple(_reading(held.get(i.uuid or "")) for i in mig or ())
        busy = max(
            (r.activity.ratio for r in (reading, *instances) if r.activity is not None), default=0.0
        )
        watts = 72.0 + 560.0 * busy
        self._joules[uuid] = self._joules.get(uuid, 0.0) + watts * seconds
        return GpuReading(
            device=Device(
                uuid=uuid,
                model=_MODEL,
                index=index,
                minor=index,
                memory_bytes=_MEMORY,
                mig=mig,
                mig_slices=7 if mig else None,
            ),
            reading=reading,
            instances=instances,
            power_watts=watts,
            energy_joules=self._joules[uuid],
            temperature_celsius=31.0 + 38.0 * busy,
            sm_clock_hertz=1.98e9 if busy else 3.45e8,
        )


def _reading(on: tuple[_Act, float] | None, *, with_signal: bool = True) -> UnitReading:
    if not with_signal:
        return UnitReading()
    if on is None:
        return UnitReading(
            Activity(0.0, 0.0, Signal.GPM_GRAPHICS), Efficiency(0.0, 0.0, 0.0), 0, ()
        )
    act, age = on
    busy = act.busy(age)
    return UnitReading(
        activity=Activity(busy, busy, Signal.GPM_GRAPHICS),
        efficiency=Efficiency(sm=busy * 0.82, tensor=busy * 0.41, memory=busy * 0.55),
        memory_used_bytes=int(act.memory_gib * _GIB),
        processes=(Process(pid=4000 + len(act.name), memory_bytes=int(act.memory_gib * _GIB)),),
    )


def _pod(act: _Act, age: float, now: float, wall_time: float) -> Pod:
    name = act.name.format(round=act.round(now))
    return Pod(
        namespace=act.namespace,
        name=name,
        uid=f"{name}-{act.round(now)}",
        phase="Running",
        workload=act.workload,
        workload_kind=act.kind,
        team=act.team,
        started_at=wall_time - age,
        ready=age >= act.ready_after and not act.crashing,
        ready_probe=act.ready_after > 0,
        deleted=age >= act.leaves_after,
        containers=(
            ContainerStatus(
                name="main",
                running=not act.crashing,
                waiting="CrashLoopBackOff" if act.crashing else "",
                restarts=12 if act.crashing else 0,
                last_exit_code=1 if act.crashing else None,
            ),
        ),
        gpu_containers=("main",),
    )
