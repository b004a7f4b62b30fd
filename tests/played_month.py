"""Thirty days of a small fleet with planted waste, hour by hour, and the truth of it.

What the exporters would show is written down from the truth (tests/accuracy shows that they do show
it), and the rules of rules/ that `gpucost report` reads record it. The days lie across the end of a
month, and one node is not scraped for some hours: its counters go on.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

import render_rules
from gpucost.advice.report import questions
from programs import ROOT
from promql_names import metrics_of
from real_prometheus import Prometheus, prometheus
from recorded_rules import Rule, in_order, record, rules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from real_prometheus import Labels

START = 1_768_176_000.0
"""2026-01-12 00:00:00 UTC, a Monday; thirty days later it is 2026-02-11."""
FEBRUARY = 1_769_904_000.0
HOUR = 3600.0
SCRAPE_SECONDS, RULE_SECONDS = 150.0, 600.0
CLUSTER = "prod"
H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"
GIB = 1 << 30
GAP_HOURS = range(250, 256)
"""In which nobody scrapes the node of the gap."""

States = dict[str, float]
"""Shares of a GPU-hour by state; together 1."""


class Machine(Struct, frozen=True):
    """A node and what a GPU of it costs an hour."""

    name: str
    node_pool: str
    instance_type: str
    model: str
    gpus: int
    usd: float
    spot_usd: float
    reserved_usd: float | None = None
    capacity_type: str = "on_demand"


class Holder(Struct, frozen=True):
    """What holds GPUs of a node, or with empty namespace what the node bears.

    `states` says what it did in the hour from Unix time `at`; nothing: it held none.
    """

    node: str
    namespace: str
    workload: str
    kind: str
    gpus: float
    states: Callable[[int, datetime], States]
    team: str = ""
    memory_gib: float = 60.0


NODES = (
    Machine("h100-a", "h100", "p5.48xlarge", H100, 8, 6.88, 2.12, 4.20),
    Machine("h100-b", "h100", "p5.48xlarge", H100, 8, 6.88, 2.12, 4.20),
    Machine("h100-free", "h100", "p5.48xlarge", H100, 8, 6.88, 2.12, 4.20),
    Machine("l4-a", "l4", "g6.48xlarge", L4, 8, 1.669, 0.70),
)
GAP_NODE = "l4-a"


def always(**states: float) -> Callable[[int, datetime], States]:
    return lambda _n, _at: states


def in_office(_n: int, at: datetime) -> States:
    if at.weekday() < 5 and 8 <= at.hour < 18:
        return {"used": 0.7, "underused": 0.3}
    return {"idle": 1.0}


def now_and_then(n: int, _at: datetime) -> States:
    """Three hours in seventeen, which no clock follows."""
    return {"used": 0.9, "underused": 0.1} if n % 17 < 3 else {"idle": 1.0}


def ten_days(n: int, _at: datetime) -> States:
    return {"terminating": 1.0} if 100 <= n < 340 else {}


def the_rest_of(n: int, at: datetime) -> States:
    return {} if ten_days(n, at) else {"unallocated": 1.0}


HOLDERS = (
    # Does what it should, but for its price.
    Holder("h100-a", "research", "train", "PyTorchJob", 4, always(used=0.95, underused=0.05), "ml"),
    # A busy service: some cycles of every hour are without work, and that is not idleness.
    Holder(
        *("h100-a", "serving", "chat", "Deployment", 2),
        always(used=0.78, underused=0.17, idle=0.05),
        "web",
    ),
    Holder("h100-a", "notebooks", "ada", "Notebook", 1, always(idle=1.0), "ml", 3.0),
    Holder("h100-a", "search", "reindex", "Deployment", 1, always(failing=1.0), "search", 0.0),
    Holder("h100-b", "web", "office", "Deployment", 2, in_office, "web"),
    Holder("h100-b", "web", "sometimes", "Deployment", 1, now_and_then, "web"),
    Holder(
        *("h100-b", "serving", "small", "Deployment", 1),
        always(used=0.1, underused=0.9),
        "web",
        6.0,
    ),
    Holder("h100-b", "", "", "", 2, always(stranded=1.0)),
    Holder("h100-b", "", "", "", 1, always(unhealthy=1.0)),
    Holder("h100-b", "batch", "stuck", "Job", 1, ten_days, "ml"),
    Holder("h100-b", "", "", "", 1, the_rest_of),
    Holder("h100-free", "", "", "", 8, always(unallocated=1.0)),
    Holder("l4-a", "serving", "embed", "Deployment", 8, always(used=0.85, underused=0.15), "web"),
)

WASTE = {
    ("free_idle", "notebooks", "ada"),
    ("never_ready", "search", "reindex"),
    ("office_hours", "web", "office"),
    ("scale_to_zero", "web", "sometimes"),
    ("terminating", "batch", "stuck"),
    ("drain", "", ""),
    ("repartition", "", ""),
    ("replace", "", ""),
}
"""What is planted that is waste: kind of advice, namespace and workload."""


class Month(Struct, frozen=True):
    """The Prometheus that holds it, and the truth in USD: whole, and by workload and state."""

    prometheus: Prometheus
    start: float
    end: float
    usd: float
    by_state: dict[tuple[str, str, str], float]


def needed(rules: list[Rule]) -> list[Rule]:
    """The rules that the report's questions read, and those that these read."""
    asked = [it for it in vars(questions).values() if isinstance(it, questions.Question)]
    wanted = {name for it in asked for name in metrics_of(it.promql.replace("$range", "1h"))}
    by_name: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        if "record" in rule:
            by_name[rule["record"]].append(rule)
    names: set[str] = set()
    while more := (wanted & by_name.keys()) - names:
        names |= more
        for name in more:
            wanted |= {it for rule in by_name[name] for it in metrics_of(rule["expr"])}
    return [rule for name in names for rule in by_name[name]]


