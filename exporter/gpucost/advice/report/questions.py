"""What is asked of Prometheus, as a table: recorded series of rules/, few and long-lived.

`$match` becomes the matchers of the report's scope. Ends of ranges are moved by a millisecond off
the whole minute: Prometheus 2 counts a sample that lies on a range's far end, 3 does not, and an
evaluation may lie right on it.
"""

from __future__ import annotations

from msgspec import Struct

KEY = "cluster, namespace, team, workload, workload_kind, gpu_model, capacity_type, node_pool"
OFFSET_SECONDS = 0.001


class Question(Struct, frozen=True):
    """A query, the rule file that records what it reads, and what is lost without its answer."""

    promql: str
    records: str
    lost: str = ""


EVALUATIONS = Question(
    "max(count_over_time(gpucost:stale_after_seconds:setting[1h]))", "settings.yaml"
)
"""How often rules were evaluated in an hour: the weight of a sample, and the gaps."""

LAST_EVALUATIONS = Question("gpucost:stale_after_seconds:setting[1h]", "settings.yaml")
"""When: a history of hours only does not show how many a whole one has."""

COST = Question(
    f"max by ({KEY}, state) (sum_over_time(workload:gpucost_cost_usd:rate5m{{$match}}[1h]))",
    "cost.yaml",
)
SAVING = Question(
    f"max by ({KEY}, advice) (sum_over_time(workload:gpucost_saving_usd:rate5m{{$match}}[1h]))",
    "advice.yaml",
)
"""What could be given back, as the Fleet board shows it."""
RAW_COST = Question(
    "sum by (cluster, namespace, team, workload, workload_kind, gpu_model, capacity_type, state) ("
    "max without (instance, job, endpoint, service, prometheus, prometheus_replica) ("
    "increase(gpucost_workload_cost_usd_total{$match}[1h])) > 0)",
    "",
)
"""In place of COST where nothing is recorded: the exporters' own counters, many more series."""

MONTH_START = Question(
    "max by (month) (gpucost:billing_month_start:timestamp_seconds)",
    "month.yaml",
)
MONTH_WATCHED = Question("max(gpucost:month_watched_since:timestamp_seconds)", "month.yaml")
MONTH_COST = Question(
    f"max by ({KEY}) (last_over_time("
    'workload:gpucost_cost_usd:month_to_date{month="$month",$match}[15m]))',
    "month.yaml",
)
MONTH_FIRST = Question(
    f"max by ({KEY}) (min_over_time("
    'workload:gpucost_cost_usd:month_to_date{month="$month",$match}[15m]))',
    "month.yaml",
)

GPUS = Question(
    f'max by ({KEY}) (avg_over_time(workload:gpucost_gpu_seconds:rate5m{{namespace!="",$match}}'
    "[$range]))",
    "cost.yaml",
    "how many GPUs a workload held",
)
PEAK = Question(
    "max by (cluster, namespace, workload) (quantile_over_time(0.99,"
    " workload:gpucost_activity:ratio{$match}[$range]))",
    "activity.yaml",
    "peak activity: no GPU is shared or made smaller",
)
MEMORY = Question(
    "max by (cluster, namespace, workload, gpu_model) (max_over_time("
    "workload:gpucost_memory_peak_bytes:max{$match}[$range]))",
    "advice.yaml",
    "peak memory: no GPU is shared or made smaller",
)
EXEMPT = Question(
    "group by (cluster, namespace, workload) (pod:gpucost_owner:info{$match} and on (cluster,"
    ' namespace, pod) gpucost_pod_labels{annotation_gpucost_io_exempt=~"(.*[ ,])?idle([ ,].*)?"})',
    "cost.yaml",
)
NODE_INFO = Question(
    "max by (cluster, node, node_pool, instance_type, region, zone, capacity_type, provider) ("
    "last_over_time(gpucost_node_info{$match}[1d]))",
    "",
    "the nodes: no cheaper GPU of their region, and no node to drain",
)
NODE_GPUS = Question(
    "sum by (cluster, node) (max by (cluster, node, state) ("
    "last_over_time(node:gpucost_gpus:rate5m{$match}[15m])))",
    "capacity.yaml",
    "GPUs of the nodes",
)
NODE_FREE = Question(
    'max by (cluster, node) (sum_over_time(node:gpucost_gpus:rate5m{state="unallocated",$match}'
    "[$range]))",
    "capacity.yaml",
    "how much of a node was free",
)
NODE_LEAST_FREE = Question(
    'min by (cluster, node) (min_over_time(node:gpucost_gpus:rate5m{state="unallocated",$match}'
    "[$range]))",
    "capacity.yaml",
)
NODE_FREE_TIMES = Question(
    'max by (cluster, node) (count_over_time(node:gpucost_gpus:rate5m{state="unallocated",$match}'
    "[$range]))",
    "capacity.yaml",
)
_NODE_LEDGERS = (
    "sum by (cluster, node, month, ledger) (max without (instance, job, endpoint, service,"
    " prometheus, prometheus_replica) ("
    "$seen_over_time(gpucost_workload_cost_usd_total{$match}[1h])))"
)
NODE_LAST = Question(_NODE_LEDGERS.replace("$seen", "max"), "")
NODE_FIRST = Question(_NODE_LEDGERS.replace("$seen", "min"), "")
"""What the exporters' own counters, which never fall, ended and began an hour with: many series,
so they are asked only where nodes are asked for, and an hour at once."""

