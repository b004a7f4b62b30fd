"""A node with eight GPUs on which everything happens at once, for tests that need a Report.

The ledger is made by accruing the present rates for `HOURS`, so it balances, and every figure
can be worked out by hand from `PRICE` and the rows below.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from gpucost.model import (
    NODE,
    Account,
    Activity,
    Device,
    GpuAccount,
    GpuLabels,
    GpuReading,
    Holder,
    Ledger,
    Method,
    MigInstance,
    Node,
    Payer,
    Pod,
    PodAccount,
    Price,
    Problem,
    Rate,
    Report,
    Seat,
    Share,
    Signal,
    Snapshot,
    SourceStatus,
    State,
    Tenure,
    UnitReading,
    Usage,
    Workload,
    unit_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_795_377_363.0
"""2026-11-22 19:56:03 UTC."""
HOURS = 36.0
PRICE = 6.88
"""USD per hour of one GPU; the last has none."""
MONTH = "2026-11"
H100 = "NVIDIA H100 80GB HBM3"
ODD = "NVIDIA Graphics Device"
GIB = 1 << 30

CHAT = Holder("llm-prod", "chat-llama-70b-7d9f6c8b5-x2x9k", "vllm")
TRAIN = Holder("research", "finetune-mixtral-0", "trainer")
NOTEBOOK = Holder("research", "jupyter-ada", "notebook")
EMBED = Holder("search", "embedder-5c6d7f8b9-qqz4w", "tei")
OLD = Holder("search", "reranker-6f7c9d5b4-8v2mn", "tei")
NEW = Holder("llm-prod", "chat-phi-mini-66cf9b7d8-l4q8s", "vllm")
BROKEN = Holder("batch", "caption-images-xk2vd", "worker")
BLIND = Holder("batch", "transcode-29384756-hh7rj", "ffmpeg")
ODD_JOB = Holder("lab", "prototype-0", "main")

_PODS = {
    # holder: workload, kind, team
    CHAT: ("chat-llama-70b", "Deployment", "assistants"),
    TRAIN: ("finetune-mixtral", "StatefulSet", "research"),
    NOTEBOOK: ("jupyter-ada", "Notebook", "research"),
    EMBED: ("embedder", "Deployment", "search"),
    OLD: ("reranker", "Deployment", "search"),
    NEW: ("chat-phi-mini", "Deployment", "assistants"),
    BROKEN: ("caption-images", "Job", "media"),
    BLIND: ("transcode", "CronJob", ""),
    ODD_JOB: ("prototype", "StatefulSet", "lab"),
}


def gpu_uuid(index: int) -> str:
    """The UUID of the sample's GPU."""
    return f"GPU-{index}f3a91c4-6d2e-4b7a-9c58-0e1d2f3a4b5{index}"


def _mig(gi: int, slices: int, profile: str, gigabytes: int) -> MigInstance:
    return MigInstance(
        gi=gi,
        ci=0,
        profile=profile,
        compute_slices=slices,
        memory_bytes=gigabytes * GIB,
        uuid=f"MIG-{gi}a0b1c2d-3e4f-5061-7283-94a5b6c7d8e{gi}",
    )


_MIXED = (
    _mig(1, 3, "3g.40gb", 40),
    _mig(3, 2, "2g.20gb", 20),
    _mig(9, 1, "1g.10gb", 10),
)
_SLICED = tuple(_mig(gi, 1, "1g.10gb", 10) for gi in range(7, 14))

_Part = tuple[MigInstance | None, float, Holder | None, "dict[State, float]", float | None]


def _gpu(
    index: int,
    reading: UnitReading,
    *,
    model: str = H100,
    mig: tuple[MigInstance, ...] | None = None,
    instances: tuple[UnitReading, ...] = (),
    watts: float | None = 110.0,
    celsius: float | None = 34.0,
    faults: tuple[str, ...] = (),
) -> GpuReading:
    return GpuReading(
        device=Device(
            uuid=gpu_uuid(index),
            model=model,
            index=index,
            minor=index,
            memory_bytes=80 * GIB,
            mig=mig,
            mig_slices=None if mig is None else 7,
        ),
        reading=reading,
        instances=instances,
        power_watts=watts,
        temperature_celsius=celsius,
        faults=faults,
        xid_events={79: 1} if faults else {},
    )


