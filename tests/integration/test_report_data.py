"""What `gpucost report` makes of data that is not whole: each case a small real Prometheus."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from real_prometheus import prometheus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from real_prometheus import Labels, Prometheus

Json = dict[str, Any]
START = 1_768_176_000
"""2026-01-12 00:00:00 UTC, a Monday."""
HOUR, DAYS = 3600, 10
USD = 5.0
"""An hour, of each workload."""
MOMENTS = range(START, START + DAYS * 24 * HOUR + 1, 240)


def series(name: str, **labels: str) -> Labels:
    return tuple(sorted({"__name__": name, **labels}.items()))


def workload(cluster: str, name: str, state: str = "used") -> dict[str, str]:
    return {
        "cluster": cluster,
        "namespace": "web",
        "team": "web",
        "workload": name,
        "workload_kind": "Deployment",
        "gpu_model": "NVIDIA L4",
        "capacity_type": "on_demand",
        "node_pool": "l4",
        "state": state,
    }


@contextmanager
def holding(
    folder: Path, values: Mapping[Labels, Callable[[int], float | None]]
) -> Iterator[Prometheus]:
    """A Prometheus with these series, every four minutes; None is no sample."""
    with prometheus(folder) as it:
        it.write(
            {
                labels: [
                    (at * 1000, value) for at in MOMENTS if (value := value_at(at)) is not None
                ]
                for labels, value_at in values.items()
            }
        )
        yield it


def report(it: Prometheus, *words: str) -> Json:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gpucost", "report", "--format", "json"),
            *("--prometheus", f"http://127.0.0.1:{it.port}"),
            *("--from", "2026-01-12", "--to", "2026-01-22", *words),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


def always(value: float) -> Callable[[int], float]:
    return lambda _: value


SETTING = series("gpucost:stale_after_seconds:setting")
RATE = "workload:gpucost_cost_usd:rate5m"


def test_a_ruler_that_stood_still_is_told_and_the_ledger_believed(tmp_path: Path) -> None:
    """A day and a half without an evaluation: the exporters' ledgers went on."""

    def but_for_the_stop(value: float) -> Callable[[int], float | None]:
        stop = range(START + 100 * HOUR, START + 136 * HOUR)
        return lambda at: None if at in stop else value

    who = workload("", "chat")
    payer = {name: value for name, value in who.items() if name != "state"}
    month = 1_767_225_600
    values = {
        SETTING: but_for_the_stop(300.0),
        series(RATE, **who): but_for_the_stop(USD / HOUR),
        series("gpucost:month_watched_since:timestamp_seconds"): always(float(month)),
        series("gpucost:billing_month_start:timestamp_seconds", month="2026-01"): always(month),
        series("workload:gpucost_cost_usd:month_to_date", month="2026-01", **payer): (
            lambda at: USD * (at - month) / HOUR
        ),
    }
    with holding(tmp_path, values) as it:
        found = report(it)
    truth = USD * DAYS * 24
    assert found["total"]["usd"] == pytest.approx(truth, rel=0.001)
    assert found["total"]["by_ledger"]
    remarks = {it["kind"]: it["text"] for it in found["remarks"]}
    assert "36 hours of 10 days" in remarks["gaps"]
    assert "85.0% of what the ledgers charged" in remarks["scaled"]


def test_a_gap_without_rules_is_told_with_what_it_leaves_out(tmp_path: Path) -> None:
    """Ten hours without a scrape: the counter went on, and no hour shows it."""
    gap = range(START + 100 * HOUR, START + 110 * HOUR)
    labels = {**workload("", "chat"), "node": "n1", "month": "2026-01", "ledger": "1"}
    del labels["node_pool"]
    values = {
        series("gpucost_workload_cost_usd_total", **labels): (
            lambda at: None if at in gap else USD * (at - START) / HOUR
        )
    }
    with holding(tmp_path, values) as it:
        found = report(it)
    remarks = {it["kind"]: it["text"] for it in found["remarks"]}
    assert "No counter rose in 10 hours of 10 days" in remarks["gaps"]
    assert found["total"]["usd"] == pytest.approx(USD * (DAYS * 24 - 10), rel=0.01)
    assert found["total"]["usd_per_month"] == pytest.approx(USD * 730, rel=0.01)


