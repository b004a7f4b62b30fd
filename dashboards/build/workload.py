"""Workload: one Deployment, job or notebook: its money, its work, its pods."""

from __future__ import annotations

from dashboards.build.board import Board, Variable, link
from dashboards.build.panels import (
    BYTES,
    FROM_NOW,
    GREEN,
    GREY,
    HIGH_IS_GOOD,
    LOW_IS_GOOD,
    NUMBER,
    ORANGE,
    RATIO,
    REQUESTS_PER_SECOND,
    SECONDS,
    STATES,
    USD,
    WATTS,
    Query,
    Row,
    chart,
    coloured,
    donut,
    stat,
)
from dashboards.build.promql import CLUSTER, WASTE, hourly, total, usd
from dashboards.build.tables import Column, Label, table

ONE = f'{CLUSTER}, namespace="$namespace", workload="$workload"'
RATE = f"workload:gpucost_cost_usd:rate5m{{{ONE}}}"
WASTED = f"workload:gpucost_cost_usd:rate5m{{{ONE}, {WASTE}}}"
TARGET = (
    "* on (cluster, namespace, horizontalpodautoscaler) group_left (scaletargetref_name)"
    f" group by (cluster, namespace, horizontalpodautoscaler, scaletargetref_name)"
    f' (kube_horizontalpodautoscaler_info{{{CLUSTER}, namespace="$namespace",'
    ' scaletargetref_name="$workload"})'
)
HPA = f'{CLUSTER}, namespace="$namespace"'
ASKED = f'kube_deployment_spec_replicas{{{HPA}, deployment="$workload"}}'
CHANGE = f"max({ASKED}) - max({ASKED} offset $__interval)"
NO_REQUESTS = "no inference server is read"
DASHED_PEAKS = {
    "matcher": {"id": "byRegexp", "options": "/ peak$/"},
    "properties": [
        {"id": "custom.lineStyle", "value": {"dash": [8, 6], "fill": "dash"}},
        {"id": "custom.fillOpacity", "value": 0},
        {"id": "custom.lineWidth", "value": 1},
    ],
}
POD = "node, pod, container"


def of_pod(metric: str) -> str:
    """The largest of a gauge by container: a target scraped twice counts once."""
    return f"max by ({POD}) ({metric}{{{ONE}}})"