def _busy(ratio: float, gibibytes: float, signal: Signal = Signal.GPM_GRAPHICS) -> UnitReading:
    return UnitReading(
        activity=Activity(ratio=ratio, peak=min(1.0, ratio * 1.15), signal=signal),
        memory_used_bytes=int(gibibytes * GIB),
    )


_GPUS = (
    _gpu(0, _busy(0.86, 71.5), watts=612, celsius=66),
    _gpu(1, _busy(0.78, 71.2), watts=588, celsius=64),
    _gpu(2, _busy(0.31, 38.0), watts=287, celsius=51),
    _gpu(3, _busy(0.0, 3.4), watts=84, celsius=31),
    _gpu(
        4,
        UnitReading(memory_used_bytes=27 * GIB),
        mig=_MIXED,
        instances=(
            _busy(0.64, 22, Signal.DCGM_GR_ENGINE),
            _busy(0.0, 5, Signal.DCGM_GR_ENGINE),
            _busy(0.0, 0, Signal.DCGM_GR_ENGINE),
        ),
        watts=301,
        celsius=48,
    ),
    _gpu(
        5,
        UnitReading(memory_used_bytes=14 * GIB),
        mig=_SLICED,
        instances=(
            _busy(0.0, 6),
            _busy(0.0, 0),
            UnitReading(memory_used_bytes=4 * GIB),
            *(_busy(0.0, 0) for _ in range(4)),
        ),
    ),
    _gpu(
        6,
        UnitReading(),
        watts=None,
        celsius=None,
        faults=("Fallen off the bus (XID 79)",),
    ),
    _gpu(7, _busy(0.52, 11), model=ODD, watts=203, celsius=45),
)

_PARTS: dict[int, tuple[_Part, ...]] = {
    # instance, ratio, holder, its states (of 1), activity
    0: ((None, 1.0, CHAT, {State.USED: 0.86, State.UNDERUSED: 0.14}, 0.86),),
    1: ((None, 1.0, CHAT, {State.USED: 0.78, State.UNDERUSED: 0.22}, 0.78),),
    2: ((None, 1.0, TRAIN, {State.USED: 0.31, State.UNDERUSED: 0.69}, 0.31),),
    3: ((None, 1.0, NOTEBOOK, {State.IDLE: 1.0}, 0.0),),
    4: (
        (_MIXED[0], 3 / 7, EMBED, {State.USED: 0.64, State.UNDERUSED: 0.36}, 0.64),
        (_MIXED[1], 2 / 7, OLD, {State.TERMINATING: 1.0}, 0.0),
        (_MIXED[2], 1 / 7, None, {State.UNALLOCATED: 1.0}, None),
        (None, 1 / 7, None, {State.STRANDED: 1.0}, None),
    ),
    5: (
        (_SLICED[0], 1 / 7, NEW, {State.STARTING: 1.0}, 0.0),
        (_SLICED[1], 1 / 7, BROKEN, {State.FAILING: 1.0}, 0.0),
        (_SLICED[2], 1 / 7, BLIND, {State.UNMEASURED: 1.0}, None),
        (_SLICED[3], 1 / 7, None, {State.UNATTRIBUTED: 1.0}, None),
        (_SLICED[4], 1 / 7, None, {State.UNALLOCATED: 1.0}, None),
        (_SLICED[5], 1 / 7, None, {State.UNALLOCATED: 1.0}, None),
        (_SLICED[6], 1 / 7, None, {State.UNALLOCATED: 1.0}, None),
    ),
    6: ((None, 1.0, None, {State.UNHEALTHY: 1.0}, None),),
    7: ((None, 1.0, ODD_JOB, {State.USED: 0.52, State.UNDERUSED: 0.48}, 0.52),),
}


