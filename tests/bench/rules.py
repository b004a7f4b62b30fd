"""What one evaluation of all rules costs a real Prometheus, in parts of its interval.

The goal is for a machine that does nothing else: wall time of the groups. Their processor time
(with rules less without) is printed beside it, for machines that do.

Nodes of eight GPUs and eight pods are made from the catalogue, so every family is there with its
labels and states; a real Prometheus scrapes them and evaluates the rules with budgets. Printed as
tests/bench/run.py prints: name value unit goal.

    python tests/bench/rules.py [GPUS] [SECONDS]     (default 20000 GPUs, ten minutes)

20,000 GPUs are about two million series and need 16 GiB; time grows in proportion to the GPUs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "exporter"), str(ROOT / "tests"), str(ROOT / "scripts")]

import render_rules  # noqa: E402 - after the path
from gpucost.catalog import FAMILIES, Family  # noqa: E402
from gpucost.model import HOLDER_STATES, NODE_STATES, State  # noqa: E402
from programs import program  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERVAL_SECONDS = 60
GPUS_PER_NODE = 8
NODES_PER_TARGET = 50
STARTED = time.time()


def page(first: int, nodes: int) -> str:
    """A scrape of some nodes: counters are at what their time has come to."""
    elapsed = time.time() - STARTED
    now = datetime.now(UTC)
    month = now.strftime("%Y-%m")
    start = datetime(now.year, now.month, 1, tzinfo=UTC).timestamp()
    lines = []
    for family in FAMILIES.values():
        lines.append(f"# TYPE {family.name} {family.type}")
        for node in range(first, first + nodes):
            for labels, rate in series(family, node, month):
                if family.name == "gpucost_billing_month_start_timestamp_seconds":
                    value = start
                elif family.name.endswith("timestamp_seconds"):
                    value = STARTED
                else:
                    value = rate * elapsed if family.type == "counter" else rate
                lines.append(f'{family.name}{{node="n{node}",{labels}}} {value:.6f}')
    return "\n".join(lines) + "\n"


def series(family: Family, node: int, month: str) -> Iterator[tuple[str, float]]:
    """Label sets of a family on a node, and the value or rate of each."""
    labels = family.labels
    per_thing = "pod" in labels or "uuid" in labels or "workload" in labels
    kinds = "workload" in labels and "pod" not in labels
    for thing in range(GPUS_PER_NODE if per_thing else 1):
        fixed = {
            "gpu": str(thing),
            "uuid": f"GPU-{node}-{thing}",
            "mig_uuid": "",
            "namespace": f"ns{(node + thing) % 200}",
            "pod": f"pod-{node}-{thing}",
            "workload": f"work-{node * GPUS_PER_NODE + thing}",
            "workload_kind": "Deployment",
            "team": f"team{(node + thing) % 40}",
            "gpu_model": "NVIDIA H100 80GB HBM3",
            "capacity_type": "on_demand",
            "node_pool": f"pool{node % 20}",
            "month": month,
            "ledger": f"L{node}",
        }
        states: tuple[str, ...] = ("",)
        if "state" in labels:
            states = tuple(HOLDER_STATES if "workload" in labels else State)
        for state in states:
            own = {**fixed, "state": state}
            yield text(labels, own), 1e-3 if state in {"used", "underused", "idle", ""} else 0.0
    if kinds:
        for state in NODE_STATES if "state" in labels else ("",):
            empty = dict.fromkeys(("namespace", "workload", "workload_kind", "team"), "")
            yield text(labels, {**fixed, **empty, "state": state}), 1e-4


def text(labels: tuple[str, ...], values: dict[str, str]) -> str:
    """Labels as a page has them; one that has no value of its own is `x`."""
    return ",".join(f'{label}="{values.get(label, "x")}"' for label in labels)


class Handler(BaseHTTPRequestHandler):
    """Serves a target's nodes."""

    def do_GET(self) -> None:
        """Answer a scrape."""
        asked = parse_qs(urlsplit(self.path).query)
        body = page(int(asked["first"][0]), int(asked["nodes"][0])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Say nothing."""


def main(gpus: int, seconds: float) -> None:
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
        jobs = [
            {
                "job_name": f"gpucost/{first}",
                "honor_labels": True,
                "params": {
                    "first": [str(first)],
                    "nodes": [str(min(NODES_PER_TARGET, nodes - first))],
                },
                "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}],
            }
            for first in range(0, nodes, NODES_PER_TARGET)
        ]
        config = {
            "global": {"scrape_interval": "60s", "scrape_timeout": "50s"},
            "rule_files": [f"{folder}/*.yaml"],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.json").write_text(json.dumps(config))  # JSON is YAML
        with_rules = measure(folder, seconds, gpus)
        bare = {name: value for name, value in config.items() if name != "rule_files"}
        (folder / "prometheus.json").write_text(json.dumps(bare))
        shutil.rmtree(folder / "data")
        spent = with_rules - measure(folder, seconds, None)
        print(f"rules_cpu_per_evaluation {spent * INTERVAL_SECONDS:.1f} s -")
    server.shutdown()
    server.server_close()


def measure(folder: Path, seconds: float, gpus: int | None) -> float:
    """Run Prometheus for so long; its cores in the second half.

    Given the GPUs, print what the rule groups took at the end.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        program("prometheus"),
        f"--config.file={folder}/prometheus.json",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, env={**os.environ, "GOMAXPROCS": "2"}) as prometheus:
        try:
            time.sleep(seconds / 2)
            before = cpu_seconds(prometheus.pid)
            time.sleep(seconds / 2)
            cores = (cpu_seconds(prometheus.pid) - before) / (seconds / 2)
            if gpus is None:
                return cores
            with urllib.request.urlopen(f"http://{address}/api/v1/rules", timeout=60) as answer:
                groups = json.load(answer)["data"]["groups"]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
                metrics = answer.read().decode()
        finally:
            prometheus.terminate()
    failed = [
        rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"
    ]
    if failed:
        sys.exit(f"these rules fail: {failed}")
    took = sorted(((group["evaluationTime"], group["name"]) for group in groups), reverse=True)
    [head] = [
        line for line in metrics.splitlines() if line.startswith("prometheus_tsdb_head_series ")
    ]
    print(f"rules_gpus {gpus} gpus -")
    print(f"rules_series {float(head.split()[1]):.0f} series -")
    for spent, name in took[:5]:
        print(f"rules_slowest_{name.replace('-', '_').replace('.', '_')} {spent:.2f} s -")
    share = sum(spent for spent, _ in took) / INTERVAL_SECONDS
    print(f"rules_share_of_interval {100 * share:.1f} % <=30")
    return cores


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(
        *(
            int(given or default)
            for given, default in zip((*sys.argv[1:3], "", "")[:2], (20_000, 600), strict=True)
        )
    )
