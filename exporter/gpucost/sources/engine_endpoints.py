"""Where a pod shows its metrics, and what it is to the work that several pods do; pure.

Only a pod that asks for a GPU, only at its own address: an annotation says a port and a path,
never a host. In this order: the annotation `gpucost.io/metrics`, the settings' rules, the
annotations of Prometheus, a container port that is called like one.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.config import ENGINE_FIGURES
from gpucost.engines import Engine, EngineTable, table_of
from gpucost.model import Count, Endpoint, Part, Serving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.config import CustomEngine, RequestRule, Requests

METRICS_ANNOTATION = "gpucost.io/metrics"
"""`8000`, `8000/v1/metrics`, `https://:8443/metrics`; several with commas; `none` for none."""
MODEL_ANNOTATION = "gpucost.io/served-model"
MODELS_ANNOTATION = "gpucost.io/served-models"
PART_ANNOTATION = "gpucost.io/part"
PROMETHEUS_ANNOTATIONS = "prometheus.io/"

METRICS_PORTS = ("metrics", "http-metrics")

MAX_ENDPOINTS = 4
MAX_MODELS = 64
MAX_NAME_CHARS = 253

_ADDRESS = re.compile(r"(?:(https?)://)?:?([0-9]{1,5})(/[!-~]{0,1023})?")
_PATH = re.compile(r"/[!-~]{0,1023}")
_MAX_PORT = 65_535


class PartRow(Struct, frozen=True):
    """A label by whose value a pod is a part of what several do.

    `size` is an annotation that says how many they are: one alone is no group.
    """

    label: str
    parts: Mapping[str, Part] | Part
    size: str = ""


PART_ROWS = (
    # llm-d: docs/disagg_pd.md. The decode pod counts the request; the prefill pod would again.
    PartRow("llm-d.ai/role", {"prefill": Part.HELPER, "decode": Part.MEMBER}),
    PartRow(
        "nvidia.com/dynamo-sub-component-type", {"prefill": Part.HELPER, "decode": Part.MEMBER}
    ),
    # A leader and its workers hold one model's parts; the leader alone answers.
    PartRow(
        "leaderworkerset.sigs.k8s.io/name", Part.MEMBER, size="leaderworkerset.sigs.k8s.io/size"
    ),
    PartRow("ray.io/cluster", Part.MEMBER),
)


class PodFacts(Struct, frozen=True):
    """What of a pod is looked at. `ports` are its containers' names and numbers."""

    namespace: str
    ip: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    ports: Sequence[tuple[str, int]]


def serving_of(pod: PodFacts, settings: Requests) -> Serving | None:
    """How the work of a GPU pod can be seen; None where nothing says anything of it."""
    rule = next(((i, it) for i, it in enumerate(settings.rules) if _selects(it, pod)), None)
    endpoints = _endpoints(pod, rule)
    stated = rule[1].part if rule is not None else None
    part = _part(pod, stated)
    if not endpoints and part is Part.ALONE:
        return None
    said = pod.annotations.get(MODEL_ANNOTATION, "").strip()
    models = [name.strip() for name in pod.annotations.get(MODELS_ANNOTATION, "").split(",")]
    return Serving(
        endpoints=endpoints,
        part=part,
        served_model=(said or (rule[1].served_model if rule else None) or "")[:MAX_NAME_CHARS],
        models=tuple(dict.fromkeys(name for name in models if name))[:MAX_MODELS],
    )


def _selects(rule: RequestRule, pod: PodFacts) -> bool:
    return (not rule.namespaces or pod.namespace in rule.namespaces) and all(
        pod.labels.get(name) == value for name, value in rule.pod_selector.items()
    )


def _endpoints(pod: PodFacts, rule: tuple[int, RequestRule] | None) -> tuple[Endpoint, ...]:
    try:
        address = ip_address(pod.ip)
    except ValueError:  # none yet
        return ()
    host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
    if (said := pod.annotations.get(METRICS_ANNOTATION)) is not None:
        matches = [_ADDRESS.fullmatch(it.strip()) for it in said.split(",")[:MAX_ENDPOINTS]]
        return tuple(
            Endpoint(f"{it[1] or 'http'}://{host}:{int(it[2])}{it[3] or '/metrics'}")
            for it in matches
            if it is not None and 0 < int(it[2]) <= _MAX_PORT
        )
    if rule is not None:
        place, stated = rule
        url = f"{stated.scheme}://{host}:{stated.port}{stated.path}"
        return (Endpoint(url, engine=stated.engine or "", rule=place),)
    if pod.annotations.get("prometheus.io/scrape", "").lower() == "true":
        return _by_prometheus(pod, host)
    return tuple(
        Endpoint(f"http://{host}:{number}/metrics", stated=False)
        for name, number in pod.ports
        if name in METRICS_PORTS
    )[:MAX_ENDPOINTS]


def _by_prometheus(pod: PodFacts, host: str) -> tuple[Endpoint, ...]:
    """The annotations that Prometheus's own example of a Kubernetes scrape config reads."""
    port = pod.annotations.get("prometheus.io/port", "")
    if not port and len(pod.ports) == 1:
        port = str(pod.ports[0][1])
    path = pod.annotations.get("prometheus.io/path") or "/metrics"
    scheme = pod.annotations.get("prometheus.io/scheme") or "http"
    address = _ADDRESS.fullmatch(port)
    if address is None or address[3] or not 0 < int(address[2]) <= _MAX_PORT:
        return ()
    if not _PATH.fullmatch(path) or scheme not in ("http", "https"):
        return ()
    return (Endpoint(f"{scheme}://{host}:{int(address[2])}{path}", stated=False),)


def _part(pod: PodFacts, stated: str | None) -> Part:
    said = pod.annotations.get(PART_ANNOTATION, stated)
    if said in tuple(Part):
        return Part(said)
    for row in PART_ROWS:
        value = pod.labels.get(row.label)
        if not value:
            continue
        if row.size:
            size = pod.annotations.get(row.size) or pod.labels.get(row.size) or ""
            if size == "1":
                continue
        if isinstance(row.parts, Part):
            return row.parts
        if value in row.parts:
            return row.parts[value]
    return Part.ALONE


def engine_table(settings: Requests) -> EngineTable:
    """The shipped table, and the settings' engines before it."""
    return table_of(_engine(it) for it in settings.engines)


_COUNTS = {
    "finished": Count.FINISHED,
    "success": Count.SUCCESS,
    "failure": Count.FAILURE,
    "aborted": Count.ABORTED,
    "input_tokens": Count.PROMPT,
    "cached_input_tokens": Count.CACHED,
    "output_tokens": Count.OUTPUT,
    "prefill_seconds": Count.PREFILL_SECONDS,
    "decode_seconds": Count.DECODE_SECONDS,
    "compute_seconds": Count.COMPUTE_SECONDS,
}
"""What each field of a CustomEngine counts."""


def _engine(custom: CustomEngine) -> Engine:
    written = {name: getattr(custom, name) for name in ENGINE_FIGURES}
    figures = {name: () if it is None else (it,) for name, it in written.items()}
    return Engine(
        name=custom.name,
        model=(custom.model_label,) if custom.model_label else (),
        counts={count: figures[name] for name, count in _COUNTS.items() if figures[name]},
        running=figures["running"],
        waiting=figures["waiting"],
        batch=figures["batch_size"],
        cached_in_prompt=custom.cached_in_input,
    )