def _usage(index: int, part: _Part) -> Usage:
    instance, ratio, holder, states, activity = part
    device = _GPUS[index].device
    usd_per_second = None if index == 7 else PRICE / 3600
    readings = dict(zip(device.mig or (), _GPUS[index].instances, strict=True))
    reading = _GPUS[index].reading if instance is None else readings[instance]
    return Usage(
        share=Share(
            gpu_uuid=device.uuid,
            seat=Seat(holder or NODE, device.model),
            ratio=ratio,
            unit=unit_of(device.uuid, instance),
            instance=instance,
            slot=None if instance is None else (device.mig or ()).index(instance),
            holder=holder,
            method=Method.EXCLUSIVE if device.mig is None else Method.MIG,
            state=None if holder else next(iter(states)),
        ),
        paid_by=Seat(holder or NODE, device.model),
        rates=tuple(
            Rate(
                state=state,
                gpus=ratio * weight,
                usd_per_second=None if usd_per_second is None else usd_per_second * ratio * weight,
            )
            for state, weight in states.items()
        ),
        activity=activity,
        memory_used_bytes=reading.memory_used_bytes if holder else None,
    )


def _usages() -> tuple[Usage, ...]:
    return tuple(_usage(index, part) for index, parts in _PARTS.items() for part in parts)


def _account(rates: list[Rate], seconds: float) -> Account:
    """What these rates come to after so many seconds."""
    gpu_seconds: defaultdict[State, float] = defaultdict(float)
    usd: defaultdict[State, float] = defaultdict(float)
    for rate in rates:
        gpu_seconds[rate.state] += rate.gpus * seconds
        if rate.usd_per_second is not None:
            usd[rate.state] += rate.usd_per_second * seconds
    return Account(seconds=dict(gpu_seconds), usd=dict(usd) if usd else None, shown_at=0.0)


def _payer(holder: Holder, gpu_model: str) -> Payer:
    workload, kind, team = _PODS[holder]
    return Payer(
        holder=holder,
        workload=workload,
        workload_kind=kind,
        team=team,
        gpu_model=gpu_model,
        capacity_type="on_demand",
    )


def _ledger(usages: tuple[Usage, ...]) -> Ledger:
    seconds = HOURS * 3600
    by_gpu: defaultdict[str, list[Rate]] = defaultdict(list)
    by_seat: defaultdict[Seat, list[Rate]] = defaultdict(list)
    for usage in usages:
        by_gpu[usage.share.gpu_uuid] += usage.rates
        by_seat[usage.paid_by] += usage.rates
    nobodys = [rate for seat, rates in by_seat.items() if seat.holder == NODE for rate in rates]
    by_holder = {seat.holder: rates for seat, rates in by_seat.items() if seat.holder != NODE}
    model = {gpu.device.uuid: gpu.device.model for gpu in _GPUS}
    payers = {
        seat.holder: _payer(seat.holder, seat.gpu_model) for seat in by_seat if seat.holder != NODE
    }
    months: dict[Workload, Account] = {
        Workload(
            month=MONTH,
            namespace=holder.namespace,
            workload=payer.workload,
            workload_kind=payer.workload_kind,
            team=payer.team,
            gpu_model=payer.gpu_model,
            capacity_type=payer.capacity_type,
        ): _account(by_holder[holder], seconds)
        for holder, payer in payers.items()
    }
    months[Workload(MONTH, "", "", "", "", H100, "on_demand")] = _account(nobodys, seconds)
    return Ledger(
        started_at=NOW - seconds,
        clock_seconds=seconds,
        billed_usd=7 * PRICE * HOURS,
        gpus={
            uuid: GpuAccount(
                account=_account(rates, seconds),
                opened_at=0.0,
                labels=GpuLabels(uuid, model[uuid], "on_demand"),
            )
            for uuid, rates in by_gpu.items()
        },
        node=_account(nobodys, seconds),
        tenures={
            Seat(holder, payer.gpu_model): Tenure(
                uid=f"uid-{holder.pod}", opened_at=0.0, since=NOW - seconds, payer=payer
            )
            for holder, payer in payers.items()
        },
        pods={
            payer: PodAccount(_account(by_holder[holder], seconds))
            for holder, payer in payers.items()
        },
        months=months,
    )


