"""The program asks real servers over loopback: what a request costs, and what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import fake_nvml
from kube_api import KubeApiServer, node, pod
from kubelet_socket import KubeletSocket, holding, offering
from page_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from page_server import Handler, Server

USD_PER_HOUR = 3.6
REQUESTS_PER_SECOND = 500.0
WAIT_SECONDS = 240.0
"""A figure needs 45 s of work; a busy machine is slower."""

SETTINGS = """\
cycle_seconds: 1
scrape_interval_seconds: 1
linger_seconds: 60
requests: {{interval_seconds: 2, window_seconds: 60}}
kubelet: {{socket: '{socket}'}}
"""


class Clock:
    """A vLLM-shaped server that finishes requests as evenly as a clock, or none at all."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._began = time.monotonic()

    def __call__(self, handler: Handler) -> None:
        done = int(self._per_second * (time.monotonic() - self._began))
        page = (
            'python_info{secret="hunter2"} 1\n'
            f'vllm:request_success_total{{finished_reason="stop",model_name="m"}} {done}\n'
            f'vllm:request_success_total{{finished_reason="error",model_name="m"}} {done // 10}\n'
            f'vllm:num_requests_running{{model_name="m"}} 3\n'
        )
        handler.send(page.encode())


def gpu_pod(name: str, server: Server) -> dict[str, Any]:
    made: dict[str, Any] = pod(name, ip="127.0.0.1")
    made["metadata"]["annotations"] = {"gpucost.io/metrics": str(server.server_port)}
    made["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    made["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    return made


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """A node of two GPUs: `asked` finishes requests, `quiet` is asked nothing."""
    gpus = [fake_nvml.h100(), fake_nvml.h100()]
    for gpu in gpus:
        gpu.busy(0.5)
    fake_nvml.World(tmp_path / "nvml.world", gpus)
    with (
        KubeletSocket(tmp_path / "kubelet.sock") as kubelet,
        KubeApiServer() as api,
        serving(Clock(REQUESTS_PER_SECOND)) as asked,
        serving(Clock(0)) as quiet,
    ):
        kubelet.pods = [holding("asked", gpus[0].uuid), holding("quiet", gpus[1].uuid)]
        kubelet.devices = offering(*(gpu.uuid for gpu in gpus))
        machine = json.loads(json.dumps(node("gpu-1")))
        machine["metadata"].setdefault("annotations", {})["gpucost.io/gpu-usd-per-hour"] = str(
            USD_PER_HOUR
        )
        api.put("nodes", machine)
        api.put("pods", gpu_pod("asked", asked))
        api.put("pods", gpu_pod("quiet", quiet))
        (tmp_path / "config.yaml").write_text(SETTINGS.format(socket=kubelet.path))
        (tmp_path / "kubeconfig").write_text(
            json.dumps(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": api.host}}],
                    "users": [{"name": "u", "user": {"token": "t"}}],
                }
            )
        )
        yield {
            **os.environ,
            "FAKE_NVML_SCENARIO": str(tmp_path / "nvml.world"),
            "LD_LIBRARY_PATH": str(fake_nvml.library().parent),
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "GPUCOST_CONFIG": str(tmp_path / "config.yaml"),
            "NODE_NAME": "gpu-1",
        }


@contextmanager
def serve(environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """The port of `gpucost serve`, while it runs."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpucost", "serve", "--listen", "127.0.0.1:0"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=output,
        )
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while "port " not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield int(log.read_text().partition("port ")[2].split()[0])
        finally:
            process.terminate()
            process.wait(60)


def page(port: int) -> dict[tuple[str, str], float]:
    """Values of the pods' series, by family and pod."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode() if answer.status == HTTPStatus.OK else ""  # not yet
    finally:
        connection.close()
    return {
        (sample.name, sample.labels["pod"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "pod" in sample.labels and sample.labels.get("outcome", "success") == "success"
    }


def test_cost_per_request_is_price_over_throughput_within_a_percent_and_absent_where_none_was_asked(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    figure = "gpucost_pod_cost_per_request_usd"
    with serve(environment, tmp_path / "log") as port:
        deadline = time.monotonic() + WAIT_SECONDS
        found = page(port)
        while (figure, "asked") not in found:
            assert time.monotonic() < deadline, found
            time.sleep(1)
            found = page(port)
    price = USD_PER_HOUR / 3600 / REQUESTS_PER_SECOND
    assert found[figure, "asked"] == pytest.approx(price, rel=0.01)
    assert (figure, "quiet") not in found
    assert found["gpucost_pod_requests_total", "quiet"] == 0
    assert found["gpucost_pod_requests_running", "asked"] == 3


def test_a_recording_holds_the_lines_that_are_read_and_replays(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "recording"
    done = subprocess.run(
        [sys.executable, "-m", "gpucost", "record", str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (folder / "engines/ml_asked.prom").read_text()
    assert text.startswith("vllm:request_success_total")
    assert "hunter2" not in text
    replayed = subprocess.run(
        [sys.executable, "-m", "gpucost", "once", "--replay", str(folder), "--advance", "60"],
        env={name: environment[name] for name in ("PATH", "PYTHONPATH") if name in environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert replayed.returncode == 0, replayed.stderr
    assert 'gpucost_pod_requests_running{engine="vllm"' in replayed.stdout
