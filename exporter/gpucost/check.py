"""Preflight: does each source answer, does each GPU have signals and a price? Pure.

A finding says what is so and, where it is not well, what to do. Dollars flow when there are
GPUs, all of them priced, and it is known who holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from gpucost.model import UnitId, unit_of
from gpucost.waste import readings_by_unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gpucost.model import GpuReading, Price, Report, Snapshot, UnitReading

Level = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One thing looked at. `fail`: dollars will not flow, or flow to nobody."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


_OF_UNITS: tuple[tuple[str, Callable[[UnitReading], object]], ...] = (
    ("efficiency", lambda reading: reading.efficiency),
    ("memory", lambda reading: reading.memory_used_bytes),
)
_OF_GPUS: tuple[tuple[str, Callable[[GpuReading], object]], ...] = (
    ("power", lambda gpu: gpu.power_watts),
    ("energy", lambda gpu: gpu.energy_joules),
    ("temperature", lambda gpu: gpu.temperature_celsius),
    ("sm_clock", lambda gpu: gpu.sm_clock_hertz),
)
"""Signals beside the activity: the name, and where it is."""

_WITHOUT = (
    "dcgm-exporter on this node may have it. Dollars need none of these: on premises, power that is"
    " not known is estimated."
)

Reasons = Mapping[tuple[UnitId, str], str]
"""Why a unit has not a signal, as far as its source knows."""


def findings(report: Report, reasons: Reasons | None = None) -> tuple[Finding, ...]:
    """Everything that was looked at, in the order in which the data flow."""
    return (
        *_sources(report),
        *_gpus(report, reasons or {}),
        *_holders(report.snapshot),
        *_node(report.snapshot),
        *_rights(report.snapshot),
    )


def dollars_flow(found: Sequence[Finding]) -> bool:
    """Whether nothing stands in the way of dollars per pod."""
    return all(finding.level != "fail" for finding in found)


def render(found: Sequence[Finding]) -> str:
    """The findings as lines for a terminal; a remedy that several share is said once."""
    width = max((len(finding.subject) for finding in found), default=0)
    lines = []
    told: set[str] = set()
    for finding in found:
        lines.append(f"{finding.level:>4}  {finding.subject:<{width}}  {finding.message}")
        if finding.remedy and finding.level != "ok" and finding.remedy not in told:
            told.add(finding.remedy)
            lines.append(f"{'':>4}  {'':<{width}}  -> {finding.remedy}")
    verdict = "Dollars will flow." if dollars_flow(found) else "Dollars will not flow yet."
    return "\n".join([*lines, "", verdict, ""])


def _sources(report: Report) -> Iterator[Finding]:
    snapshot = report.snapshot
    devices = ("nvml", "dcgm")
    some_devices = any(s.up for s in snapshot.sources if s.source in devices)
    for status in snapshot.sources:
        if status.up:
            took = f"answers in {status.duration_seconds * 1e3:.0f} ms"
            yield Finding("ok", f"source {status.source}", took)
    for problem in report.problems:
        needed = problem.source == "kubelet" or (problem.source in devices and not some_devices)
        down = any(s.source == problem.source and not s.up for s in snapshot.sources)
        unpriced = problem.source == "pricing" and problem.kind == "unpriced"
        if not unpriced:  # said of each GPU below
            level: Level = "fail" if needed and down else "warn"
            subject = f"source {problem.source}" if down else problem.source
            yield Finding(level, subject, f"{problem.kind}: {problem.message}", problem.remedy)


def _gpus(report: Report, reasons: Reasons) -> Iterator[Finding]:
    if not report.snapshot.gpus:
        yield Finding(
            "fail",
            "GPUs",
            "none found",
            "Run on a GPU node with the driver's libraries in the container"
            " (NVIDIA_VISIBLE_DEVICES=all, NVIDIA_DRIVER_CAPABILITIES=utility, and the nvidia"
            " runtime class where it is not the default), or give dcgm.url.",
        )
    how_to_price = next((p.remedy for p in report.problems if p.kind == "unpriced"), "")
    for gpu in report.snapshot.gpus:
        index = "?" if gpu.device.index is None else gpu.device.index
        subject = f"GPU {index}"
        yield _health(subject, gpu)
        if not gpu.faults:
            yield _signal(subject, gpu)
            yield from _other_signals(subject, gpu, reasons)
        yield _price(subject, report.prices[gpu.device.uuid], how_to_price)


def _health(subject: str, gpu: GpuReading) -> Finding:
    what = f"{gpu.device.model}, {gpu.device.uuid}"
    if gpu.device.mig is not None:
        what += f", {len(gpu.device.mig)} MIG instances"
    if gpu.faults:
        return Finding(
            "warn",
            subject,
            f"{what}: {', '.join(gpu.faults)}",
            "Its time is charged as unhealthy. Drain the node and reset or replace the GPU.",
        )
    return Finding("ok", subject, what)


def _signal(subject: str, gpu: GpuReading) -> Finding:
    readings = readings_by_unit(gpu)
    signals = sorted({str(r.activity.signal) for r in readings if r.activity is not None})
    blind = sum(reading.activity is None for reading in readings)
    if blind and readings:
        return Finding(
            "warn",
            subject,
            "no activity signal"
            + (f" on {blind} of {len(readings)} MIG instances" if gpu.device.mig else "")
            + ": held time is unmeasured",
            "Run dcgm-exporter with DCGM_FI_PROF_GR_ENGINE_ACTIVE on this node (MIG before Hopper"
            " has no signal in NVML), or let the exporter run privileged for GPM.",
        )
    return Finding("ok", subject, f"activity from {', '.join(signals) or 'no unit'}")


def _other_signals(subject: str, gpu: GpuReading, reasons: Reasons) -> Iterator[Finding]:
    """What else it tells, in one line, and a line for each signal that is missing."""
    uuid, mig = gpu.device.uuid, gpu.device.mig
    units = [unit_of(uuid, instance) for instance in ((None,) if mig is None else mig)]
    asked = {
        name: dict(zip(units, map(value, readings_by_unit(gpu)), strict=True))
        for name, value in _OF_UNITS
    } | {name: {unit_of(uuid): value(gpu)} for name, value in _OF_GPUS}
    there = []
    missing: dict[str, list[str]] = {}
    for name, values in asked.items():
        without = [unit for unit, value in values.items() if value is None]
        if not without:
            there.append(name)
            continue
        some = "" if uuid in values else f" on {len(without)} of {len(values)} MIG instances"
        why = dict.fromkeys(reasons[unit, name] for unit in without if (unit, name) in reasons)
        missing.setdefault(f"{some}: {'; '.join(why) or 'no source tells it'}", []).append(name)
    if there:
        yield Finding("ok", subject, f"also tells {', '.join(there)}")
    for told, names in missing.items():
        yield Finding("warn", subject, f"no {', '.join(names)}{told}", _WITHOUT)


def _price(subject: str, price: Price, how_to_price: str) -> Finding:
    if price.usd_per_hour is None:
        return Finding("fail", subject, f"no price: {price.detail}", how_to_price)
    estimated = " (estimated)" if price.estimated else ""
    return Finding(
        "ok",
        subject,
        f"{price.usd_per_hour:.4f} USD/h{estimated} by {price.source}: {price.detail}",
    )


def _holders(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.holdings is None:
        yield Finding(
            "fail",
            "holders",
            "nobody says who holds the GPUs: all time will be unattributed",
            "Mount the directory /var/lib/kubelet/pod-resources and run as a user who may open"
            " kubelet.sock there (root).",
        )
    elif snapshot.holdings.assumed:
        yield Finding("warn", "holders", "no Kubernetes here: cost by GPU and state, not by pod")
    else:
        pods = {(h.holder.namespace, h.holder.pod) for h in snapshot.holdings.holdings}
        held = "1 pod holds" if len(pods) == 1 else f"{len(pods)} pods hold"
        yield Finding("ok", "holders", f"{held} GPUs")


def _node(snapshot: Snapshot) -> Iterator[Finding]:
    node = snapshot.node
    alone = snapshot.holdings is not None and snapshot.holdings.assumed
    if not snapshot.node_known and not alone:
        yield Finding(
            "warn",
            "node",
            f"{node.name}: labels not read, so pods have no workload and no team",
            "Give the service account list and watch on pods and nodes.",
        )
        return
    unknown = [
        field for field in ("instance_type", "region", "capacity_type") if not getattr(node, field)
    ]
    if unknown:
        yield Finding(
            "warn",
            "node",
            f"{node.name}: {', '.join(unknown)} unknown",
            "Set them under `node:` in the settings."
            if alone
            else "Label the Node (node.kubernetes.io/instance-type, topology.kubernetes.io/region),"
            " or set them under `node:` in the settings.",
        )
    else:
        yield Finding(
            "ok",
            "node",
            f"{node.name}: {node.instance_type}, {node.region}, {node.capacity_type}",
        )


def _rights(snapshot: Snapshot) -> Iterator[Finding]:
    """What may be read, as the answers show; what an answer is missing to prove is left out."""
    may = []
    if any(status.source == "kubelet" and status.up for status in snapshot.sources):
        may.append("the kubelet's socket")
    if snapshot.pods is not None:
        may.append("pods")
    elif any(status.source == "kubernetes" for status in snapshot.sources):
        yield Finding(
            "warn",
            "rights",
            "pods not read: no workload, no team, no cold starts",
            "Give the service account list and watch on pods.",
        )
    if snapshot.node_known:
        may.append("the Node")
    readings = [reading for gpu in snapshot.gpus for reading in readings_by_unit(gpu)]
    processes = [process for reading in readings for process in reading.processes or ()]
    if any(process.cgroup for process in processes):
        may.append("whose processes are on the GPUs")
    elif processes or any(reading.processes is None for reading in readings):
        yield Finding(
            "warn",
            "rights",
            "not seen whose processes are on the GPUs: on a shared one activity is unmeasured",
            "Run the exporter with hostPID: true, where pods share GPUs.",
        )
    if may:
        yield Finding("ok", "rights", f"may read {', '.join(may)}")
