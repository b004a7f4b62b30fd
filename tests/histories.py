"""Histories of a node that hypothesis makes up, for the laws of the ledger.

A history is a run of cycles. In each, time passes and a few things happen: pods come and go, the
kubelet or the API server falls silent, a GPU is lost, a price changes, the wall clock jumps.
`run` feeds the Snapshots to `cycle.advance` as the loop would, and keeps every Report.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from gpucost.config import Config, PriceRow, Prices
from gpucost.cycle import Terms, advance
from gpucost.model import (
    Activity,
    ContainerStatus,
    Device,
    Efficiency,
    GpuReading,
    Holder,
    Holding,
    Holdings,
    MigInstance,
    Node,
    Pod,
    Process,
    Report,
    Signal,
    Snapshot,
    UnitReading,
)
from gpucost.pricing import Catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GIB = 1 << 30
A100 = "NVIDIA A100-SXM4-80GB"
H100 = "NVIDIA H100 80GB HBM3"
A30 = "NVIDIA A30"

_SLICES = {A100: 7, H100: 7, A30: 4}

# Compute slices of each GPU instance, cut into its compute instances (NVIDIA MIG user guide).
_PARTITIONS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    A100: (
        (),
        ((7,),),
        ((3,), (3,)),
        ((4,), (2,), (1,)),
        ((1,),) * 7,
        ((1, 2), (3,)),
        ((2,), (2,), (2,), (1,)),
    ),
    H100: ((), ((7,),), ((3,), (2,), (1,)), ((1,),) * 7, ((1, 1, 1), (2, 2))),
    A30: (((4,),), ((2,), (1,), (1,)), ((1,),) * 4),
}


class Mood(Struct, frozen=True):
    """What a unit shows in one cycle."""

    activity: tuple[float, float] | None = (0.0, 0.0)
    processes: int | None = None
    fault: bool = False
    seen: bool = True
    watts: float | None = 70.0
    joules: float | None = None
    signal: Signal = Signal.GPM_GRAPHICS


MOODS = (
    Mood(),
    Mood(activity=(0.6, 0.9), watts=400.0, joules=3000.0),
    Mood(activity=None),
    Mood(activity=(1.0, 1.0), processes=2, watts=None),
    Mood(activity=(0.004, 0.2), joules=5000.0),
    Mood(activity=(0.004, 0.009), processes=1),
    Mood(activity=None, processes=1, watts=None),
    Mood(activity=None, processes=0),
    Mood(activity=(0.3, 0.5), signal=Signal.DCGM_GR_ENGINE),
    Mood(fault=True),
    Mood(activity=None, seen=False, watts=None),
)


class Happening(Struct, frozen=True):
    """Something that happens to the node; `who` and `where` are taken modulo what there is."""

    what: str
    who: int = 0
    where: int = 0


class Step(Struct, frozen=True):
    """`seconds` pass, things happen, and every GPU has its mood."""

    seconds: float
    happenings: tuple[Happening, ...]
    moods: tuple[int, ...]


class World(Struct, frozen=True):
    """A node and everything that it may meet."""

    config: Config
    price_variants: tuple[Prices, ...]
    node: Node
    devices: tuple[Device, ...]
    holders: tuple[Holder, ...]
    labels: tuple[tuple[str, str, str], ...]
    started_at: float
    booted_at: float | None
    steps: tuple[Step, ...]


class Cycle(Struct, frozen=True):
    """One cycle of a run: what was seen, on which terms, what passed and what came out."""

    snapshot: Snapshot
    terms: Terms
    seconds: float
    report: Report


def mig_device(uuid: str, model: str, partition: Sequence[Sequence[int]], index: int) -> Device:
    """A partitioned GPU: for each GPU instance the slices of its compute instances."""
    slices = _SLICES[model]
    instances = tuple(
        MigInstance(
            gi=gi,
            ci=ci,
            profile=f"{size}c.{sum(cut)}g",
            compute_slices=size,
            memory_bytes=sum(cut) * 10 * GIB,
            uuid=f"MIG-{uuid}-{gi}-{ci}",
        )
        for gi, cut in enumerate(partition, start=1)
        for ci, size in enumerate(cut)
    )
    return Device(
        uuid=uuid,
        model=model,
        index=index,
        minor=index,
        memory_bytes=80 * GIB,
        mig=instances,
        mig_slices=slices,
    )


class Machine:
    """The state of a node while a history runs over it."""

    def __init__(self, world: World) -> None:
        """Begin with nobody on the node, everything readable and the first prices."""
        self.world = world
        self.devices = list(world.devices)
        self.config = replace(world.config, prices=world.price_variants[0])
        self.wall = world.started_at
        self.held: list[Holding] = []
        self.offered: tuple[str, ...] | None = None
        self.unresolved = 0
        self.kubelet_speaks = True
        self.api_speaks = True
        self.node_known = True
        self.pods: dict[tuple[str, str], Pod] = {}
        self.ended: dict[str, float] = {}
        self.joules: dict[str, float] = {}
        self.uids = 0
        self._deeds: dict[str, Callable[[Happening], None]] = {
            "bind": self._bind,
            "hold": self._hold,
            "replica": self._replica,
            "release": self._release,
            "end": self._end,
            "recreate": self._recreate,
            "status": self._status,
            "kubelet": self._kubelet,
            "api": self._api,
            "node": self._node,
            "unresolved": self._unresolved,
            "stranger": self._stranger,
            "price": self._price,
            "repartition": self._repartition,
            "jump": self._jump,
            "month_end": self._month_end,
        }

    @property
    def deeds(self) -> tuple[str, ...]:
        """Everything that can happen."""
        return tuple(self._deeds)

    def pass_time(self, step: Step) -> Snapshot:
        """The node after a step."""
        self.wall += step.seconds
        for happening in step.happenings:
            self._deeds[happening.what](happening)
        gpus = tuple(
            self._read(device, step.moods[place % len(step.moods)])
            for place, device in enumerate(self.devices)
        )
        node = self.world.node
        return Snapshot(
            wall_time=self.wall,
            node=node if self.node_known else Node(name=node.name),
            node_known=self.node_known,
            gpus=gpus,
            holdings=Holdings(tuple(self.held), self.offered, self.unresolved)
            if self.kubelet_speaks
            else None,
            pods=dict(self.pods) if self.api_speaks else None,
            ended=dict(self.ended) if self.api_speaks else {},
        )

    def _read(self, device: Device, mood_at: int) -> GpuReading:
        mood = MOODS[mood_at % len(MOODS)]
        self.joules[device.uuid] = self.joules.get(device.uuid, 0.0) + (mood.joules or 0.0)
        units = [MOODS[(mood_at + n) % len(MOODS)] for n, _ in enumerate(device.mig or ())]
        return GpuReading(
            device=device,
            reading=UnitReading() if device.mig is not None else _reading(mood),
            instances=tuple(_reading(unit) for unit in units),
            power_watts=mood.watts,
            energy_joules=None if mood.joules is None else self.joules[device.uuid],
            faults=("lost",) if mood.fault else (),
            xid_events={79: 1} if mood.fault else {},
            seen=mood.seen,
        )

    def _who(self, happening: Happening) -> Holder:
        return self.world.holders[happening.who % len(self.world.holders)]

    def _bind(self, happening: Happening) -> None:
        """The scheduler bound a pod that asks for a GPU."""
        holder = self._who(happening)
        key = (holder.namespace, holder.pod)
        if key not in self.pods:
            workload, kind, team = self.world.labels[happening.where % len(self.world.labels)]
            self.uids += 1
            self.pods[key] = Pod(
                namespace=holder.namespace,
                name=holder.pod,
                uid=f"uid-{self.uids}",
                phase="Pending",
                workload=workload,
                workload_kind=kind,
                team=team,
                started_at=(None, self.wall - 30.0, self.wall - 0.2)[happening.where % 3],
                ready_probe=bool(happening.where % 3),
                containers=(ContainerStatus(holder.container),),
                gpu_containers=(holder.container,),
                labels={"app": team},
            )

    def _names(self) -> list[str]:
        """Every id by which a unit of this node can be held."""
        names = []
        for device in self.devices:
            if device.mig is None:
                names += [device.uuid, device.uuid.upper(), f"nvidia{device.minor}"]
            for it in device.mig or ():
                names += [str(it.uuid), f"MIG-{device.uuid}/{it.gi}/{it.ci}"]
        return names

    def _hold(self, happening: Happening) -> None:
        holder = self._who(happening)
        if names := self._names():
            name = names[happening.where % len(names)]
            self.held.append(Holding(holder, "nvidia.com/gpu", name))
        if happening.where % 4:
            self._bind(happening)

    def _replica(self, happening: Happening) -> None:
        """One of several replicas of a unit, with or without the kubelet's list of them."""
        names = self._names()
        if names:
            name = names[happening.where % len(names)]
            replica = f"{name}::{happening.where % 5}"
            self.held.append(Holding(self._who(happening), "nvidia.com/gpu.shared", replica))
            self.offered = tuple(f"{name}::{n}" for n in range(4)) if happening.where % 3 else None

    def _release(self, happening: Happening) -> None:
        holder = self._who(happening)
        self.held = [it for it in self.held if it.holder != holder]

    def _end(self, happening: Happening) -> None:
        """The pod goes from the API, perhaps with its end; perhaps the kubelet still lists it."""
        holder = self._who(happening)
        gone = self.pods.pop((holder.namespace, holder.pod), None)
        if gone is not None and happening.where % 2:
            self.ended[gone.uid] = self.wall - happening.where / 10
        if happening.where % 3:
            self._release(happening)

    def _recreate(self, happening: Happening) -> None:
        holder = self._who(happening)
        if self.pods.pop((holder.namespace, holder.pod), None):
            self._bind(happening)

    def _status(self, happening: Happening) -> None:
        holder = self._who(happening)
        key = (holder.namespace, holder.pod)
        if key not in self.pods:
            return
        container = holder.container
        running = ContainerStatus(container, running=True)
        changes: tuple[dict[str, Any], ...] = (
            {"phase": "Running", "ready": True, "containers": (running,)},
            {"ready": False, "containers": (running,)},
            {"containers": (ContainerStatus(container, waiting="CrashLoopBackOff", restarts=4),)},
            {"containers": (ContainerStatus(container, waiting="ImagePullBackOff"),)},
            {"containers": (replace(running, restarts=3, last_exit_code=1),), "ready": False},
            {"deleted": True},
            {"phase": "Succeeded"},
        )
        self.pods[key] = replace(self.pods[key], **changes[happening.where % len(changes)])

    def _kubelet(self, _: Happening) -> None:
        self.kubelet_speaks = not self.kubelet_speaks

    def _api(self, _: Happening) -> None:
        self.api_speaks = not self.api_speaks

    def _node(self, _: Happening) -> None:
        self.node_known = not self.node_known

    def _unresolved(self, happening: Happening) -> None:
        self.unresolved = happening.where % 2

    def _stranger(self, happening: Happening) -> None:
        self.held.append(Holding(self._who(happening), "nvidia.com/gpu", "GPU-of-another-node"))

    def _price(self, happening: Happening) -> None:
        variants = self.world.price_variants
        prices = variants[happening.where % len(variants)]
        self.config = replace(self.config, prices=prices)

    def _repartition(self, happening: Happening) -> None:
        place = happening.who % len(self.devices)
        old = self.devices[place]
        partitions = _PARTITIONS[old.model]
        self.devices[place] = mig_device(
            old.uuid, old.model, partitions[happening.where % len(partitions)], old.index or 0
        )

    def _jump(self, happening: Happening) -> None:
        """Somebody sets the wall clock."""
        jumps = (-3600.0, 3600.0, -86_400.0 * 40, 86_400.0 * 40, -0.5)
        self.wall += jumps[happening.where % len(jumps)]

    def _month_end(self, happening: Happening) -> None:
        """The clock is set so that a month has ended a moment ago."""
        now = datetime.fromtimestamp(self.wall, UTC)
        turn = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
        self.wall = turn.timestamp() + (happening.where % 9) / 2