def rules() -> list[Rule]:
    """But for the one that looks back on itself over days, which is written as it would be."""
    settings = render_rules.parse_settings("")
    texts = render_rules.rendered(settings, sorted((ROOT / "rules").glob("*.yaml")))
    return [
        rule
        for rule in needed(rules_of(texts.values()))
        if rule["record"] != "gpucost:month_watched_since:timestamp_seconds"
    ]


Series = dict["Labels", list[tuple[int, float]]]


def labels(name: str, node: str, **more: str) -> Labels:
    every = {
        "__name__": name,
        "cluster": CLUSTER,
        "node": node,
        "instance": node,
        "job": "gpucost",
        **more,
    }
    return tuple(sorted((key, value) for key, value in every.items() if value))


def moments(hours: int, node: str) -> list[tuple[int, float]]:
    """When a node is scraped: the hour of the play, and Unix seconds."""
    every = round(HOUR / SCRAPE_SECONDS)
    return [
        (hour, START + hour * HOUR + turn * SCRAPE_SECONDS)
        for hour in range(hours + 1)
        for turn in range(every if hour < hours else 1)
        if not (node == GAP_NODE and hour in GAP_HOURS)
    ]


def month_of(at: float) -> tuple[str, float]:
    """The calendar month, and when it began (as far as the play goes)."""
    return ("2026-01", 1_767_225_600.0) if at < FEBRUARY else ("2026-02", FEBRUARY)


def counter(out: Series, rates: list[float], hours: int, node: str, name: str, **more: str) -> None:
    """A counter of so much in each hour, one series a calendar month."""
    before = [0.0, *itertools.accumulate(rates)]
    at_month = before[round((FEBRUARY - START) / HOUR)] if hours * HOUR > FEBRUARY - START else 0.0
    for hour, at in moments(hours, node):
        month, _ = month_of(at)
        rate = rates[hour] if hour < hours else 0.0
        value = before[hour] + rate * (at - START - hour * HOUR) / HOUR
        value -= at_month if month == "2026-02" else 0.0
        series = labels(name, node, month=month, ledger="1", **more)
        out.setdefault(series, []).append((round(at * 1000), value))


