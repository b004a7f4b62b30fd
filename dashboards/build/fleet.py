"""Fleet: what all GPUs cost, what of it is wasted, and where."""

from __future__ import annotations

from dashboards.build.board import TO_WORKLOAD, Board, Variable, link
from dashboards.build.panels import (
    BYTES,
    HIGH_IS_GOOD,
    LOW_IS_GOOD,
    NUMBER,
    ORANGE,
    RATIO,
    RED,
    STATES,
    USD,
    WATTS,
    YELLOW,
    Query,
    Row,
    bars,
    chart,
    coloured,
    donut,
    stat,
)
from dashboards.build.promql import CLUSTER, FREE, UNKNOWN, WASTE, hourly, total, usd
from dashboards.build.tables import Column, Label, table

POOL = f'{CLUSTER}, node_pool=~"$node_pool"'
COST = f"fleet:gpucost_cost_usd:rate5m{{{POOL}}}"
GPUS = f"node_pool:gpucost_gpus:rate5m{{{POOL}}}"
WASTED = f"fleet:gpucost_cost_usd:rate5m{{{POOL}, {WASTE}}}"


def _nodes(sign: str, what: str, by: str, legend: str) -> Query:
    """Of Karpenter's counters: exact steps, which increase() would stretch."""
    counter = f"karpenter_nodeclaims_{what}_total{{{CLUSTER}}}"
    return Query(
        f"{sign} (sum by ({by}) ({counter} - ({counter} offset $__interval or {counter} * 0)) > 0)",
        legend,
    )