def _reading(mood: Mood) -> UnitReading:
    return UnitReading(
        activity=None if mood.activity is None else Activity(*mood.activity, mood.signal),
        efficiency=Efficiency(sm=0.4, memory=0.2) if mood.activity else None,
        memory_used_bytes=None if mood.processes is None else (mood.processes + 1) * GIB,
        processes=None
        if mood.processes is None
        else tuple(Process(pid=100 + n) for n in range(mood.processes)),
    )


def run(world: World) -> list[Cycle]:
    """Every cycle of a history, the first charging nothing."""
    machine = Machine(world)
    cycles: list[Cycle] = []
    report: Report | None = None
    for step in (Step(0.0, (), world.steps[0].moods), *world.steps):
        snapshot = machine.pass_time(step)
        terms = Terms(machine.config, Catalogue(), booted_at=world.booted_at)
        report = advance(report, snapshot, step.seconds, terms)
        cycles.append(Cycle(snapshot, terms, step.seconds, report))
    return cycles


# --- What hypothesis chooses ------------------------------------------------------------------

_ANYTHING = st.text(max_size=12)
_NAMES = st.text(min_size=1, max_size=12)
_HOSTILE = st.sampled_from(
    ('quo"te', "new\nline", "back\\slash", "ümläut ☃", "\u2028\r\x00", "e\\n")
)
_DEEDS = (
    *("hold", "hold", "hold", "end", "end", "end", "release", "bind", "replica", "recreate"),
    *("status", "status", "status", "status", "status", "kubelet", "api", "node", "unresolved"),
    *("stranger", "price", "repartition", "jump", "month_end"),
)
_SECONDS = st.sampled_from((5.0, 700.0, 1.0, 301.0, 31.0, 67.0, 0.25, 12.5, 0.0))