def test_clusters_of_one_prometheus_are_told_apart(tmp_path: Path) -> None:
    values = {
        SETTING: always(300.0),
        series(RATE, **workload("east", "chat")): always(USD / HOUR),
        series(RATE, **workload("west", "chat")): always(3 * USD / HOUR),
        # A second Prometheus that recorded the same.
        series(RATE, **workload("west", "chat"), prometheus_replica="b"): always(3 * USD / HOUR),
    }
    with holding(tmp_path, values) as it:
        both, east = report(it), report(it, "--cluster", "east")
    rows = {row["name"]: row["usd"] for row in both["rows"]}
    hours = DAYS * 24
    assert rows == pytest.approx({"east/web": USD * hours, "west/web": 3 * USD * hours}, rel=0.001)
    assert both["scope"]["clusters"] == ["east", "west"]
    assert [(row["name"], row["usd"]) for row in east["rows"]] == [
        ("web", pytest.approx(USD * hours, rel=0.001))
    ]


def test_a_ledger_that_cannot_be_whole_is_not_believed(tmp_path: Path) -> None:
    """Watched all the time, and half of the nodes were never seen by it."""
    who = workload("", "chat")
    payer = {name: value for name, value in who.items() if name != "state"}
    month = 1_767_225_600
    values = {
        SETTING: always(300.0),
        series(RATE, **who): always(USD / HOUR),
        series("gpucost:month_watched_since:timestamp_seconds"): always(float(month)),
        series("gpucost:billing_month_start:timestamp_seconds", month="2026-01"): always(month),
        series("workload:gpucost_cost_usd:month_to_date", month="2026-01", **payer): (
            lambda at: USD / 2 * (at - month) / HOUR
        ),
    }
    with holding(tmp_path, values) as it:
        found = report(it)
    assert found["total"]["usd"] == pytest.approx(USD * DAYS * 24, rel=0.001)
    assert not found["total"]["by_ledger"]
    assert "ledger_behind" in {it["kind"] for it in found["remarks"]}


def test_unknown_is_neither_idle_nor_zero(tmp_path: Path) -> None:
    values = {
        SETTING: always(300.0),
        series(RATE, **workload("", "dark", "unmeasured")): always(USD / HOUR),
    }
    with holding(tmp_path, values) as it:
        found = report(it)
    [row] = found["rows"]
    assert (row["activity"], row["waste_usd"]) == (None, 0.0)
    assert found["actions"] == []
    assert found["services"] == []
    missing = [it["text"] for it in found["remarks"] if it["kind"] == "missing"]
    assert any("peak memory" in text and "rules/advice.yaml" in text for text in missing)


@pytest.mark.parametrize(("gpus", "fits"), [(2.0, 1), (4.0, 0)])
def test_a_gpu_whose_holder_is_not_known_is_not_free_for_a_pod_that_waits(
    tmp_path: Path, gpus: float, fits: int
) -> None:
    """Four GPUs that no pod is known to hold: two are free, of two the kubelet is silent."""
    own = {
        name: value
        for name, value in workload("", "chat", "unallocated").items()
        if name not in ("namespace", "team", "workload", "workload_kind")
    }
    node = {"node": "n1", "node_pool": "l4", "capacity_type": "on_demand"}
    pod = {"namespace": "web", "pod": "wants-0", "container": "main", "resource": "nvidia_com_gpu"}
    free = series("node:gpucost_gpus:rate5m", node="n1", state="unallocated")
    unknown = series("node:gpucost_gpus:rate5m", node="n1", state="unattributed")
    price = {"node": "n1", "gpu": "0", "uuid": "0", "gpu_model": "NVIDIA L4"}
    values = {
        SETTING: always(300.0),
        series(RATE, **own): always(USD / HOUR),
        series("gpucost_node_info", **node): always(1.0),
        series("gpucost_gpu_price_usd_per_hour", **price): always(USD / 2),
        free: always(2.0),
        unknown: always(2.0),
        **{
            series("gpucost_gpu_info", node="n1", uuid=str(n), gpu_model="NVIDIA L4"): always(1.0)
            for n in range(4)
        },
        series("kube_pod_container_resource_requests", **pod): always(gpus),
        series("kube_pod_status_phase", namespace="web", pod="wants-0", phase="Pending"): (
            always(1.0)
        ),
    }
    with holding(tmp_path, values) as it:
        found = report(it)
    ways = [way for it in found["actions"] for way in (it, *it["instead"])]
    told = [it["do"] for it in ways if it["kind"] == "reallocate"]
    assert len(told) == fits
    assert all("1 of 1 of web/wants-0 (2 gpu" in it for it in told)
