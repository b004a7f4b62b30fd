"""The published figures, one line each: name value unit goal.

Everything real but the GPU: pynvml on the played driver, a kubelet socket, an API server, and
`gpucost serve` at its default 5 s cycle under 15 s scrapes. Goals are ratios within this run or
shares of a core, never bare times of this machine. nvitop-exporter, on the same played driver
and under the same scrapes, stands beside as a yardstick.

    python tests/bench/run.py [SECONDS]     (how long each program is watched; default 90)
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NVITOP = ROOT / ".cache/bench/bin/nvitop-exporter"
SCRAPE_SECONDS = 15.0
WARM_SECONDS = 35.0
"""Until imports, first lists and the first showing at 0 are over."""
BURSTS, BURST = 6, 40
CYCLES = 120
IMAGE = {
    "PYTHONOPTIMIZE": "2",
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(ROOT / ".cache/bench/byte_code"),
}
"""Our program runs without docstrings and finds its byte code made, as in the image."""
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
"""What Prometheus 3 asks for: OpenMetrics, which takes longer to encode, where it is had."""
START_SECONDS = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


class Played(NamedTuple):
    """A played node: its folder and the environment that leads a program to it."""

    folder: Path
    env: dict[str, str]


class Watched(NamedTuple):
    """What a program cost while it was scraped."""

    cpu_percent: float
    rss_mib: float
    scrape_p99_ms: float


def main(watch_seconds: float) -> None:
    """Measure and print, each figure as soon as it is there."""
    with played("dense") as node:
        env = node.env | IMAGE | {"PYTHONPATH": f"{ROOT / 'exporter'}:{HERE.parent}"}
        command = [sys.executable, str(HERE / "in_process.py"), str(node.folder), str(CYCLES)]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        inside = json.loads(done.stdout)
        cycle, encode = inside["cycle"], inside["encode"]
        line("cycle_to_bare_nvml_ratio", cycle["ratio"], "ratio", "<=2")
        line("cycle_to_bare_nvml_wall_ratio", cycle["wall_ratio"], "ratio", "<=2")
        line("cycle_ms", cycle["seconds"] * 1e3, "ms", "-")
        line("bare_nvml_ms", cycle["base_seconds"] * 1e3, "ms", "-")
        line("bare_nvml_calls", inside["calls"], "calls", "-")
        line("encode_to_generate_latest_ratio", encode["ratio"], "ratio", "<=1.5")
        line("encode_ms", encode["seconds"] * 1e3, "ms", "-")
        line("page_samples", inside["samples"], "samples", "-")
        dense = watch(gpucost(node), node.env | IMAGE, watch_seconds)
        line("scrape_p99_ms", dense.scrape_p99_ms, "ms", "<=5")
        line("cpu_8x7_mig_110_pods", dense.cpu_percent, "%_of_a_core", "<=1")
        line("resident_memory_8x7_mig_110_pods", dense.rss_mib, "MiB", "<=72")
        if NVITOP.exists():
            beside = watch(nvitop(), node.env, watch_seconds)
            line("nvitop_exporter_scrape_p99_ms", beside.scrape_p99_ms, "ms", "-")
            line("nvitop_exporter_cpu_8x7_mig_110_pods", beside.cpu_percent, "%_of_a_core", "-")
            line("nvitop_exporter_resident_memory_8x7_mig_110_pods", beside.rss_mib, "MiB", "-")
    with played("plain") as node:
        plain = watch(gpucost(node), node.env | IMAGE, watch_seconds)
        line("cpu_8_gpus_8_pods", plain.cpu_percent, "%_of_a_core", "<=0.5")
        line("resident_memory_8_gpus_8_pods", plain.rss_mib, "MiB", "<=72")
        if NVITOP.exists():
            beside = watch(nvitop(), node.env, watch_seconds)
            line("nvitop_exporter_cpu_8_gpus_8_pods", beside.cpu_percent, "%_of_a_core", "-")
            line("nvitop_exporter_resident_memory_8_gpus_8_pods", beside.rss_mib, "MiB", "-")


def line(name: str, value: float, unit: str, goal: str) -> None:
    """Print one figure."""
    print(f"{name} {value:.3g} {unit} {goal}", flush=True)


@contextlib.contextmanager
def played(kind: str) -> Iterator[Played]:
    """A played node while the block runs."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        env = os.environ | {"PYTHONPATH": f"{ROOT / 'exporter'}:{HERE.parent}"}
        command = [sys.executable, str(HERE / "played_node.py"), made, kind]
        player = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            said = json.loads(player.stdout.readline() if player.stdout else "")
            (folder / "config.yaml").write_text(
                f"kubelet: {{socket: {folder / 'kubelet.sock'}}}\n", "utf-8"
            )
            (folder / "kubeconfig").write_text(kubeconfig(said["api"]), "utf-8")
            yield Played(
                folder,
                os.environ
                | {
                    "FAKE_NVML_SCENARIO": str(folder / "nvml.world"),
                    "LD_LIBRARY_PATH": str(Path(said["library"]).parent),
                    "KUBECONFIG": str(folder / "kubeconfig"),
                    "MALLOC_ARENA_MAX": "2",  # as the image sets them (Dockerfile)
                    "MALLOC_TRIM_THRESHOLD_": "131072",
                },
            )
        finally:
            if player.stdin:
                player.stdin.close()
            player.wait(30)
            if player.stdout:
                player.stdout.close()


