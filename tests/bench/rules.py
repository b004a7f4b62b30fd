"""What one evaluation of all rules costs a real Prometheus, in parts of its interval.

A fleet of nodes of eight GPUs, each held by a pod of a workload of its own that serves requests:
the most rows that so many GPUs can give. Families and labels are the catalogue's, so every one is
there; three states of a pod have money, and on every fourth node a pod idles and is alerted. A real
Prometheus scrapes each node once a minute and evaluates the rules with the settings of their tests,
which have budgets, overrides, targets and scaling.

The goal is for a machine that does nothing else: the wall time of all groups, one after the other.
A group of three or ten minutes counts for as much as falls on one; `rules_each_group_once` is what
all of them take where they meet.
What they cost the processor (with rules less without, garbage collection included) is printed
beside it, for machines that do. Printed as tests/bench/run.py prints: name value unit goal.

    python tests/bench/rules.py [GPUS] [--minutes 10] [--slowest 0]      (default 20000 GPUs)

Of 20,000 GPUs (2.7 million series) all groups took 12.2 s, 20.3 % of a minute, and 16.5 s of
processor time on Prometheus 3.16 with two cores; 29.2 % where promtool and a cluster took more than
one of them (2026-11-28). Ranges of hours and days are read of what a run has recorded so far, which
is less than a day's.

`--slowest` prints that many rules. 20,000 GPUs need 16 GiB; time grows in proportion.
GPUCOST_PROMETHEUS names another Prometheus than the one that make fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "exporter"), str(ROOT / "tests"), str(ROOT / "scripts")]

import render_rules  # noqa: E402 - after the path
from gpucost.catalog import FAMILIES, Family  # noqa: E402
from gpucost.model import HOLDER_STATES, NODE_STATES, OUTCOMES, WASTE_STATES, State  # noqa: E402
from programs import program  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INTERVAL_SECONDS = 60
GPUS_PER_NODE = 8
IDLE_EVERY = 4
"""Of so many nodes one has an idle pod."""
STARTED = time.time()

NODE, NAMESPACE, TEAM, POOL, ELAPSED, NOW = "\x01\x02\x03\x04\x05\x06"
"""Places in the page that all nodes share."""

FIXED = {
    "node": f"n{NODE}",
    "ledger": f"{NODE}-1",
    "node_pool": f"pool{POOL}",
    "namespace": f"ns{NAMESPACE}",
    "team": f"team{TEAM}",
    "container": "main",
    "workload_kind": "Deployment",
    "gpu_model": "NVIDIA H100 80GB HBM3",
    "capacity_type": "on_demand",
    "month": datetime.now(UTC).strftime("%Y-%m"),
    "mig_uuid": "",
    "engine": "vllm",
    "served_model": "llama",
}
MANY = {
    "kind": ("sm", "tensor", "memory"),
    "reason": tuple(WASTE_STATES),
    "outcome": tuple(OUTCOMES),
    "direction": ("input", "cached_input", "output"),
    "source": ("nvml", "dcgm", "kubelet", "kubernetes", "requests"),
}
"""Labels of which a thing has several values at once."""

SPENT = {State.USED, State.UNDERUSED, State.IDLE, State.UNALLOCATED}
"""The states that have money."""


def template(*, idle: bool) -> str:
    """The page of a node, with its places."""
    lines = []
    for family in FAMILIES.values():
        lines.append(f"# TYPE {family.name} {family.type}")
        for labels in rows(family):
            pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
            lines.append(f"{family.name}{{{pairs}}} {value_of(family, labels, idle=idle)}")
    return "\n".join(lines) + "\n"


def rows(family: Family) -> Iterator[dict[str, str]]:
    """The label sets of a family on a node."""
    names = ("node", *family.labels)
    own = {"uuid", "pod", "workload"} & set(names)
    for number in range(GPUS_PER_NODE if own else 1):
        thing = {"gpu": str(number), **{name: f"{name}-{NODE}-{number}" for name in own}}
        labels = {name: {**FIXED, **thing}.get(name, "x") for name in names}
        if family.name == "gpucost_gpu_alternative_price_usd_per_hour":
            labels["capacity_type"] = "spot"
        yield from spread(labels, HOLDER_STATES if "workload" in own else tuple(State))
    if own == {"workload"}:  # what the node bears itself
        empty = dict.fromkeys(("namespace", "workload", "workload_kind", "team"), "")
        yield from spread({**labels, **empty}, NODE_STATES)


def spread(labels: dict[str, str], states: tuple[State, ...]) -> Iterator[dict[str, str]]:
    """The labels once for each value of the label that has many."""
    for name, values in {**MANY, "state": states}.items():
        if name in labels:
            for value in values:
                yield {**labels, name: value}
            return
    yield labels


def value_of(family: Family, labels: dict[str, str], *, idle: bool) -> str:
    """The value, or the place of one that changes."""
    first_idles = idle and labels.get("pod", "").endswith("-0")
    if family.name == "gpucost_billing_month_start_timestamp_seconds":
        now = datetime.now(UTC)
        return f"{datetime(now.year, now.month, 1, tzinfo=UTC).timestamp():.0f}"
    if family.name == "gpucost_pod_holding_since_timestamp_seconds":
        return f"{STARTED - 90_000:.0f}"
    if family.name == "gpucost_pod_last_active_timestamp_seconds" and first_idles:
        return f"{STARTED - 7_200:.0f}"
    if family.name.endswith("timestamp_seconds"):
        return NOW
    if family.name == "gpucost_pod_waste_usd_per_hour":
        wasted = State.IDLE if first_idles else State.UNDERUSED
        return "1.5" if labels["reason"] == wasted else "0"
    if family.name in {"gpucost_unpriced_gpus", "gpucost_ledger_imbalance_usd"}:
        return "0"
    if family.name == "gpucost_gpu_memory_bytes":
        return "0.8"
    if "state" in labels and labels["state"] not in SPENT:
        return "0"
    return ELAPSED if family.type == "counter" else "0.5"


class Handler(BaseHTTPRequestHandler):
    """Serves every node's page."""

    pages = (template(idle=True), *[template(idle=False)] * (IDLE_EVERY - 1))

    def do_GET(self) -> None:
        """Answer a scrape."""
        node = int(parse_qs(urlsplit(self.path).query)["node"][0])
        text = self.pages[node % IDLE_EVERY]
        now = time.time()
        for place, value in (
            (NODE, str(node)),
            (NAMESPACE, str(node % 200)),
            (TEAM, str(node % 40)),
            (POOL, str(node % 20)),
            (ELAPSED, f"{(now - STARTED) * 1e-3:.6f}"),
            (NOW, f"{now:.3f}"),
        ):
            text = text.replace(place, value)
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Say nothing."""


def main(gpus: int, minutes: int, slowest: int) -> None:
    """Measure and print."""
    nodes = gpus // GPUS_PER_NODE
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = render_rules.read_settings(ROOT / "rules/settings/tests.yaml")
        for file, rules in render_rules.rendered(
            settings, sorted((ROOT / "rules").glob("*.yaml"))
        ).items():
            (folder / file).write_text(rules)
        targets = [
            {
                "targets": [f"127.0.0.1:{server.server_port}"],
                "labels": {"instance": f"n{node}", "__param_node": str(node)},
            }
            for node in range(nodes)
        ]
        config = {
            "global": {"scrape_interval": f"{INTERVAL_SECONDS}s", "scrape_timeout": "50s"},
            "rule_files": [f"{folder}/*.yaml"],
            "scrape_configs": [
                {"job_name": "gpucost", "honor_labels": True, "static_configs": targets}
            ],
        }
        with Prometheus(folder, config) as prometheus:
            prometheus.run(minutes / 2)
            groups: list[list[dict[str, Any]]] = []
            with_rules = prometheus.run(minutes / 2, lambda: groups.append(prometheus.groups()))
            series = prometheus.value("prometheus_tsdb_head_series")
            missed = prometheus.value("prometheus_rule_group_iterations_missed_total")
            prometheus.load({**config, "rule_files": []})
            spent = INTERVAL_SECONDS * (with_rules - prometheus.run(max(2, minutes / 4)))
    server.shutdown()
    server.server_close()
    print(f"rules_gpus {gpus} gpus -")
    print(f"rules_series {series:.0f} series -")
    print(f"rules_evaluations_missed {missed:.0f} groups 0")
    report(groups, slowest)
    print(f"rules_cpu_per_evaluation {spent:.1f} s -")


def report(seen: list[list[dict[str, Any]]], slowest: int) -> None:
    """Print what the groups took, as means of what was seen of them."""
    failed = {
        rule["name"]
        for groups in seen
        for group in groups
        for rule in group["rules"]
        if rule["health"] == "err"
    }
    if failed:
        sys.exit(f"these rules fail: {sorted(failed)}")
    once: defaultdict[str, list[float]] = defaultdict(list)
    took: defaultdict[str, list[float]] = defaultdict(list)
    rules: defaultdict[str, list[float]] = defaultdict(list)
    for groups in seen:
        for group in groups:
            once[group["name"]].append(group["evaluationTime"])
            took[group["name"]].append(
                group["evaluationTime"] * INTERVAL_SECONDS / group["interval"]
            )
            for number, rule in enumerate(group["rules"]):
                rules[f"{group['name']}/{number}/{rule['name']}"].append(rule["evaluationTime"])
    for name, spent in by_mean(took)[:6]:
        print(f"rules_slowest_{name.replace('-', '_').replace('.', '_')} {spent:.2f} s -")
    for name, spent in by_mean(rules)[:slowest]:
        print(f"  {spent:7.3f} {name}", file=sys.stderr)
    print(f"rules_each_group_once {sum(spent for _, spent in by_mean(once)):.1f} s -")
    share = sum(spent for _, spent in by_mean(took)) / INTERVAL_SECONDS
    print(f"rules_share_of_interval {100 * share:.1f} % <=30")


def by_mean(found: dict[str, list[float]]) -> list[tuple[str, float]]:
    """Names with the means of their values, largest first."""
    means = [(name, mean(values)) for name, values in found.items()]
    return sorted(means, key=lambda it: -it[1])


class Prometheus:
    """A server of two cores, from `with` to its end."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """Its data and settings lie in the folder."""
        self._folder = folder
        self._config(config)

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._address = f"127.0.0.1:{probe.getsockname()[1]}"
        command = [
            program("prometheus"),
            f"--config.file={self._folder}/prometheus.json",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address={self._address}",
            "--log.level=error",
        ]
        self._process = subprocess.Popen(command, env={**os.environ, "GOMAXPROCS": "2"})
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(300)

    def run(self, minutes: float, each: Callable[[], None] = lambda: None) -> float:
        """Let it go on for so long, and look once a minute; the cores it used."""
        before, began = self._cpu_seconds(), time.monotonic()
        for _ in range(round(minutes)):
            time.sleep(60)
            each()
        return (self._cpu_seconds() - before) / (time.monotonic() - began)

    def load(self, config: dict[str, Any]) -> None:
        """Go on with other settings."""
        self._config(config)
        self._process.send_signal(signal.SIGHUP)

    def groups(self) -> list[dict[str, Any]]:
        """The rule groups and what they took."""
        with urllib.request.urlopen(f"http://{self._address}/api/v1/rules", timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["groups"]
        return found

    def value(self, name: str) -> float:
        """The sum of one of its own series."""
        with urllib.request.urlopen(f"http://{self._address}/metrics", timeout=60) as answer:
            metrics: str = answer.read().decode()
        found = [line for line in metrics.splitlines() if re.match(rf"{name}[{{ ]", line)]
        return math.fsum(float(line.rpartition(" ")[2]) for line in found)

    def _config(self, config: dict[str, Any]) -> None:
        text = json.dumps(config)  # JSON is YAML
        (self._folder / "prometheus.json").write_text(text)

    def _cpu_seconds(self) -> float:
        """Its processor time so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What an evaluation of the rules takes.")
    parser.add_argument("gpus", type=int, nargs="?", default=20_000)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--slowest", type=int, default=0)
    given = parser.parse_args()
    main(given.gpus, given.minutes, given.slowest)
