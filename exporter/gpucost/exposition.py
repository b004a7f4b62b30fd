"""Report to metric families: what /metrics shows, and what it must not.

Nothing unknown is shown as 0: a series of which there is no figure is absent. New counters are
shown at 0 for two scrape intervals while accrual goes on underneath, all states of a subject
together, because Prometheus's increase() never sees a series' first value
(prometheus/prometheus issue 1673). Gauges of an ended pod go at once; its counters linger.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from gpucost.catalog import FAMILIES
from gpucost.ledger import imbalance_usd
from gpucost.model import (
    HOUR_SECONDS,
    NODE,
    NODE_STATES,
    WASTE_STATES,
    Account,
    GpuLabels,
    GpuReading,
    Report,
    State,
    unit_of,
)
from gpucost.serving_page import serving_series
from gpucost.tenure import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gpucost.model import Payer, Seat, Usage, Worker


class _Page:
    """Collects samples by family, in the catalogue's order, each with the node's label."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._samples: dict[str, list[Sample]] = {name: [] for name in FAMILIES}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add a sample with the family's labels in their order; None adds nothing."""
        if value is not None:
            named = dict(zip(FAMILIES[name].labels, labels, strict=True))
            self.put(name, value, named)

    def put(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Add a sample with labels by name."""
        labels["node"] = self._node
        self._samples[name].append(Sample(name, labels, value))

    def families(self) -> Iterator[Metric]:
        """The families that have samples."""
        for name, samples in self._samples.items():
            if samples:
                family = FAMILIES[name]
                metric = Metric(
                    name.removesuffix("_total") if family.type == "counter" else name,
                    family.help,
                    family.type,
                )
                metric.samples = samples
                yield metric


def families(report: Report, *, version: str, reveal: bool = False) -> Iterator[Metric]:
    """The metric families of a Report.

    `reveal` shows every counter's true value at once, as a page would after the first showing
    at 0.
    """
    page = _Page(report.snapshot.node.name)
    now = None if reveal else report.ledger.clock_seconds - report.hold_seconds
    _node(page, report)
    _gpus(page, report, now)
    _shares(page, report)
    _pods(page, report, now)
    _pod_labels(page, report)
    for name, value, labels in serving_series(report, now):
        page.add(name, value, *labels)
    _months(page, report, now)
    _exporter(page, report, version)
    return page.families()


def _shown(value: float, first_shown_at: float | None, now: float | None) -> float:
    """A counter's value, or 0 while it is new. `now` is the clock less the hold; None reveals."""
    if now is None or (first_shown_at is not None and first_shown_at <= now):
        return value
    return 0.0


def _node(page: _Page, report: Report) -> None:
    node = report.snapshot.node
    page.add(
        "gpucost_node_info",
        1,
        node.instance_type,
        node.region,
        node.zone,
        node.node_pool,
        node.capacity_type or UNKNOWN,
        node.provider,
    )


def _gpus(page: _Page, report: Report, now: float | None) -> None:
    accounts = report.ledger.gpus
    numbers = _numbers(report)
    others = {} if report.priced is None else report.priced.pricing.alternatives
    for gpu in report.snapshot.gpus:
        device, price = gpu.device, report.prices[gpu.device.uuid]
        labels = accounts[device.uuid].labels or GpuLabels(
            gpu=numbers[device.uuid],
            gpu_model=device.model,
            capacity_type=price.capacity_type or UNKNOWN,
        )
        name = (labels.gpu, device.uuid)
        info = (*name, labels.gpu_model, labels.capacity_type, price.source, price.split)
        page.add("gpucost_gpu_info", 1, *info)
        page.add("gpucost_gpu_price_usd_per_hour", price.usd_per_hour, *info)
        for other in others.get(device.uuid, ()):
            under = (*name, labels.gpu_model, other.capacity_type, other.source)
            page.add("gpucost_gpu_alternative_price_usd_per_hour", other.usd_per_hour, *under)
        for instance in device.mig or ():
            mig_uuid = instance.uuid or unit_of(device.uuid, instance)
            page.add("gpucost_mig_info", 1, *name, mig_uuid, instance.profile)
        _gpu_readings(page, gpu, name)
    for uuid, account in accounts.items():
        if account.labels is None:
            continue
        label = account.labels
        by = (label.gpu, uuid, label.gpu_model, label.capacity_type)
        _states(page, "gpucost_gpu_cost_usd_total", account.account, State, by, now)
        for state in State:
            value = account.account.seconds.get(state, 0.0)
            shown = _shown(value, account.account.shown_at, now)
            page.add("gpucost_gpu_seconds_total", shown, *by, state)
    for (uuid, xid), count in report.ledger.xids.items():
        shown = _shown(count.count, count.shown_at, now)
        page.add("gpucost_gpu_xid_events_total", shown, numbers[uuid], uuid, str(xid))


def _numbers(report: Report) -> dict[str, str]:
    """The `gpu` label of every GPU: that of its counters, for joins; before it has any, its index.

    The driver may number GPUs anew when one falls off the bus.
    """
    numbers = {
        gpu.device.uuid: "" if gpu.device.index is None else str(gpu.device.index)
        for gpu in report.snapshot.gpus
    }
    for uuid, account in report.ledger.gpus.items():
        if account.labels is not None:
            numbers[uuid] = account.labels.gpu
    return numbers


def _states(
    page: _Page,
    family: str,
    account: Account,
    states: Iterable[State],
    labels: tuple[str, ...],
    now: float | None,
) -> None:
    """An account's dollars, all its states together; nothing while it never had a price."""
    if account.usd is not None:
        # A state that settings no longer charge (`unhealthy`) keeps what it was charged.
        for state in dict.fromkeys((*states, *account.usd)):
            value = _shown(account.usd.get(state, 0.0), account.priced_at, now)
            page.add(family, value, *labels, state)


def _gpu_readings(page: _Page, gpu: GpuReading, name: tuple[str, str]) -> None:
    reading = gpu.reading
    if reading.activity is not None:
        page.add(
            "gpucost_gpu_activity_ratio", reading.activity.ratio, *name, reading.activity.signal
        )
    if reading.efficiency is not None:
        for kind in ("sm", "tensor", "memory"):
            value = getattr(reading.efficiency, kind)
            page.add("gpucost_gpu_efficiency_ratio", value, *name, kind)
    page.add("gpucost_gpu_memory_used_bytes", reading.memory_used_bytes, *name)
    page.add("gpucost_gpu_memory_bytes", gpu.device.memory_bytes, *name)
    page.add("gpucost_gpu_power_watts", gpu.power_watts, *name)
    page.add("gpucost_gpu_energy_joules_total", gpu.energy_joules, *name)
    page.add("gpucost_gpu_temperature_celsius", gpu.temperature_celsius, *name)
    page.add("gpucost_gpu_sm_clock_hertz", gpu.sm_clock_hertz, *name)
    if gpu.seen or gpu.faults:
        page.add("gpucost_gpu_healthy", 0 if gpu.faults else 1, *name)


def _shares(page: _Page, report: Report) -> None:
    """One series a part; parts of one GPU that nobody holds are told apart by their method."""
    numbers = _numbers(report)
    ratios: dict[tuple[str, ...], float] = {}
    for usage in report.usages:
        share = usage.share
        holder = share.holder or NODE
        mig_uuid = "" if share.instance is None else share.instance.uuid or share.unit
        key: tuple[str, ...] = (
            holder.namespace,
            holder.pod,
            holder.container,
            numbers[share.gpu_uuid],
            share.gpu_uuid,
            mig_uuid,
            share.method,
        )
        ratios[key] = ratios.get(key, 0.0) + share.ratio
    for key, ratio in ratios.items():
        page.add("gpucost_pod_gpu_share_ratio", ratio, *key)


def _payer(payer: Payer) -> tuple[str, ...]:
    holder = payer.holder
    return (
        holder.namespace,
        holder.pod,
        holder.container,
        payer.workload,
        payer.workload_kind,
        payer.team,
        payer.gpu_model,
        payer.capacity_type,
    )


def _worker(it: Payer | Worker) -> tuple[str, ...]:
    holder = it.holder
    return (holder.namespace, holder.pod, holder.container, it.workload, it.gpu_model)


def _pods(page: _Page, report: Report, now: float | None) -> None:
    for payer, held in report.ledger.pods.items():
        labels, account = _payer(payer), held.account
        _states(page, "gpucost_pod_cost_usd_total", account, report.holder_states, labels, now)
        seconds = _shown(sum(account.seconds.values()), account.shown_at, now)
        page.add("gpucost_pod_gpu_seconds_total", seconds, *labels)
    for worker, energy in report.ledger.energy.items():
        joules = _shown(energy.joules, energy.shown_at, now)
        page.add("gpucost_pod_energy_joules_total", joules, *_worker(worker))
    for seat, usages in _by_seat(report.usages).items():
        tenure = report.ledger.tenures.get(seat)
        if tenure is not None and tenure.payer is not None:
            _pod_gauges(page, tenure.payer, usages)
            labels = _worker(tenure.payer)
            page.add("gpucost_pod_memory_peak_bytes", tenure.memory_peak_bytes, *labels)
            page.add("gpucost_pod_holding_since_timestamp_seconds", tenure.since, *labels)
            page.add("gpucost_pod_last_active_timestamp_seconds", tenure.last_active, *labels)


def _by_seat(usages: Sequence[Usage]) -> dict[Seat, list[Usage]]:
    by_seat: dict[Seat, list[Usage]] = {}
    for usage in usages:
        if usage.share.holder is not None:
            by_seat.setdefault(usage.share.seat, []).append(usage)
    return by_seat


def _pod_gauges(page: _Page, payer: Payer, usages: Sequence[Usage]) -> None:
    rates = [rate for usage in usages if usage.paid_by.holder != NODE for rate in usage.rates]
    priced = [rate for rate in rates if rate.usd_per_second is not None]
    if priced:
        labels = _payer(payer)
        per_state: dict[State, float] = dict.fromkeys(State, 0.0)
        for rate in priced:
            per_state[rate.state] += (rate.usd_per_second or 0.0) * HOUR_SECONDS
        page.add("gpucost_pod_cost_usd_per_hour", sum(per_state.values()), *labels)
        for state in WASTE_STATES:
            page.add("gpucost_pod_waste_usd_per_hour", per_state[state], *labels, state)
    labels = _worker(payer)
    page.add("gpucost_pod_activity_ratio", mean_activity(usages), *labels)
    memory = [u.memory_used_bytes for u in usages]
    known = [used for used in memory if used is not None]
    if known and len(known) == len(memory):
        page.add("gpucost_pod_memory_used_bytes", sum(known), *labels)


def mean_activity(usages: Sequence[Usage]) -> float | None:
    """The share-weighted mean activity of the parts that have a signal; None if none has."""
    known = [(u.share.ratio, u.activity) for u in usages if u.activity is not None]
    weight = sum(ratio for ratio, _ in known)
    if weight <= 0:
        return None
    return sum(ratio * activity for ratio, activity in known) / weight


def _pod_labels(page: _Page, report: Report) -> None:
    for pod in (report.snapshot.pods or {}).values():
        published = {
            **_label_names("label_", pod.labels),
            **_label_names("annotation_", pod.annotations),
        }
        if published and pod.gpu_containers and not pod.finished:
            page.put(
                "gpucost_pod_labels", 1, {"namespace": pod.namespace, "pod": pod.name, **published}
            )


def _label_names(prefix: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Kubernetes labels under Prometheus names, as kube-state-metrics writes them.

    Keys that come out alike (`a.b` and `a-b`) are told apart by `_conflict1`, `_conflict2`...
    """
    plain = {key: prefix + re.sub(r"[^a-zA-Z0-9_]", "_", key) for key in sorted(labels)}
    alike = Counter(plain.values())
    seen: Counter[str] = Counter()
    names: dict[str, str] = {}
    for key, name in plain.items():
        seen[name] += 1
        names[name if alike[name] == 1 else f"{name}_conflict{seen[name]}"] = labels[key]
    return names


def _months(page: _Page, report: Report, now: float | None) -> None:
    ledger_id = ledger_name(report.ledger.started_at)
    for key, account in report.ledger.months.items():
        labels = (
            key.month,
            ledger_id,
            key.namespace,
            key.workload,
            key.workload_kind,
            key.team,
            key.gpu_model,
            key.capacity_type,
        )
        states = report.holder_states if key.namespace else NODE_STATES
        _states(page, "gpucost_workload_cost_usd_total", account, states, labels, now)
        seconds = _shown(sum(account.seconds.values()), account.shown_at, now)
        page.add("gpucost_workload_gpu_seconds_total", seconds, *labels)
    page.add("gpucost_billing_month_info", 1, report.month)
    page.add("gpucost_billing_month_start_timestamp_seconds", report.month_start, report.month)


def ledger_name(started_at: float) -> str:
    """The start of a ledger as its label: UTC, to the second, like 20261122T193300Z."""
    return datetime.fromtimestamp(started_at, UTC).strftime("%Y%m%dT%H%M%SZ")


def _exporter(page: _Page, report: Report, version: str) -> None:
    for status in report.snapshot.sources:
        page.add("gpucost_source_up", int(status.up), status.source)
        page.add("gpucost_source_duration_seconds", status.duration_seconds, status.source)
        page.add(
            "gpucost_source_last_success_timestamp_seconds", status.last_success, status.source
        )
    counts: dict[tuple[str, str], int] = {}
    for problem in report.problems:
        key = (problem.source, problem.kind)
        counts[key] = counts.get(key, 0) + 1
    for (source, kind), count in sorted(counts.items()):
        page.add("gpucost_problems", count, source, kind)
    unpriced = sum(price.usd_per_hour is None for price in report.prices.values())
    page.add("gpucost_unpriced_gpus", unpriced)
    for source, date in sorted(report.price_dates.items()):
        page.add("gpucost_price_table_timestamp_seconds", date, source)
    page.add("gpucost_ledger_imbalance_usd", imbalance_usd(report.ledger))
    page.add("gpucost_ledger_start_timestamp_seconds", report.ledger.started_at)
    page.add("gpucost_config_last_reload_successful", int(report.config_in_force))
    page.add("gpucost_config_last_reload_success_timestamp_seconds", report.config_read_at)
    page.add("gpucost_build_info", 1, version)
