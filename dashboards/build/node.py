"""GPU node: what each device did, drew and cost, and who holds it."""

from __future__ import annotations

from dashboards.build.board import Board, Variable, link
from dashboards.build.panels import (
    BYTES,
    GREEN,
    NUMBER,
    RATIO,
    RED,
    STATE_COLOURS,
    STATES,
    USD,
    WATTS,
    Query,
    Row,
    chart,
    named_values,
    stat,
    timeline,
)
from dashboards.build.promql import CLUSTER, hourly, usd
from dashboards.build.tables import Column, Label, table

ON = f'{CLUSTER}, node=~"$node"'
GPU = f'{ON}, gpu=~"$gpu"'
LEGEND = "GPU {{gpu}}"
BY = "node, gpu"

WORKING = ("used", "underused")
NAMES = tuple(
    (float(place), name, STATE_COLOURS["used" if name == "working" else name])
    for place, name in enumerate(
        ("working", *(it for it in STATE_COLOURS if it not in WORKING)), start=1
    )
)
MIXED = (0.0, "mixed", "#D8D9DA")
HEALTH = named_values(((1, "healthy", GREEN), (0, "failed", RED)))


def _mostly(states: str) -> str:
    return (
        f'sum by ({BY}) (rate(gpucost_gpu_seconds_total{{{GPU}, state=~"{states}"}}'
        "[$__rate_interval])) > 0.5"
    )


def _main_state() -> str:
    """The number (of NAMES) of the state that a GPU was in for most of the time, else 0."""
    terms = [
        f"({number:g} + 0 * ({_mostly('|'.join(WORKING) if name == 'working' else name)}))"
        for number, name, _ in NAMES
    ]
    return (
        "\nor\n".join(terms)
        + f"\nor\n0 * sum by ({BY}) (rate(gpucost_gpu_seconds_total{{{GPU}}}[$__rate_interval]))"
    )


def _gauge(metric: str, more: str = "") -> str:
    return f"max by ({BY}) ({metric}{{{GPU}{more}}})"