CALM = frozenset(_DEEDS) - {"jump"}
"""Everything but a wall clock that is set by hand."""


@st.composite
def _devices(draw: st.DrawFn) -> tuple[Device, ...]:
    devices = []
    for index in range(draw(st.integers(1, 8))):
        model = draw(st.sampled_from((H100, A100, A30)))
        uuid = f"GPU-{index}"
        partition = draw(st.none() | st.sampled_from(_PARTITIONS[model]))
        if partition is None:
            devices.append(Device(uuid, model, index=index, minor=index, memory_bytes=80 * GIB))
        else:
            devices.append(mig_device(uuid, model, partition, index))
    return tuple(devices)


@st.composite
def _steps(draw: st.DrawFn, deeds: Sequence[str], most: int) -> tuple[Step, ...]:
    happening = st.builds(Happening, st.sampled_from(deeds), st.integers(0, 3), st.integers(0, 59))
    moods = st.lists(st.integers(0, len(MOODS) - 1), min_size=1, max_size=8).map(tuple)
    step = st.builds(Step, _SECONDS, st.lists(happening, max_size=4).map(tuple), moods)
    # Most histories begin with somebody on the GPUs: an empty node has little to tell.
    holding = st.builds(Happening, st.just("hold"), st.integers(0, 3), st.integers(0, 59))
    opening = Step(5.0, tuple(draw(st.lists(holding, max_size=4))), draw(moods))
    return (opening, *draw(st.lists(step, min_size=min(3, most), max_size=most)))