BOARD = Board(
    uid="gpucost-workload",
    title="GPU cost / Workload",
    description="One workload: what it costs, what of that is wasted, how busy its GPUs are, its"
    " pods and nodes, its replicas and what came out.",
    alerts='namespace="$namespace", workload="$workload"',
    variables=(
        Variable(
            "namespace",
            "Namespace",
            f"tenant:gpucost_holders:info{{{CLUSTER}}}",
            "Namespaces that hold GPUs.",
            several=False,
        ),
        Variable(
            "workload",
            "Workload",
            f'workload:gpucost_cost_usd:month_to_date{{{CLUSTER}, namespace="$namespace"}}',
            "Workloads that held a GPU this month.",
            several=False,
        ),
    ),
    rows=(
        Row(
            "",
            (
                stat(
                    "Spend now, per hour",
                    "What its GPUs cost at this moment.",
                    hourly(f"sum({RATE})"),
                    USD,
                    decimals=2,
                    may_be_empty="not running",
                ),
                stat(
                    "Month to date",
                    "In the calendar month at the end of the time range.",
                    usd(f"sum(workload:gpucost_cost_usd:month_to_date{{{ONE}}})"),
                    USD,
                    decimals=2,
                    trend=False,
                ),
                stat(
                    "In the time range",
                    "What it cost in the time range.",
                    usd(total("", RATE)),
                    USD,
                    decimals=2,
                    trend=False,
                ),
                stat(
                    "Wasted",
                    "Share of the time range's cost that was held and not used.",
                    f"{total('', WASTED)} / ({total('', RATE)})",
                    RATIO,
                    decimals=0,
                    trend=False,
                    thresholds=LOW_IS_GOOD,
                    may_be_empty="none",
                ),
                stat(
                    "GPUs",
                    "GPUs that it holds, parts of GPUs by their share.",
                    f"sum(workload:gpucost_gpu_seconds:rate5m{{{ONE}}})",
                    NUMBER,
                    decimals=1,
                    may_be_empty="none",
                ),
                stat(
                    "Activity",
                    "Share of time that its GPUs were busy.",
                    f"workload:gpucost_activity:ratio{{{ONE}}}",
                    RATIO,
                    decimals=0,
                    thresholds=HIGH_IS_GOOD,
                    may_be_empty="not measured",
                ),
            ),
        ),
        Row(
            "Cost and waste",
            (
                chart(
                    "Cost per hour, by what its GPUs did",
                    "Green works; yellow, blue and red are held and do no work; grey is not known.",
                    (Query(hourly(f"sum by (state) ({RATE})"), "{{state}}"),),
                    USD,
                    width=16,
                    style="stack",
                    overrides=STATES,
                ),
                donut(
                    "In the time range, by state",
                    "What it cost in the time range.",
                    "sort_desc(" + usd(total("state", RATE)) + ")",
                    "{{state}}",
                    USD,
                    decimals=2,
                    overrides=STATES,
                ),
                chart(
                    "Waste per hour, by reason",
                    "What it held and did not use.",
                    (Query(hourly(f"sum by (state) ({WASTED})"), "{{state}}"),),
                    USD,
                    width=8,
                    style="stack",
                    overrides=STATES,
                    may_be_empty="no waste",
                ),
                chart(
                    "Cost of each hour",
                    "What each clock hour cost, drawn at its end.",
                    (Query(usd(total("", RATE, "1h")), "cost"),),
                    USD,
                    width=8,
                    style="bars",
                    interval="1h",
                    legend=("sum",),
                    may_be_empty="no hour is over",
                ),
                chart(
                    "Cost of each day",
                    "What each day (UTC) cost, drawn at its end. Choose a range of weeks.",
                    (Query(usd(total("", RATE, "1d")), "cost"),),
                    USD,
                    width=8,
                    style="bars",
                    interval="1d",
                    legend=("sum",),
                    may_be_empty="no day is over",
                ),
            ),
        ),
        Row(
            "Work",
            (
                chart(
                    "Activity, by pod",
                    "Share of time that a pod's GPUs were busy.",
                    (Query(f"max by (pod) (gpucost_pod_activity_ratio{{{ONE}}})", "{{pod}}"),),
                    RATIO,
                    width=8,
                    maximum=1,
                    may_be_empty="not measured",
                ),
                chart(
                    "GPU memory, by pod",
                    "In use, and dashed the most that the fullest GPU of a pod ever had: what a"
                    " smaller GPU would have to hold.",
                    (
                        Query(f"max by (pod) (gpucost_pod_memory_used_bytes{{{ONE}}})", "{{pod}}"),
                        Query(
                            f"max by (pod) (gpucost_pod_memory_peak_bytes{{{ONE}}})", "{{pod}} peak"
                        ),
                    ),
                    BYTES,
                    width=8,
                    overrides=(DASHED_PEAKS,),
                    may_be_empty="not measured",
                ),
                chart(
                    "Power",
                    "Power of the GPUs that it holds, by share.",
                    (Query(f"sum(workload:gpucost_energy_joules:rate5m{{{ONE}}})", "power"),),
                    WATTS,
                    width=8,
                    style="stack",
                    may_be_empty="not measured",
                ),
            ),
        ),
        Row(
            "Replicas and scaling",
            (
                chart(
                    "Pods that hold GPUs",
                    "Of this workload, as the exporters see them.",
                    (
                        Query(
                            f"count(count by (pod) (gpucost_pod_cost_usd_per_hour{{{ONE}}}))",
                            "holding GPUs",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    decimals=0,
                    style="steps",
                ),
                chart(
                    "Replicas, wanted and there",
                    "Of kube-state-metrics: what the Deployment asks for and has ready, and what"
                    " the autoscaler wants. Empty without it, or for other kinds.",
                    (
                        Query(
                            f'max(kube_deployment_spec_replicas{{{HPA}, deployment="$workload"}})',
                            "asked for",
                        ),
                        Query(
                            f'max(kube_deployment_status_replicas_ready{{{HPA}, deployment="$workload"}})',
                            "ready",
                        ),
                        Query(
                            f"max(kube_horizontalpodautoscaler_status_desired_replicas{{{HPA}}} {TARGET})",
                            "autoscaler wants",
                        ),
                        Query(
                            f"max(kube_horizontalpodautoscaler_spec_max_replicas{{{HPA}}} {TARGET})",
                            "autoscaler's limit",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    decimals=0,
                    style="steps",
                    overrides=(coloured("autoscaler's limit", GREY),),
                    may_be_empty="no series of kube-state-metrics",
                ),
                chart(
                    "Scaling events",
                    "Replicas added and taken away by whoever scales it, as kube-state-metrics saw"
                    " them.",
                    (Query(f"{CHANGE} > 0", "added"), Query(f"{CHANGE} < 0", "taken away")),
                    NUMBER,
                    width=8,
                    decimals=0,
                    style="bars",
                    minimum=None,
                    interval="5m",
                    legend=("sum",),
                    overrides=(coloured("added", GREEN), coloured("taken away", ORANGE)),
                    may_be_empty="no scaling in the time range",
                ),
            ),
        ),
        Row(
            "What came out",
            (
                chart(
                    "Requests per second",
                    "Finished requests, by outcome.",
                    (
                        Query(
                            f"sum by (outcome) (workload:gpucost_requests:rate5m{{{ONE}}})",
                            "{{outcome}}",
                        ),
                    ),
                    REQUESTS_PER_SECOND,
                    width=8,
                    style="stack",
                    may_be_empty=NO_REQUESTS,
                ),
                chart(
                    "Tokens per second",
                    "Computed input, input from the prefix cache, and output.",
                    (
                        Query(
                            f"sum by (direction) (workload:gpucost_tokens:rate5m{{{ONE}}})",
                            "{{direction}}",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    style="stack",
                    may_be_empty=NO_REQUESTS,
                ),
                chart(
                    "Cost per request",
                    "All that the workload costs over its successful requests, of an hour. It falls"
                    " when load rises.",
                    (
                        Query(
                            usd(f"workload:gpucost_cost_per_request_usd:ratio1h{{{ONE}}}"),
                            "per request",
                        ),
                    ),
                    USD,
                    width=8,
                    decimals=6,
                    may_be_empty=NO_REQUESTS,
                ),
            ),
        ),
        Row(
            "Pods",
            (
                table(
                    "Pods now",
                    "Where its pods run, what they cost and since when they have been busy or not."
                    " Click a node for its board.",
                    (
                        Label("pod", "Pod"),
                        Label("container", "Container"),
                        Label("node", "Node", link("gpucost-node", node="${__data.fields.Node}")),
                    ),
                    (
                        Column(
                            "Per hour",
                            usd(of_pod("gpucost_pod_cost_usd_per_hour")),
                            USD,
                            decimals=2,
                        ),
                        Column(
                            "Share of GPUs",
                            f'sum by ({POD}) (max without (instance, job) (gpucost_pod_gpu_share_ratio{{{CLUSTER}, namespace="$namespace"}}))'
                            f" and on ({POD}) gpucost_pod_cost_usd_per_hour{{{ONE}}}",
                            NUMBER,
                            decimals=2,
                        ),
                        Column(
                            "Activity",
                            of_pod("gpucost_pod_activity_ratio"),
                            RATIO,
                            decimals=0,
                            bar=True,
                            thresholds=HIGH_IS_GOOD,
                            maximum=1,
                        ),
                        Column(
                            "Memory", of_pod("gpucost_pod_memory_used_bytes"), BYTES, decimals=1
                        ),
                        Column(
                            "Peak memory",
                            of_pod("gpucost_pod_memory_peak_bytes"),
                            BYTES,
                            decimals=1,
                        ),
                        Column(
                            "Idle for",
                            f"max by ({POD}) (pod:gpucost_idle:seconds{{{ONE}}})",
                            SECONDS,
                            decimals=0,
                        ),
                        Column(
                            "Holds since",
                            "1000 * " + of_pod("gpucost_pod_holding_since_timestamp_seconds"),
                            FROM_NOW,
                        ),
                    ),
                    height=6,
                    sort="Per hour",
                    may_be_empty="no pod holds a GPU",
                ),
            ),
        ),
    ),
)