def gauge(out: Series, value: float, hours: int, node: str, name: str, **more: str) -> None:
    series = labels(name, node, **more)
    out[series] = [(round(at * 1000), value) for _, at in moments(hours, node)]


def samples(hours: int) -> tuple[Series, dict[tuple[str, str, str], float]]:
    """All series, and the truth by namespace, workload and state."""
    out: Series = {}
    truth: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    clock = [datetime.fromtimestamp(START + n * HOUR, UTC) for n in range(hours)]
    for machine in NODES:
        _node(out, machine, hours)
        gpus_in: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * hours)
        own: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * hours)
        taken = 0
        for holder in HOLDERS:
            if holder.node != machine.name:
                continue
            shares = [holder.states(n, at) for n, at in enumerate(clock)]
            states = {state for it in shares for state in it}
            for state in states:
                part = [holder.gpus * it.get(state, 0.0) for it in shares]
                usd = [it * machine.usd for it in part]
                truth[holder.namespace, holder.workload, state] += sum(usd)
                gpus_in[state] = [a + b for a, b in zip(gpus_in[state], part, strict=True)]
                if holder.namespace:
                    payer = _payer(holder, machine)
                    name = "gpucost_workload_cost_usd_total"
                    counter(out, usd, hours, machine.name, name, state=state, **payer)
                else:
                    own[state] = [a + b for a, b in zip(own[state], usd, strict=True)]
            if holder.namespace:
                held = range(taken, taken + round(holder.gpus))
                taken = held.stop
                _holder(out, holder, machine, held, shares, hours)
        for state, usd in own.items():
            kind = {"gpu_model": machine.model, "capacity_type": machine.capacity_type}
            name = "gpucost_workload_cost_usd_total"
            counter(out, usd, hours, machine.name, name, state=state, **kind)
        for state, gpus in gpus_in.items():
            seconds = [it * HOUR for it in gpus]
            kind = {"gpu_model": machine.model, "capacity_type": machine.capacity_type}
            device = {"gpu": "0", "uuid": f"GPU-{machine.name}", "state": state, **kind}
            name = "gpucost_gpu_seconds_total"
            _plain_counter(out, seconds, hours, machine.name, name, **device)
    return out, dict(truth)


def _payer(holder: Holder, machine: Machine) -> dict[str, str]:
    return {
        "namespace": holder.namespace,
        "workload": holder.workload,
        "workload_kind": holder.kind,
        "team": holder.team,
        "gpu_model": machine.model,
        "capacity_type": machine.capacity_type,
    }


def _plain_counter(
    out: Series, rates: list[float], hours: int, node: str, name: str, **more: str
) -> None:
    before = [0.0, *itertools.accumulate(rates)]
    series = labels(name, node, **more)
    out[series] = [
        (
            round(at * 1000),
            before[hour]
            + (rates[hour] if hour < hours else 0.0) * (at - START - hour * HOUR) / HOUR,
        )
        for hour, at in moments(hours, node)
    ]


