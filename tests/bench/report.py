"""What `gpucost report` takes for a month of a large fleet: time and memory, on a real Prometheus.

The recorded series of rules/ that it reads are written into a real Prometheus, every minute of the
range, with values that no compression makes cheap; then the command is run as a process of its own.
Printed as tests/bench/run.py prints: name value unit goal.

    python tests/bench/report.py [GPUS] [DAYS]       (default 2000 GPUs, 30 days)

Writing takes minutes and some GB of disk; reading is what is measured.
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "exporter"), str(ROOT / "tests"), str(ROOT / "scripts")]

from real_prometheus import _field, _varint, prometheus  # noqa: E402 - after the path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_prometheus import Prometheus

GPUS_PER_NODE, GPUS_PER_WORKLOAD, POOLS, SERVICES = 8, 4, 20, 0.2
HOUR = 3600
MINUTES = tuple(range(0, HOUR, 60))
BATCH_BYTES = 4 << 20
NOISE = 4096
GOAL_SECONDS, GOAL_MIB = 60, 300


def series(gpus: int) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and mean of what is recorded every minute."""
    nodes, workloads = gpus // GPUS_PER_NODE, gpus // GPUS_PER_WORKLOAD
    model = {"gpu_model": "NVIDIA H100 80GB HBM3", "capacity_type": "on_demand"}
    yield "gpucost:stale_after_seconds:setting", {}, 300.0
    for n in range(workloads):
        who = {"cluster": "c", "namespace": f"ns{n % 100}", "workload": f"work-{n}"}
        owner = {**who, "team": f"team{n % 40}", "workload_kind": "Deployment"}
        key = {**owner, **model, "node_pool": f"pool{n % POOLS}"}
        for state, usd in (("used", 0.5), ("underused", 0.3), ("idle", 0.2)):
            rate = usd * GPUS_PER_WORKLOAD * 6.88 / HOUR
            yield "workload:gpucost_cost_usd:rate5m", {**key, "state": state}, rate
        idle = 0.1 * GPUS_PER_WORKLOAD * 6.88 / HOUR
        yield "workload:gpucost_saving_usd:rate5m", {**key, "advice": "free_idle"}, idle
        yield "workload:gpucost_gpu_seconds:rate5m", key, float(GPUS_PER_WORKLOAD)
        yield "workload:gpucost_activity:ratio", owner, 0.4
        yield "workload:gpucost_memory_peak_bytes:max", {**who, "gpu_model": key["gpu_model"]}, 4e10
        if n < SERVICES * workloads:
            served = {**who, "engine": "vllm", "served_model": f"model{n % 10}"}
            yield "workload_served_model:gpucost_share:ratio", served, 1.0
            yield "workload:gpucost_served_at_cost:rate5m", who, 3.0
            yield "workload:gpucost_batch_size:avg", owner, 12.0
            for direction in ("input", "cached_input", "output"):
                tokens = {**served, "workload_kind": "Deployment", "direction": direction}
                yield "workload:gpucost_tokens:rate5m", tokens, 900.0
    for n in range(POOLS):
        key = {"cluster": "c", **model, "node_pool": f"pool{n}", "state": "unallocated"}
        yield "workload:gpucost_cost_usd:rate5m", key, 0.002
    for n in range(nodes):
        for state, count in (("used", 5.0), ("idle", 2.0), ("unallocated", 1.0)):
            labels = {"cluster": "c", "node": f"n{n}", "state": state}
            yield "node:gpucost_gpus:rate5m", labels, count


