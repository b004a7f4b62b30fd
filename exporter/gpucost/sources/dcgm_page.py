"""A dcgm-exporter page to GPUs and holders; pure.

A page that shows no GPU is a failed read, never an empty node: dcgm-exporter answers 200 with an
empty body while it reloads its counters. Who holds a device is taken from the pod labels, where
the page has any; a page without pod labels says nothing of holders, for then nobody knows
whether dcgm-exporter was told to map devices to pods.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gpucost.model import Holder, Holding, Holdings, Problem
from gpucost.sources.base import DeviceRead, SourceError
from gpucost.sources.dcgm_devices import Subject, read_gpus
from gpucost.sources.dcgm_fields import PREFIXES
from gpucost.sources.promtext import Row, parse_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PodLabels = tuple[str, str, str]
"""Names of the labels that hold pod, namespace and container."""

_OWN = ("pod", "namespace", "container")
_OLD = ("pod_name", "pod_namespace", "container_name")
"""Of dcgm-exporter 1.x, and since then by its flag --use-old-namespace."""
_EXPORTED = ("exported_pod", "exported_namespace", "exported_container")
"""A Prometheus that scrapes without honorLabels moves the holder here: `pod` is then the
exporter's own (dcgm-exporter issue 27)."""

_NOT_GPUS = frozenset({"nvswitch", "cpu", "cpucore"})
"""Labels of rows about switches, their links and CPUs (dcgm-exporter's templates)."""

_SMALL_NUMBER = re.compile(r"[0-9]{1,6}")


def parse_dcgm(text: str | bytes, *, node_name: str = "") -> DeviceRead:
    """What a dcgm-exporter page says of the GPUs, and of their holders if it names any.

    `node_name` picks this node's rows where a page shows several hosts. Raises SourceError:
    malformed; empty (no GPU on the page); ambiguous (several hosts, none of them this node).
    """
    page = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    rows = [
        row
        for row in _rows_of_node(parse_rows(page, *PREFIXES), node_name)
        if _NOT_GPUS.isdisjoint(row.labels)
    ]
    labels = _pod_labels(rows)
    subjects = [subject for row in rows if (subject := _subject(row, labels))]
    if not subjects:
        raise SourceError(
            "empty",
            "The page shows no GPU.",
            "A dcgm-exporter that has just started or reloads its counters shows none for some"
            " seconds; if it stays so, look at its log.",
        )
    gpus, problems = read_gpus(subjects)
    if len(subjects) < len(rows):
        problems += (
            Problem(
                "dcgm",
                "incomplete_row",
                "Rows of the page name no GPU: no UUID, or a GPU_I_ID that is no number.",
                "Keep dcgm-exporter's own labels: look for relabelling on the way.",
            ),
        )
    if labels is _OWN and all({"job", "instance"} <= row.labels.keys() for row in rows):
        return DeviceRead(gpus, None, (*problems, _RELAYED))
    holdings = _holdings(subjects, labels)
    if holdings is not None and holdings.unresolved:
        problems += (_HALF_NAMED,)
    return DeviceRead(gpus, holdings, problems)


_RELAYED = Problem(
    "dcgm",
    "relayed",
    "The page comes through a Prometheus, so its pod labels may be the exporter's own pod.",
    "Give the address of dcgm-exporter itself; its holders are not used until then.",
)
_HALF_NAMED = Problem(
    "dcgm",
    "incomplete_holder",
    "Rows of the page name a pod without its namespace; such holders are not used.",
    "Keep dcgm-exporter's own labels: look for relabelling on the way.",
)


def _rows_of_node(rows: Sequence[Row], node_name: str) -> Sequence[Row]:
    """The rows of one host: dcgm-exporter shows its own node only, a federated page many.

    A single host is not compared with the node: in a container it is often the pod's name.
    """
    hosts = {host for row in rows if (host := _host(row))}
    if len(hosts) <= 1:
        return rows
    if node_name not in hosts:
        raise SourceError(
            "ambiguous",
            f"The page shows {len(hosts)} hosts, and none of them is called {node_name!r}.",
            "Give the address of the dcgm-exporter on this node, not one that gathers several.",
        )
    return [row for row in rows if _host(row) == node_name]


def _pod_labels(rows: Sequence[Row]) -> _PodLabels:
    """Under which names the page says who holds a device."""
    if any("exported_pod" in row.labels for row in rows):
        return _EXPORTED
    # Both: a pod may have a label of its own that is called pod_name.
    if any({"pod_name", "pod_namespace"} <= row.labels.keys() for row in rows):
        return _OLD
    return _OWN


def _host(row: Row) -> str:
    """`Hostname` became `hostname` in 2026-05 (dcgm-exporter PR 655)."""
    return row.labels.get("Hostname") or row.labels.get("hostname") or ""


def _subject(row: Row, pod_labels: _PodLabels) -> Subject | None:
    """The device of a row; None where its labels name none."""
    labels = row.labels
    uuid = labels.get("UUID") or labels.get("uuid")
    gi = labels.get("GPU_I_ID", "")
    if not uuid or (gi and not _SMALL_NUMBER.fullmatch(gi)):
        return None
    index = labels.get("gpu", "")
    return Subject(
        uuid=uuid,
        index=int(index) if _SMALL_NUMBER.fullmatch(index) else None,
        model=labels.get("modelName", ""),
        gi=int(gi) if gi else None,
        profile=labels.get("GPU_I_PROFILE", "").removeprefix("MIG "),
        for_pod=bool(labels.get("vgpu")) or bool(labels.get(pod_labels[0])),
        row=row,
    )


def _holdings(subjects: Iterable[Subject], pod_labels: _PodLabels) -> Holdings | None:
    """Who holds what; None where no row has as much as an empty pod label.

    Older versions write empty labels on a free GPU, newer ones none.
    """
    mapped = False
    holdings: dict[Holding, None] = {}
    unresolved: set[tuple[str, str]] = set()
    for subject in subjects:
        labels = subject.row.labels
        if pod_labels[0] not in labels:
            continue
        mapped = True
        pod, namespace, container = (labels.get(name, "") for name in pod_labels)
        device_id = _device_id(subject)
        if pod and namespace:
            holdings[Holding(Holder(namespace, pod, container), "", device_id)] = None
        elif pod:
            unresolved.add((pod, device_id))
    return Holdings(tuple(holdings), unresolved=len(unresolved)) if mapped else None


def _device_id(subject: Subject) -> str:
    """As the kubelet would name it: MIG as before driver R470, replicas as `<id>::<n>`."""
    device = subject.uuid if subject.gi is None else f"MIG-{subject.uuid}/{subject.gi}/0"
    replica = subject.row.labels.get("vgpu")
    return f"{device}::{replica}" if replica else device