def _prices() -> Mapping[str, Price]:
    priced = Price(PRICE, "on_demand", "catalogue", "whole_node", detail="p5.48xlarge, us-east-1")
    unpriced = Price(None, "on_demand", "none", "none")
    return {gpu_uuid(index): unpriced if index == 7 else priced for index in range(8)}


SOURCES = (
    SourceStatus("nvml", up=True, duration_seconds=0.0184, last_success=NOW - 2),
    SourceStatus("dcgm", up=True, duration_seconds=0.0412, last_success=NOW - 6),
    SourceStatus("podresources", up=True, duration_seconds=0.0031, last_success=NOW - 2),
    SourceStatus("kubernetes", up=False, duration_seconds=10.002, last_success=NOW - 412),
)

PROBLEMS = (
    Problem(
        "kubernetes",
        "unreachable",
        "The watch of this node's pods ended: connection refused by 10.96.0.1:443.",
        "Pods go on under their last known labels. Check that the API server answers this node.",
    ),
    Problem(
        "nvml",
        "gpu_lost",
        f"GPU 6 ({gpu_uuid(6)}) fell off the bus (XID 79); it is still billed.",
        "Drain the node and reset or replace the GPU.",
    ),
    Problem(
        "pricing",
        "unpriced",
        f"No price for 1 GPU of model {ODD}.",
        f"Add a row under prices.table, or `{ODD}: <USD per hour>` under prices.fallback.",
    ),
)


def sample_report(*, simulated: bool = False) -> Report:
    """The Report of the sample node."""
    usages = _usages()
    return Report(
        snapshot=Snapshot(
            wall_time=NOW,
            node=Node(
                name="ip-10-0-42-17.ec2.internal",
                instance_type="p5.48xlarge",
                region="us-east-1",
                zone="us-east-1c",
                node_pool="gpu-h100",
                capacity_type="on_demand",
                provider="aws",
            ),
            node_known=True,
            gpus=_GPUS,
            holdings=None,
            pods={
                (holder.namespace, holder.pod): Pod(
                    namespace=holder.namespace,
                    name=holder.pod,
                    uid=f"uid-{holder.pod}",
                    phase="Running",
                    workload=workload,
                    workload_kind=kind,
                    team=team,
                )
                for holder, (workload, kind, team) in _PODS.items()
            },
            sources=SOURCES,
            problems=PROBLEMS,
        ),
        usages=usages,
        prices=_prices(),
        ledger=_ledger(usages),
        problems=PROBLEMS,
        month=MONTH,
        simulated=simulated,
    )


def empty_report() -> Report:
    """A Report of a node on which nothing is known yet."""
    return Report(
        snapshot=Snapshot(
            wall_time=NOW,
            node=Node(name="bare"),
            node_known=False,
            gpus=(),
            holdings=None,
            pods=None,
        ),
        usages=(),
        prices={},
        ledger=Ledger(started_at=NOW),
        problems=(),
        month=MONTH,
    )


def with_holder(report: Report, old: Holder, new: Holder, payer: Payer) -> Report:
    """The same Report with one holder under another name and other labels."""
    replace = msgspec.structs.replace
    usages = tuple(
        replace(
            usage,
            share=replace(usage.share, holder=new, seat=Seat(new, usage.share.seat.gpu_model)),
            paid_by=Seat(new, usage.share.seat.gpu_model),
        )
        if usage.share.holder == old
        else usage
        for usage in report.usages
    )
    ledger = report.ledger
    was = next(payer for payer in ledger.pods if payer.holder == old)
    return replace(
        report,
        usages=usages,
        ledger=replace(
            ledger,
            tenures={
                (Seat(new, payer.gpu_model) if seat.holder == old else seat): (
                    replace(tenure, payer=payer) if seat.holder == old else tenure
                )
                for seat, tenure in ledger.tenures.items()
            },
            pods={(payer if who == was else who): acc for who, acc in ledger.pods.items()},
        ),
    )