def of_nodes(gpus: int) -> Iterator[tuple[str, dict[str, str], float]]:
    """What is asked for the range's end only."""
    for n in range(gpus // GPUS_PER_NODE):
        node = {"cluster": "c", "node": f"n{n}"}
        info = {"node_pool": f"pool{n % POOLS}", "instance_type": "p5.48xlarge"}
        place = {"region": "us-east-1", "zone": "us-east-1a", "provider": "aws"}
        capacity = {"capacity_type": "on_demand"}
        yield "gpucost_node_info", {**node, **info, **place, **capacity}, 1.0
        for gpu in range(GPUS_PER_NODE):
            device = {
                "gpu": str(gpu),
                "uuid": f"GPU-{n}-{gpu}",
                "gpu_model": "NVIDIA H100 80GB HBM3",
            }
            yield "gpucost_gpu_info", {**node, **device}, 1.0
            yield "gpucost_gpu_price_usd_per_hour", {**node, **device, **capacity}, 6.88
            for other, usd in (("spot", 2.1), ("reserved", 4.2)):
                name = "gpucost_gpu_alternative_price_usd_per_hour"
                yield name, {**node, **device, "capacity_type": other}, usd


def written(labels: dict[str, str], name: str) -> bytes:
    """The labels of a prompb.TimeSeries."""
    every = {**labels, "__name__": name}
    return b"".join(
        _field(1, _field(1, key.encode()) + _field(2, value.encode()))
        for key, value in sorted(every.items())
        if value
    )


def fill(it: Prometheus, gpus: int, start: int, end: int) -> tuple[int, int]:
    """Write all of it, hour by hour as it would have come; how many series and samples."""
    chance = random.Random(7)  # noqa: S311 - a play
    noise = [1 + 0.05 * chance.uniform(-1, 1) for _ in range(NOISE)]

    def samples(mean: float) -> Iterator[bytes]:
        return itertools.cycle(
            [b"\x12\x10\x09" + struct.pack("<d", mean * by) + b"\x10" for by in noise]
        )

    rows = [(written(labels, name), samples(mean)) for name, labels, mean in series(gpus)]
    last = [(written(labels, name), samples(mean)) for name, labels, mean in of_nodes(gpus)]
    count = 0
    for hour in range(start, end, HOUR):
        stamps = [_varint((hour + at) * 1000) for at in MINUTES]
        now = rows if hour + HOUR < end else [*rows, *last]
        batch, size = [], 0
        for head, values in now:
            # zip asks the stamps first: they end, and no value is lost.
            body = head + b"".join([value + at for at, value in zip(stamps, values, strict=False)])
            batch.append(_field(1, body))
            size += len(body)
            count += len(stamps)
            if size > BATCH_BYTES:
                it._write(b"".join(batch))  # noqa: SLF001 - the same client's, without its encoding
                batch, size = [], 0
        it._write(b"".join(batch))  # noqa: SLF001
        print(f"\r{(hour - start) / (end - start):.0%} written", end="", file=sys.stderr)
    print(file=sys.stderr)
    return len(rows), count


def cpu_seconds(port: int) -> float:
    """Processor time that the Prometheus has used."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("process_cpu_seconds_total "):
                return float(line.split()[1])
    raise ValueError("Prometheus does not tell its processor time")


def own_cpu() -> float:
    """Processor time of the reports that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_kib(pid: int) -> int:
    """The most that a process has held resident; what its parent held at the fork is not its."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def main(gpus: int, days: int) -> None:
    """Write, ask, print."""
    end = int(time.time()) // HOUR * HOUR
    start = end - days * 24 * HOUR
    folder = Path(tempfile.mkdtemp(prefix="gpucost-bench-"))
    try:
        with prometheus(folder) as it:
            count, written_samples = fill(it, gpus, start, end)
            print(f"report_gpus {gpus} gpus -")
            print(f"report_series {count} series -")
            print(f"report_samples {written_samples} samples -")
            command = [
                *(sys.executable, "-m", "gpucost", "report", "--quiet", "--format", "json"),
                *("--prometheus", f"http://127.0.0.1:{it.port}"),
                *("--from", f"{days}d", "--output", str(folder / "report.json")),
            ]
            for _ in range(2):
                began, spent = time.monotonic(), (cpu_seconds(it.port), own_cpu())
                process = subprocess.Popen(
                    command, env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")}
                )
                peak = 0
                while process.poll() is None:
                    peak = max(peak, memory_kib(process.pid))
                    time.sleep(0.05)
                if process.returncode:
                    sys.exit(f"gpucost report ended with {process.returncode}")
                print(f"report_seconds {time.monotonic() - began:.1f} s <={GOAL_SECONDS}")
                print(f"report_cpu {own_cpu() - spent[1]:.1f} s -")
                print(f"report_prometheus_cpu {cpu_seconds(it.port) - spent[0]:.1f} s -")
                print(f"report_memory {peak / 1024:.0f} MiB <={GOAL_MIB}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(*(int(given) for given in (*sys.argv[1:3], *("2000", "30")[len(sys.argv) - 1 :])))