@st.composite
def worlds(
    draw: st.DrawFn,
    *,
    deeds: frozenset[str] = frozenset(_DEEDS),
    most_steps: int = 12,
    linger_seconds: float | None = None,
    provisioning: bool = True,
) -> World:
    """A node, its settings and its history."""
    linger = linger_seconds or draw(st.sampled_from((300.0, 60.0)))
    config = Config(
        scrape_interval_seconds=draw(st.sampled_from((15.0, 5.0, 30.0))),
        labels_wait_seconds=draw(st.sampled_from((60.0, 0.0, 10.0))),
        linger_seconds=linger,
        starting_max_seconds=draw(st.sampled_from((1800.0, 0.0, 20.0))),
        idle_threshold_ratio=draw(st.sampled_from((0.01, 0.0, 0.5))),
        unhealthy_paid_by=draw(st.sampled_from(("node", "holder"))),
    )
    splits: tuple[Literal["compute", "memory"], ...] = ("compute", "memory")
    mig_split = draw(st.sampled_from(splits))
    usd = st.floats(0.01, 100.0)
    variants = (
        Prices(fallback={H100: draw(usd), A100: draw(usd), A30: draw(usd)}, mig_split=mig_split),
        Prices(fallback={H100: draw(usd)}, mig_split=mig_split),
        Prices(mig_split=mig_split),
        Prices(
            table=(PriceRow(node_usd_per_hour=draw(usd), gpu_count=8),),
            mig_split=mig_split,
        ),
    )
    first = draw(st.integers(0, len(variants) - 1))
    names = draw(
        st.lists(
            st.builds(Holder, _NAMES, _HOSTILE | _NAMES, st.sampled_from(("main", "side"))),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    started_at = draw(
        st.sampled_from(
            # The middle of a month, and its last seconds: one of 28, 29, 30 and 31 days.
            (1_795_377_363.0, 1_772_323_190.5, 1_835_481_590.0, 1_796_083_195.0, 1_798_761_598.0)
        )
    )
    return World(
        config=config,
        price_variants=(*variants[first:], *variants[:first]),
        node=Node(
            name=draw(_HOSTILE | _ANYTHING),
            capacity_type=draw(st.sampled_from(("on_demand", "spot", ""))),
        ),
        devices=draw(_devices()),
        holders=tuple(names),
        labels=tuple(
            draw(
                st.lists(
                    st.tuples(_HOSTILE | _ANYTHING, st.just("Deployment"), _HOSTILE | _ANYTHING),
                    min_size=1,
                    max_size=3,
                )
            )
        ),
        started_at=started_at,
        booted_at=draw(st.none() | st.just(started_at - 500.0)) if provisioning else None,
        steps=draw(_steps(tuple(sorted(deeds)), most_steps)),
    )
