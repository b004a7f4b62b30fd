"""Every metric gpucost publishes, once: name, type, labels and help.

The exposition, docs/metrics.md, the rules, the dashboards and the ScaledObjects are made from
or checked against this table. `node` is on every family and is not repeated in the rows.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

MetricType = Literal["counter", "gauge"]


class Family(Struct, frozen=True):
    """A metric family; `open_labels` marks one whose further labels the settings choose."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str
    open_labels: bool = False


GPU = ("gpu", "uuid")
PRICED_GPU = (*GPU, "gpu_model", "capacity_type")
POD = ("namespace", "pod", "container")
PAYER = (*POD, "workload", "workload_kind", "team", "gpu_model", "capacity_type")
WORKER = (*POD, "workload", "gpu_model")
SERVICE = ("namespace", "pod", "workload", "engine", "served_model")
WORKLOAD = (
    "month",
    "ledger",
    "namespace",
    "workload",
    "workload_kind",
    "team",
    "gpu_model",
    "capacity_type",
)

_ROWS = (
    # The node and its devices
    Family(
        "gpucost_node_info",
        "gauge",
        ("instance_type", "region", "zone", "node_pool", "capacity_type", "provider"),
        "The node, always 1.",
    ),
    Family(
        "gpucost_gpu_info",
        "gauge",
        (*PRICED_GPU, "price_source", "split"),
        "A physical GPU, always 1.",
    ),
    Family(
        "gpucost_mig_info",
        "gauge",
        (*GPU, "mig_uuid", "profile"),
        "A MIG instance of a GPU, always 1.",
    ),
    Family(
        "gpucost_gpu_price_usd_per_hour",
        "gauge",
        (*PRICED_GPU, "price_source", "split"),
        "Price of one whole GPU in USD per hour. Absent for an unpriced GPU.",
    ),
    Family(
        "gpucost_gpu_alternative_price_usd_per_hour",
        "gauge",
        (*PRICED_GPU, "price_source"),
        "What the same instance type would cost per whole GPU under another capacity type, which"
        " the label names. Absent where no price of it is known.",
    ),
    Family(
        "gpucost_gpu_cost_usd_total",
        "counter",
        (*PRICED_GPU, "state"),
        "USD spent on a physical GPU, by what it was doing. The states sum to the integral of"
        " its price.",
    ),
    Family(
        "gpucost_gpu_seconds_total",
        "counter",
        (*PRICED_GPU, "state"),
        "GPU-seconds of a physical GPU, by what it was doing. Counted for unpriced GPUs too.",
    ),
    Family(
        "gpucost_gpu_activity_ratio",
        "gauge",
        (*GPU, "signal"),
        "Share of time the GPU was busy, 0 to 1, and the signal it was read from.",
    ),
    Family(
        "gpucost_gpu_efficiency_ratio",
        "gauge",
        (*GPU, "kind"),
        "How hard the busy GPU worked, 0 to 1: SM, tensor and memory-bandwidth activity.",
    ),
    Family("gpucost_gpu_memory_used_bytes", "gauge", GPU, "GPU memory in use."),
    Family("gpucost_gpu_memory_bytes", "gauge", GPU, "GPU memory in all."),
    Family("gpucost_gpu_power_watts", "gauge", GPU, "Power drawn by the whole GPU."),
    Family(
        "gpucost_gpu_energy_joules_total",
        "counter",
        GPU,
        "Energy used by the whole GPU, as its driver counts it: restarts with the driver.",
    ),
    Family("gpucost_gpu_temperature_celsius", "gauge", GPU, "Temperature of the GPU."),
    Family("gpucost_gpu_sm_clock_hertz", "gauge", GPU, "SM clock of the GPU."),
    Family(
        "gpucost_gpu_healthy", "gauge", GPU, "1 if the GPU can be used, 0 if it is lost or failed."
    ),
    Family(
        "gpucost_gpu_xid_events_total",
        "counter",
        (*GPU, "xid"),
        "XID error events of the GPU since the exporter's start.",
    ),
    # Who holds them, and what it costs
    Family(
        "gpucost_pod_gpu_share_ratio",
        "gauge",
        (*POD, *GPU, "mig_uuid", "method"),
        "Share of a physical GPU held by a container. With empty pod labels: the part that"
        " nobody holds. The shares of a GPU sum to 1.",
    ),
    Family(
        "gpucost_pod_cost_usd_total",
        "counter",
        (*PAYER, "state"),
        "USD spent on the GPUs a container held, by what they were doing.",
    ),
    Family(
        "gpucost_pod_gpu_seconds_total",
        "counter",
        PAYER,
        "GPU-seconds a container held.",
    ),
    Family(
        "gpucost_pod_cost_usd_per_hour",
        "gauge",
        PAYER,
        "What the GPUs a container holds now cost, in USD per hour.",
    ),
    Family(
        "gpucost_pod_waste_usd_per_hour",
        "gauge",
        (*PAYER, "reason"),
        "The part of a container's present cost that does no work, by reason.",
    ),
    Family(
        "gpucost_pod_activity_ratio",
        "gauge",
        WORKER,
        "Share of time a container's GPUs were busy, on shared ones for it, weighted by share, 0 to"
        " 1. Above its share of a GPU: it used what others, or nobody, pay for.",
    ),
    Family(
        "gpucost_pod_memory_used_bytes",
        "gauge",
        WORKER,
        "GPU memory in use on the GPUs a container holds.",
    ),
    Family(
        "gpucost_pod_memory_peak_bytes",
        "gauge",
        WORKER,
        "Highest memory use of the fullest GPU a container holds, since it holds it.",
    ),
    Family(
        "gpucost_pod_energy_joules_total",
        "counter",
        WORKER,
        "Energy of the GPUs a container held, by share.",
    ),
    Family(
        "gpucost_pod_holding_since_timestamp_seconds",
        "gauge",
        WORKER,
        "Since when a container has held a GPU.",
    ),
    Family(
        "gpucost_pod_last_active_timestamp_seconds",
        "gauge",
        WORKER,
        "When a container's GPUs were last seen busy. Absent until they first were.",
    ),
    Family(
        "gpucost_pod_labels",
        "gauge",
        ("namespace", "pod"),
        "The pod labels and annotations that the settings allow, always 1.",
        open_labels=True,
    ),
    # What came out of it, and what that cost
    Family(
        "gpucost_pod_requests_total",
        "counter",
        (*SERVICE, "outcome"),
        "Requests that a pod's inference server has finished, over its restarts.",
    ),
    Family(
        "gpucost_pod_tokens_total",
        "counter",
        (*SERVICE, "direction"),
        "Tokens that a pod's inference server took in and gave out. The directions are disjoint:"
        " what came from the prefix cache is cached_input and not input.",
    ),
    Family(
        "gpucost_pod_requests_running",
        "gauge",
        SERVICE,
        "Requests that a pod's inference server works on now.",
    ),
    Family(
        "gpucost_pod_requests_waiting",
        "gauge",
        SERVICE,
        "Requests that wait in a pod's inference server now.",
    ),
    Family(
        "gpucost_pod_batch_size",
        "gauge",
        SERVICE,
        "Mean number of requests that were worked on together, over a trailing window.",
    ),
    Family(
        "gpucost_pod_served_model_share_ratio",
        "gauge",
        (*SERVICE, "split"),
        "The part of a pod's cost that is a served model's, over a trailing window. The parts of a"
        " pod sum to 1. Absent where several are served and nothing was asked.",
    ),
    Family(
        "gpucost_pod_cost_per_request_usd",
        "gauge",
        (*SERVICE, "split"),
        "What one successful request cost: all that the pod's GPUs cost in a trailing window, over"
        " its requests. Absent where none was finished, where the GPUs have no price, and for pods"
        " that are a part of several. It falls when load rises: no trigger for scaling.",
    ),
    Family(
        "gpucost_pod_cost_per_million_tokens_usd",
        "gauge",
        (*SERVICE, "split", "method", "direction"),
        "What a million tokens cost, over the same window: computed input and output together make"
        " all of the pod's cost. Absent as the cost per request is.",
    ),
    Family(
        "gpucost_pod_cache_savings_usd_per_hour",
        "gauge",
        SERVICE,
        "What it would cost to compute the input that came from the prefix cache, at the price of"
        " the input that was computed.",
    ),
    # The durable bill of a month
    Family(
        "gpucost_workload_cost_usd_total",
        "counter",
        (*WORKLOAD, "state"),
        "USD spent by a workload in a calendar month on this node. Node-borne states have an"
        " empty namespace and workload, so that the family adds up to the bill.",
    ),
    Family(
        "gpucost_workload_gpu_seconds_total",
        "counter",
        WORKLOAD,
        "GPU-seconds of a workload in a calendar month on this node.",
    ),
    Family(
        "gpucost_billing_month_info",
        "gauge",
        ("month",),
        "The current month in the billing time zone, always 1.",
    ),
    Family(
        "gpucost_billing_month_start_timestamp_seconds",
        "gauge",
        ("month",),
        "When the current month began in the billing time zone.",
    ),
    # The exporter itself
    Family("gpucost_source_up", "gauge", ("source",), "1 if the last read of the source worked."),
    Family("gpucost_source_duration_seconds", "gauge", ("source",), "Duration of the last read."),
    Family(
        "gpucost_source_last_success_timestamp_seconds",
        "gauge",
        ("source",),
        "When the source was last read with success.",
    ),
    Family(
        "gpucost_problems",
        "gauge",
        ("source", "kind"),
        "Problems that a person can mend; the status page and the log say what to do.",
    ),
    Family("gpucost_unpriced_gpus", "gauge", (), "GPUs that have no price."),
    Family(
        "gpucost_price_table_timestamp_seconds",
        "gauge",
        ("price_source",),
        "Date of the prices in force.",
    ),
    Family(
        "gpucost_ledger_imbalance_usd",
        "gauge",
        (),
        "The bill (integral of the GPUs' prices) less what holders and node were charged. 0"
        " within float error, or the ledger is wrong.",
    ),
    Family("gpucost_ledger_start_timestamp_seconds", "gauge", (), "When this node's ledger began."),
    Family(
        "gpucost_config_last_reload_successful",
        "gauge",
        (),
        "1 if the configuration on disk is the one in force.",
    ),
    Family(
        "gpucost_config_last_reload_success_timestamp_seconds",
        "gauge",
        (),
        "When the configuration in force was read.",
    ),
    Family("gpucost_build_info", "gauge", ("version",), "The exporter's version, always 1."),
)

FAMILIES = {row.name: row for row in _ROWS}
"""Name to family, in the order of the page."""