def _node(out: Series, machine: Machine, hours: int) -> None:
    node = machine.name
    info = {
        "instance_type": machine.instance_type,
        "region": "us-east-1",
        "zone": "us-east-1a",
        "node_pool": machine.node_pool,
        "capacity_type": machine.capacity_type,
        "provider": "aws",
    }
    gauge(out, 1.0, hours, node, "gpucost_node_info", **info)
    for n in range(machine.gpus):
        device = {"gpu": str(n), "uuid": f"GPU-{node}-{n}", "gpu_model": machine.model}
        gauge(out, 1.0, hours, node, "gpucost_gpu_info", **device)
    gpu = {"gpu": "0", "uuid": f"GPU-{node}", "gpu_model": machine.model}
    price = {"price_source": "catalogue", "split": "whole_node"}
    own = {"capacity_type": machine.capacity_type, **gpu}
    gauge(out, machine.usd, hours, node, "gpucost_gpu_price_usd_per_hour", **own, **price)
    others = {"spot": machine.spot_usd, "reserved": machine.reserved_usd}
    for capacity, usd in others.items():
        if usd is not None:
            name = "gpucost_gpu_alternative_price_usd_per_hour"
            other = {"capacity_type": capacity, "price_source": "catalogue", **gpu}
            gauge(out, usd, hours, node, name, **other)
    for _, at in moments(hours, node):
        month, began = month_of(at)
        series = labels("gpucost_billing_month_start_timestamp_seconds", node, month=month)
        out.setdefault(series, []).append((round(at * 1000), began))


def _holder(
    out: Series,
    holder: Holder,
    machine: Machine,
    held: range,
    shares: list[States],
    hours: int,
) -> None:
    """Its GPU-seconds, and what one pod of its shows of activity and memory."""
    node, payer = machine.name, _payer(holder, machine)
    seconds = [holder.gpus * sum(it.values()) * HOUR for it in shares]
    counter(out, seconds, hours, node, "gpucost_workload_gpu_seconds_total", **payer)
    pod = {"pod": f"{holder.workload}-0", "container": "main"}
    _plain_counter(out, seconds, hours, node, "gpucost_pod_gpu_seconds_total", **payer, **pod)
    who = {"namespace": holder.namespace, **pod}
    for n in held:
        share = {"gpu": str(n), "uuid": f"GPU-{node}-{n}", "method": "exclusive", **who}
        gauge(out, 1.0, hours, node, "gpucost_pod_gpu_share_ratio", **share)
    worker = {**who, "workload": holder.workload, "gpu_model": machine.model}
    memory = holder.memory_gib * GIB
    gauge(out, memory, hours, node, "gpucost_pod_memory_peak_bytes", **worker)
    series = labels("gpucost_pod_activity_ratio", node, **worker)
    out[series] = [
        (round(at * 1000), shares[min(hour, hours - 1)].get("used", 0.0))
        for hour, at in moments(hours, node)
        if any(it in shares[min(hour, hours - 1)] for it in ("used", "underused", "idle"))
    ]


@contextmanager
def month(directory: Path, days: int = 30) -> Iterator[Month]:
    """A Prometheus with so many days of it, and what the rules record of them."""
    hours = days * 24
    series, truth = samples(hours)
    end = START + hours * HOUR
    watched = (("__name__", "gpucost:month_watched_since:timestamp_seconds"),)
    waiting = {"namespace": "research", "pod": "wants-8", "cluster": CLUSTER}
    of_kube_state_metrics = {
        "kube_pod_container_resource_requests": ({"resource": "nvidia_com_gpu"}, 8.0),
        "kube_pod_status_phase": ({"phase": "Pending"}, 1.0),
        "kube_pod_status_scheduled": ({"condition": "true"}, 0.0),
        "kube_pod_owner": ({"owner_kind": "PyTorchJob", "owner_name": "train"}, 1.0),
    }
    with prometheus(directory) as it:
        it.write(series)
        every = [
            round((START + n * RULE_SECONDS) * 1000)
            for n in range(round(hours * HOUR / RULE_SECONDS) + 1)
        ]
        it.write(
            {
                watched: [(at, START - 86_400.0) for at in every],
                **{
                    tuple(sorted({**waiting, "__name__": name, **more}.items())): [
                        (at, value) for at in every
                    ]
                    for name, (more, value) in of_kube_state_metrics.items()
                },
            }
        )
        record(it, in_order(rules()), START, end, RULE_SECONDS)
        yield Month(it, START, end, sum(truth.values()), truth)