def kubeconfig(server: str) -> str:
    """How to reach the played API server."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "played", "cluster": {"server": server}}],
            "users": [{"name": "bench", "user": {"token": "bench"}}],
            "contexts": [{"name": "c", "context": {"cluster": "played", "user": "bench"}}],
            "current-context": "c",
        }
    )


def gpucost(node: Played) -> list[str]:
    """The command of our exporter; `{port}` is filled in."""
    config = str(node.folder / "config.yaml")
    serve = ["serve", "--config", config, "--node-name", "gpu-1", "--listen", "127.0.0.1:{port}"]
    return [sys.executable, "-m", "gpucost", *serve]


def nvitop() -> list[str]:
    """The command of the yardstick, at our cycle."""
    address = ["--bind-address", "127.0.0.1", "--port", "{port}", "--interval", "5"]
    return [str(NVITOP), *address]


def watch(command: list[str], env: dict[str, str], seconds: float) -> Watched:
    """Run a program, scrape it as Prometheus does, and see what it cost.

    The second time that it runs: as in the image, its byte code is there when it starts. To
    compile it takes memory that does not come back.
    """
    with running(command, env) as (_, port):
        scrape(port)
    with running(command, env) as (program, port):
        scrape_for(port, WARM_SECONDS)
        before, start = cpu_seconds(program.pid), time.monotonic()
        scrape_for(port, seconds)
        spent = cpu_seconds(program.pid) - before
        percent = 100.0 * spent / (time.monotonic() - start)
        rss = resident_mib(program.pid)
        return Watched(percent, rss, p99_ms(port))


@contextlib.contextmanager
def running(
    command: list[str], env: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program that serves pages, and its port."""
    port = free_port()
    full = [word.replace("{port}", str(port)) for word in command]
    with tempfile.TemporaryFile() as log:
        program = subprocess.Popen(
            full,
            env=env | {"PYTHONPATH": str(ROOT / "exporter")},
            stdout=log,
            stderr=log,
        )
        try:
            await_page(port, program)
            yield program, port
        except Exception:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            program.terminate()
            program.wait(30)


def await_page(port: int, program: subprocess.Popen[bytes]) -> None:
    """Wait for the first page."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and program.poll() is None:
        with contextlib.suppress(OSError):
            if scrape(port)[0] == http.client.OK:
                return
        time.sleep(0.2)
    raise RuntimeError("no page came")


def scrape(port: int, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
    """One scrape with the headers of Prometheus; by itself, or on a connection that is kept."""
    used = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        used.request("GET", "/metrics", headers={"Accept": ACCEPT, "Accept-Encoding": "gzip"})
        response = used.getresponse()
        return response.status, response.read()
    finally:
        if connection is None:
            used.close()


def scrape_for(port: int, seconds: float) -> None:
    """Scrape at Prometheus's pace."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        scrape(port)
        time.sleep(min(SCRAPE_SECONDS, left))


def p99_ms(port: int) -> float:
    """The 99th percentile of scrapes of a page that is made already.

    The first scrape of a burst makes it; one during which a new Report came is not counted
    (its page differs from the one before).
    """
    times: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(BURSTS):
        page = scrape(port, connection)[1]
        for _ in range(BURST):
            start = time.perf_counter()
            again = scrape(port, connection)[1]
            if again == page:
                times.append(time.perf_counter() - start)
            page = again
        time.sleep(1.0)
    connection.close()
    if not times:  # a page that never stays the same (it is read anew at each scrape)
        return float("nan")
    return sorted(times)[int(0.99 * (len(times) - 1))] * 1e3


def cpu_seconds(pid: int) -> float:
    """User and system time so far (proc(5), /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    """Resident memory now."""
    for entry in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if entry.startswith("VmRSS:"):
            return int(entry.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 90.0)