BOARD = Board(
    uid="gpucost-fleet",
    title="GPU cost / Fleet",
    description="What all GPUs cost now and this month, what of it is wasted and why, and how it"
    " divides by GPU model, node pool and capacity type.",
    variables=(
        Variable(
            "node_pool",
            "Node pool",
            f"node_pool:gpucost_cost_usd:rate5m{{{CLUSTER}}}",
            "Node pools or groups.",
        ),
    ),
    rows=(
        Row(
            "",
            (
                stat(
                    "Spend now, per hour",
                    "What all GPUs cost at this moment, used or not.",
                    hourly(f"sum(node_pool:gpucost_cost_usd:rate5m{{{POOL}}})"),
                    USD,
                    decimals=2,
                ),
                stat(
                    "Month to date",
                    "The bill of the calendar month (in the billing time zone) at the end of the"
                    " time range: choose a range that ends in another month to see that one.",
                    usd(f"sum(node_pool:gpucost_cost_usd:month_to_date{{{POOL}}})"),
                    USD,
                    decimals=0,
                    trend=False,
                ),
                stat(
                    "Forecast of the month",
                    "Month to date, and the rest of the month at the mean rate of the last day.",
                    usd(
                        f"(sum(node_pool:gpucost_cost_usd:month_to_date{{{POOL}}}) +"
                        f" sum(avg_over_time(node_pool:gpucost_cost_usd:rate5m{{{POOL}}}[1d]))"
                        " * on () group_left () gpucost:billing_month_left:seconds)"
                    ),
                    USD,
                    decimals=0,
                    trend=False,
                ),
                stat(
                    "Wasted",
                    "Share of the present spend that pods hold and do not use: idle, underused,"
                    " starting, failing or terminating.",
                    f"sum({WASTED}) / sum({COST})",
                    RATIO,
                    decimals=0,
                    thresholds=LOW_IS_GOOD,
                    may_be_empty="none",
                ),
                stat(
                    "Held by nobody",
                    "Share of the present spend on GPUs, or MIG slices, that no pod holds.",
                    f"(sum(node_pool:gpucost_free_usd:rate5m{{{POOL}}}) or vector(0)) / sum({COST})",
                    RATIO,
                    decimals=0,
                    thresholds=LOW_IS_GOOD,
                ),
                stat(
                    "Measured",
                    "Share of the GPUs whose holder and activity are known. The rest is counted"
                    " and paid for, but as unattributed or unmeasured: never as idle, never as free.",
                    f"1 - (sum(node_pool:gpucost_gpus:rate5m{{{POOL}, {UNKNOWN}}}) or vector(0))"
                    f" / sum({GPUS})",
                    RATIO,
                    decimals=0,
                    thresholds=((None, RED), (0.8, YELLOW), (0.95, "#56A64B")),
                ),
                stat(
                    "GPUs",
                    "GPUs that are paid for now, by GPU-seconds per second.",
                    f"sum({GPUS})",
                    NUMBER,
                    decimals=0,
                ),
                stat(
                    "GPU-hours",
                    "GPU-hours in the time range, used or not.",
                    total("", f"node_pool:gpucost_gpu_seconds:rate5m{{{POOL}}}") + " / 3600",
                    NUMBER,
                    decimals=0,
                    trend=False,
                ),
                stat(
                    "Activity",
                    "Share of time that held GPUs were busy, of those that can be measured.",
                    f"sum(tenant:gpucost_active_gpus:sum{{{POOL}}})"
                    f" / sum(tenant:gpucost_measured_gpus:sum{{{POOL}}})",
                    RATIO,
                    decimals=0,
                    thresholds=HIGH_IS_GOOD,
                ),
                stat(
                    "Cost of an active GPU-hour",
                    "All spend over the GPUs at work: what an hour of real work costs.",
                    hourly(f"sum({COST}) / (sum(tenant:gpucost_active_gpus:sum{{{POOL}}}) > 0)"),
                    USD,
                    decimals=2,
                    may_be_empty="no work",
                ),
                stat(
                    "Power",
                    "Power drawn by all GPUs, held or not.",
                    f"sum(node_pool:gpucost_gpu_energy_joules:rate5m{{{POOL}}})",
                    WATTS,
                ),
                stat(
                    "Alerts firing",
                    "Alerts of gpucost's rules that fire now.",
                    f'count(ALERTS{{alertname=~"GPU.*|Gpucost.*", alertstate="firing", {CLUSTER}}})'
                    " or vector(0)",
                    NUMBER,
                    thresholds=((None, "#56A64B"), (1, ORANGE)),
                ),
            ),
        ),
        Row(
            "Where the money goes",
            (
                chart(
                    "Spend per hour, by what the GPUs did",
                    "Every paid second is in one state, so the sum is the bill. Green works; yellow,"
                    " blue and red are held and do no work; orange is held by nobody; grey is not"
                    " known.",
                    (Query(hourly(f"sum by (state) ({COST})"), "{{state}}"),),
                    USD,
                    width=16,
                    height=9,
                    style="stack",
                    overrides=STATES,
                ),
                donut(
                    "Spent in the time range, by state",
                    "What the time range cost, by what the GPUs did.",
                    "sort_desc(" + usd(total("state", COST)) + ")",
                    "{{state}}",
                    USD,
                    height=9,
                    decimals=0,
                    overrides=STATES,
                ),
            ),
        ),
        Row(
            "Waste",
            (
                chart(
                    "Waste per hour, by reason",
                    "What pods hold and do not use. Each reason has its own remedy: idle pods can"
                    " be stopped, underused ones share or shrink, failing ones be mended.",
                    (Query(hourly(f"sum by (state) ({WASTED})"), "{{state}}"),),
                    USD,
                    style="stack",
                    overrides=STATES,
                    may_be_empty="no waste",
                ),
                table(
                    "Most wasteful workloads",
                    "The twenty workloads that waste most now. A month is 730 hours at this rate."
                    " Click a workload for its board.",
                    (
                        Label(
                            "workload",
                            "Workload",
                            TO_WORKLOAD,
                        ),
                        Label("namespace", "Namespace"),
                        Label("team", "Team"),
                        Label("state", "Reason"),
                    ),
                    (
                        Column(
                            "Per hour",
                            hourly(
                                "topk(20, sum by (namespace, team, workload, state)"
                                f" (workload:gpucost_waste_usd:rate5m{{{CLUSTER}}}))"
                            ),
                            USD,
                            decimals=2,
                            bar=True,
                        ),
                        Column(
                            "Per month",
                            hourly(
                                "730 * topk(20, sum by (namespace, team, workload, state)"
                                f" (workload:gpucost_waste_usd:rate5m{{{CLUSTER}}}))"
                            ),
                            USD,
                            decimals=0,
                        ),
                    ),
                    width=12,
                    height=8,
                    sort="Per hour",
                    may_be_empty="no waste",
                ),
            ),
        ),
        Row(
            "What could be given back",
            (
                table(
                    "Top savings",
                    "What could be given back, at the mean of the last day: idle for an hour and"
                    " more, failing, on its way out, free on what whole nodes could give back, in"
                    " no MIG instance, broken. Each dollar is here once. `gpucost report` reads the"
                    " same series, says what to do, and adds what fits smaller and what costs less."
                    " A month is 730 hours.",
                    (
                        Label("advice", "To do"),
                        Label(
                            "workload",
                            "Workload",
                            TO_WORKLOAD,
                        ),
                        Label("namespace", "Namespace"),
                        Label("team", "Team"),
                        Label("node_pool", "Node pool"),
                        Label("gpu_model", "GPU"),
                    ),
                    (
                        Column(
                            "Per month",
                            hourly(
                                "730 * topk(20, sum by (advice, namespace, team, workload,"
                                " node_pool, gpu_model) (sum_over_time("
                                f"workload:gpucost_saving_usd:rate5m{{{CLUSTER}}}[1d])) /"
                                " scalar(max(count_over_time("
                                "gpucost:stale_after_seconds:setting[1d]))))"
                            ),
                            USD,
                            decimals=0,
                            bar=True,
                        ),
                    ),
                    height=8,
                    sort="Per month",
                    may_be_empty="nothing to give back",
                ),
            ),
        ),
        Row(
            "What it is spent on",
            (
                chart(
                    "Spend per hour, by GPU model",
                    "All GPUs of a model, used or not.",
                    (Query(hourly(f"sum by (gpu_model) ({COST})"), "{{gpu_model}}"),),
                    USD,
                    width=8,
                    style="stack",
                ),
                chart(
                    "Spend per hour, by node pool",
                    "All GPUs of a pool, used or not.",
                    (Query(hourly(f"sum by (node_pool) ({COST})"), "{{node_pool}}"),),
                    USD,
                    width=8,
                    style="stack",
                ),
                chart(
                    "Spend per hour, by capacity type",
                    "How the nodes are paid: on demand, spot or reserved.",
                    (Query(hourly(f"sum by (capacity_type) ({COST})"), "{{capacity_type}}"),),
                    USD,
                    width=8,
                    style="stack",
                ),
                table(
                    "Node pools",
                    "Each pool now: what it costs, how much of it is wasted, and how much"
                    " nobody holds.",
                    (
                        Label("node_pool", "Node pool"),
                        Label("capacity_type", "Capacity"),
                        Label("gpu_model", "GPU model"),
                    ),
                    (
                        Column(
                            "Per hour",
                            hourly(f"sum by (node_pool, capacity_type, gpu_model) ({COST})"),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "GPUs",
                            "sum by (node_pool, capacity_type, gpu_model)"
                            f" (tenant:gpucost_gpu_seconds:rate5m{{{POOL}}})",
                            NUMBER,
                            decimals=1,
                        ),
                        Column(
                            "Wasted",
                            f"sum by (node_pool, capacity_type, gpu_model) ({WASTED})"
                            f" / sum by (node_pool, capacity_type, gpu_model) ({COST})",
                            RATIO,
                            decimals=0,
                            bar=True,
                            thresholds=LOW_IS_GOOD,
                            maximum=1,
                        ),
                        Column(
                            "Free",
                            "sum by (node_pool, capacity_type, gpu_model)"
                            f" (fleet:gpucost_cost_usd:rate5m{{{POOL}, {FREE}}})"
                            f" / sum by (node_pool, capacity_type, gpu_model) ({COST})",
                            RATIO,
                            decimals=0,
                            bar=True,
                            thresholds=LOW_IS_GOOD,
                            maximum=1,
                        ),
                    ),
                    width=16,
                    height=7,
                    sort="Per hour",
                ),
                bars(
                    "Fragmented free GPUs",
                    "Of a pool's free GPUs, the part that lies on nodes that others use: a job that"
                    " needs whole nodes cannot have them.",
                    f"sort_desc(node_pool:gpucost_fragmentation:ratio{{{POOL}}})",
                    "{{node_pool}}",
                    RATIO,
                    height=7,
                    decimals=0,
                    maximum=1,
                    may_be_empty="no free GPUs",
                ),
            ),
        ),
        Row(
            "By hour and by day",
            (
                chart(
                    "Cost of each hour",
                    "What each clock hour cost, by node pool, drawn at its end: the hour that runs is not"
                    " shown yet.",
                    (
                        Query(
                            usd(
                                total(
                                    "node_pool",
                                    f"node_pool:gpucost_cost_usd:rate5m{{{POOL}}}",
                                    "1h",
                                )
                            ),
                            "{{node_pool}}",
                        ),
                    ),
                    USD,
                    style="bars",
                    interval="1h",
                    legend=("sum",),
                    may_be_empty="no hour is over",
                ),
                chart(
                    "Cost of each day",
                    "What each day (UTC) cost, by node pool, drawn at its end. Choose a range of weeks.",
                    (
                        Query(
                            usd(
                                total(
                                    "node_pool",
                                    f"node_pool:gpucost_cost_usd:rate5m{{{POOL}}}",
                                    "1d",
                                )
                            ),
                            "{{node_pool}}",
                        ),
                    ),
                    USD,
                    style="bars",
                    interval="1d",
                    legend=("sum",),
                    may_be_empty="no day is over",
                ),
            ),
        ),
        Row(
            "Utilisation, memory and energy",
            (
                chart(
                    "Utilisation, by node pool",
                    "Share of time that held GPUs were busy.",
                    (Query(f"node_pool:gpucost_activity:ratio{{{POOL}}}", "{{node_pool}}"),),
                    RATIO,
                    width=8,
                    maximum=1,
                ),
                chart(
                    "GPU memory, used and free",
                    "Memory of all GPUs whose driver says it.",
                    (
                        Query(
                            f"sum(node_pool:gpucost_gpu_memory_used_bytes:sum{{{POOL}}})", "used"
                        ),
                        Query(
                            f"sum(node_pool:gpucost_gpu_memory_bytes:sum{{{POOL}}})"
                            f" - sum(node_pool:gpucost_gpu_memory_used_bytes:sum{{{POOL}}})",
                            "free",
                        ),
                    ),
                    BYTES,
                    width=8,
                    style="stack",
                    overrides=(coloured("used", "#3274D9"), coloured("free", "#C7D0D9")),
                ),
                chart(
                    "Power, by node pool",
                    "Power drawn by all GPUs, held or not.",
                    (
                        Query(
                            f"node_pool:gpucost_gpu_energy_joules:rate5m{{{POOL}}}", "{{node_pool}}"
                        ),
                    ),
                    WATTS,
                    width=8,
                    style="stack",
                ),
            ),
        ),
        Row(
            "Nodes coming and going",
            (
                chart(
                    "GPU nodes, by node pool",
                    "Nodes whose exporter answers.",
                    (
                        Query(
                            f"count by (node_pool) (node:gpucost_node:info{{{POOL}}}"
                            " and on (cluster, node) gpucost_node_info)",
                            "{{node_pool}}",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    decimals=0,
                    style="stack",
                ),
                chart(
                    "Nodes made and ended by Karpenter",
                    "NodeClaims created, and disrupted or otherwise terminated, and why. Of"
                    " Karpenter's own series: empty without it.",
                    (
                        _nodes(
                            "", "created", "nodepool, reason", "made in {{nodepool}}: {{reason}}"
                        ),
                        _nodes("-", "terminated", "nodepool", "ended in {{nodepool}}"),
                    ),
                    NUMBER,
                    width=8,
                    decimals=0,
                    style="bars",
                    minimum=None,
                    interval="15m",
                    legend=("sum",),
                    may_be_empty="no series of Karpenter",
                ),
                chart(
                    "Cost of provisioning, each hour",
                    "Nodes that are paid for and not usable yet: from their boot to the first"
                    " reading of their GPUs. Empty while no node comes up.",
                    (
                        Query(
                            usd(
                                total(
                                    "node_pool",
                                    "fleet:gpucost_cost_usd:rate5m"
                                    f'{{{POOL}, state="provisioning"}}',
                                    "1h",
                                )
                            ),
                            "{{node_pool}}",
                        ),
                    ),
                    USD,
                    width=8,
                    decimals=2,
                    style="bars",
                    interval="1h",
                    legend=("sum",),
                    may_be_empty="no node came up",
                ),
            ),
        ),
        Row(
            "Alerts",
            (
                table(
                    "Alerts firing",
                    "Alerts of gpucost's rules that fire now, and what they are about. Each has a"
                    " runbook.",
                    (
                        Label("alertname", "Alert", width=260),
                        Label("severity", "Severity", width=100),
                        Label("namespace", "Namespace"),
                        Label("workload", "Workload"),
                        Label("team", "Team"),
                        Label("node", "Node", link("gpucost-node", node="${__data.fields.Node}")),
                        Label("node_pool", "Node pool"),
                        Label("budget", "Budget"),
                    ),
                    (
                        Column(
                            "Series",
                            "count by (alertname, severity, namespace, workload, team, node,"
                            ' node_pool, budget) (ALERTS{alertname=~"GPU.*|Gpucost.*",'
                            f' alertstate="firing", {CLUSTER}}})',
                            NUMBER,
                            width=80,
                        ),
                    ),
                    height=8,
                    may_be_empty="no alert fires",
                ),
            ),
        ),
    ),
)