NODE_TYPES = Question(
    "group by (cluster, node, instance_type) (last_over_time(gpucost_node_info{$match}[1h]))", ""
)
PRICE = Question(
    "avg by (cluster, node, gpu_model, capacity_type) ("
    "last_over_time(gpucost_gpu_price_usd_per_hour{$match}[1d]))",
    "",
    "prices of GPUs",
)
OTHER_PRICE = Question(
    "avg by (cluster, node, gpu_model, capacity_type) ("
    "last_over_time(gpucost_gpu_alternative_price_usd_per_hour{$match}[1d]))",
    "",
    "spot and reserved prices: nothing is said of them",
)
REQUESTS = Question(
    "max by (cluster, namespace, workload) (sum_over_time("
    "workload:gpucost_served_at_cost:rate5m{$match}[$range]))",
    "work.yaml",
    "requests, and the cost of one",
)
SERVED = Question(
    "group by (cluster, namespace, workload, engine, served_model) (last_over_time("
    "workload_served_model:gpucost_share:ratio{$match}[$range]))",
    "work.yaml",
)
TOKENS = Question(
    "sum by (cluster, namespace, workload, direction) (sum_over_time("
    "workload:gpucost_tokens:rate5m{$match}[1h]))",
    "serving.yaml",
    "tokens, and the cost of a million",
)
BATCH = Question(
    "max by (cluster, namespace, workload) (avg_over_time("
    "workload:gpucost_batch_size:avg{$match}[1h]))",
    "advice.yaml",
    "batch sizes: no advice on batching",
)
FREE_GPUS = Question(
    "count by (cluster, node) (max by (cluster, node, uuid) (gpucost_gpu_info{$match})"
    " unless on (cluster, node, uuid) gpucost_mig_info"
    " unless on (cluster, node, uuid) gpucost_pod_gpu_share_ratio"
    " unless on (cluster, node, uuid) gpucost_gpu_healthy == 0)",
    "",
)
"""Whole GPUs that no pod is known to hold. (At one moment: as few rows as there are nodes.)"""
NODE_FREE_NOW = Question(
    "max by (cluster, node) ("
    'last_over_time(node:gpucost_gpus:rate5m{state="unallocated",$match}[15m]))',
    "capacity.yaml",
)
"""And how many are known to be free: the holder of some may not be known."""
FREE_INSTANCES = Question(
    "count by (cluster, node, profile) (max by (cluster, node, uuid, mig_uuid, profile) ("
    "gpucost_mig_info{$match}) unless on (cluster, node, mig_uuid) gpucost_pod_gpu_share_ratio"
    " unless on (cluster, node, uuid) gpucost_gpu_healthy == 0)",
    "",
)
_UNSCHEDULED = (
    ' and on (cluster, namespace, pod) kube_pod_status_phase{phase="Pending"} == 1'
    ' unless on (cluster, namespace, pod) kube_pod_status_scheduled{condition="true"} == 1'
)
WAITING = Question(
    "sum by (cluster, namespace, pod, resource) ("
    "max by (cluster, namespace, pod, container, resource) ("
    'kube_pod_container_resource_requests{resource=~"nvidia_com_.*",$match})'
    f"{_UNSCHEDULED})",
    "",
)
WAITING_OWNER = Question(
    "max by (cluster, namespace, pod, owner_kind, owner_name) ("
    f'kube_pod_owner{{owner_is_controller!="false",$match}}){_UNSCHEDULED}',
    "",
)
UNPRICED = Question("sum(max by (cluster, node) (gpucost_unpriced_gpus{$match}))", "")


def asked(question: Question, match: str, **more: str) -> str:
    """The query for a scope: `match` are matchers like `cluster="a"`, or nothing."""
    query = question.promql.replace("$match", match)
    for name, text in more.items():
        query = query.replace(f"${name}", text)
    # A comma that nothing follows is no error to Prometheus, but to others it may be.
    return query.replace(",}", "}").replace("{,", "{").replace("{}", "")