BOARD = Board(
    uid="gpucost-node",
    title="GPU cost / GPU node",
    description="Each device of a node: what it did over time, who holds it, what it costs, draws and"
    " is capable of, its health, and its MIG instances.",
    alerts='node=~"$node"',
    variables=(
        Variable("node", "Node", f"gpucost_node_info{{{CLUSTER}}}", "GPU nodes.", several=False),
        Variable(
            "gpu",
            "GPU",
            f'gpucost_gpu_info{{{CLUSTER}, node=~"$node"}}',
            "The driver's index of the GPU.",
        ),
    ),
    rows=(
        Row(
            "",
            (
                stat(
                    "Price, per hour",
                    "Of the chosen GPUs together.",
                    usd(f"sum(max by ({BY}) (gpucost_gpu_price_usd_per_hour{{{GPU}}}))"),
                    USD,
                    decimals=2,
                    trend=False,
                    may_be_empty="no price",
                ),
                stat(
                    "GPUs",
                    "Devices that the node shows.",
                    f"count(max by ({BY}) (gpucost_gpu_info{{{GPU}}}))",
                    NUMBER,
                    trend=False,
                ),
                stat(
                    "Failed",
                    "Devices that are lost or failed, and still billed.",
                    f"count(max by ({BY}) (gpucost_gpu_healthy{{{GPU}}}) == 0) or vector(0)",
                    NUMBER,
                    thresholds=((None, GREEN), (1, RED)),
                    trend=False,
                ),
                stat(
                    "Activity",
                    "Mean of the devices that are not partitioned.",
                    f"avg({_gauge('gpucost_gpu_activity_ratio')})",
                    RATIO,
                    decimals=0,
                    may_be_empty="not measured",
                ),
                stat(
                    "Power",
                    "Power drawn by the chosen GPUs.",
                    f"sum({_gauge('gpucost_gpu_power_watts')})",
                    WATTS,
                    may_be_empty="not measured",
                ),
                stat(
                    "Memory in use",
                    "Of the chosen GPUs' memory.",
                    f"sum({_gauge('gpucost_gpu_memory_used_bytes')})"
                    f" / sum({_gauge('gpucost_gpu_memory_bytes')}"
                    f" and on ({BY}) gpucost_gpu_memory_used_bytes)",
                    RATIO,
                    decimals=0,
                    may_be_empty="not measured",
                ),
            ),
        ),
        Row(
            "What the devices did",
            (
                timeline(
                    "Main state of each GPU",
                    "The state that a GPU was in for most of each interval. Working: a cycle"
                    " with activity. Mixed: none for more than half, as on partitioned or"
                    " shared GPUs.",
                    (Query(_main_state(), LEGEND),),
                    (*NAMES, MIXED),
                    height=9,
                ),
                chart(
                    "Spend per hour, by state",
                    "Of the chosen GPUs; the sum is their price.",
                    (
                        Query(
                            hourly(
                                f"sum by (state) (rate(gpucost_gpu_cost_usd_total{{{GPU}}}"
                                "[$__rate_interval])) > 0"
                            ),
                            "{{state}}",
                        ),
                    ),
                    USD,
                    style="stack",
                    overrides=STATES,
                    may_be_empty="no price",
                ),
                table(
                    "Who holds them",
                    "The shares of a GPU sum to 1. A row without a pod is the part that nobody"
                    " holds.",
                    (
                        Label("gpu", "GPU", width=60),
                        Label("namespace", "Namespace"),
                        Label("pod", "Pod"),
                        Label("container", "Container"),
                        Label("method", "Method"),
                    ),
                    (
                        Column(
                            "Share",
                            "sum by (gpu, namespace, pod, container, method)"
                            f" (max without (instance, job) (gpucost_pod_gpu_share_ratio{{{GPU}}})) > 0",
                            RATIO,
                            decimals=1,
                            bar=True,
                            maximum=1,
                        ),
                    ),
                    width=12,
                    height=8,
                ),
            ),
        ),
        Row(
            "Readings",
            (
                chart(
                    "Activity",
                    "Share of time that a device was busy.",
                    (Query(_gauge("gpucost_gpu_activity_ratio"), LEGEND),),
                    RATIO,
                    maximum=1,
                    may_be_empty="not measured",
                ),
                chart(
                    "Efficiency of the busy GPU",
                    "How much of its SMs, tensor cores and memory bandwidth was at work, mean of the"
                    " chosen GPUs. It decides no money.",
                    (Query(f"avg by (kind) (gpucost_gpu_efficiency_ratio{{{GPU}}})", "{{kind}}"),),
                    RATIO,
                    maximum=1,
                    may_be_empty="not measured",
                ),
                chart(
                    "Memory in use",
                    "Of each device.",
                    (Query(_gauge("gpucost_gpu_memory_used_bytes"), LEGEND),),
                    BYTES,
                    width=12,
                    may_be_empty="not measured",
                ),
                chart(
                    "Power",
                    "Of each device.",
                    (Query(_gauge("gpucost_gpu_power_watts"), LEGEND),),
                    WATTS,
                    width=12,
                    may_be_empty="not measured",
                ),
                chart(
                    "Temperature",
                    "Of each device.",
                    (Query(_gauge("gpucost_gpu_temperature_celsius"), LEGEND),),
                    "celsius",
                    width=8,
                    minimum=None,
                    may_be_empty="not measured",
                ),
                chart(
                    "SM clock",
                    "Of each device. A clock that falls under load is throttled.",
                    (Query(_gauge("gpucost_gpu_sm_clock_hertz"), LEGEND),),
                    "hertz",
                    width=8,
                    may_be_empty="not measured",
                ),
                chart(
                    "XID errors",
                    "The driver's error events. 79: fallen off the bus; 48, 63, 64, 94,"
                    " 95: memory; 13, 31, 43: most often the program.",
                    (
                        Query(
                            f"sum by (node, gpu, xid) (increase(gpucost_gpu_xid_events_total{{{GPU}}}"
                            "[$__rate_interval])) > 0",
                            LEGEND + " XID {{xid}}",
                        ),
                    ),
                    NUMBER,
                    width=8,
                    style="bars",
                    legend=("sum",),
                    may_be_empty="no errors",
                ),
            ),
        ),
        Row(
            "Devices",
            (
                table(
                    "Devices",
                    "What each is, what it costs, and where its price comes from.",
                    (
                        Label("node", "Node"),
                        Label("gpu", "GPU", width=60),
                        Label("gpu_model", "Model"),
                        Label("uuid", "UUID"),
                        Label("capacity_type", "Capacity"),
                        Label("price_source", "Price from"),
                        Label("split", "Split"),
                    ),
                    (
                        Column(
                            "Per hour",
                            usd(
                                f"max by (node, gpu, uuid, gpu_model, capacity_type, price_source, split)"
                                f" (gpucost_gpu_price_usd_per_hour{{{GPU}}})"
                            ),
                            USD,
                            decimals=3,
                        ),
                        Column(
                            "Health",
                            "max by (node, gpu, uuid, gpu_model, capacity_type, price_source, split)"
                            f" (gpucost_gpu_info{{{GPU}}} * on (cluster, node, uuid) group_left ()"
                            " max by (cluster, node, uuid) (gpucost_gpu_healthy))",
                            "none",
                            mappings=(HEALTH,),
                            width=90,
                        ),
                    ),
                    height=9,
                ),
                table(
                    "MIG map",
                    "The instances of partitioned GPUs, and who holds each.",
                    (
                        Label("gpu", "GPU", width=60),
                        Label("profile", "Profile", width=100),
                        Label("namespace", "Namespace"),
                        Label("pod", "Pod"),
                        Label("mig_uuid", "Instance"),
                    ),
                    (
                        Column(
                            "Share of the GPU",
                            "max by (gpu, profile, namespace, pod, mig_uuid)"
                            f' (gpucost_pod_gpu_share_ratio{{{GPU}, mig_uuid!=""}}'
                            " * on (cluster, node, mig_uuid) group_left (profile)"
                            " max by (cluster, node, mig_uuid, profile) (gpucost_mig_info))",
                            RATIO,
                            decimals=1,
                            bar=True,
                            maximum=1,
                        ),
                    ),
                    height=6,
                    may_be_empty="no GPU is partitioned",
                ),
                table(
                    "The node",
                    "Of which kind it is. Click through to what it costs.",
                    (
                        Label("node", "Node"),
                        Label("instance_type", "Instance type"),
                        Label("region", "Region"),
                        Label("zone", "Zone"),
                        Label(
                            "node_pool",
                            "Pool",
                            link("gpucost-fleet", node_pool="${__data.fields.Pool}"),
                        ),
                        Label("capacity_type", "Capacity"),
                        Label("provider", "Provider"),
                    ),
                    (
                        Column(
                            "Shown",
                            "max by (node, instance_type, region, zone, node_pool, capacity_type,"
                            f" provider) (gpucost_node_info{{{ON}}})",
                            NUMBER,
                            hidden=True,
                        ),
                    ),
                    height=4,
                ),
            ),
        ),
    ),
)
