"""The real command, in a process of its own: what it prints, how it ends, what it writes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import fake_nvml
from gpucost import __version__
from gpucost.sources.podresources import parse_list_json
from kube_api import KubeApiServer, node, pod
from kubelet_socket import KubeletSocket, holding, offering
from programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PATIENCE = 120.0
"""Seconds after which a slow machine has had its chance."""

STOPS_WITHIN = 20.0
"""Far less than the 30 s that a kubelet grants, and far more than a cycle takes."""

SCENARIO = ROOT / "tests/nodes/h100-every-state"
OURS = ("GPUCOST_", "KUBE", "NODE_NAME", "FAKE_NVML_", "LD_LIBRARY_PATH")

AWS_NODE = node("gpu-1", labels={"node.kubernetes.io/instance-type": "acme.gpu"})
SECRET = "hunter2-do-not-record"  # noqa: S105 - that is the point


def surroundings(**variables: str) -> dict[str, str]:
    """This process's environment without what would lead the command elsewhere."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**plain, **variables}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpucost", *arguments],
        env=surroundings(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def series(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


# --- Words --------------------------------------------------------------------------------------


def test_version_is_the_packages() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"gpucost {__version__}\n")


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "demo", "once", "record", "check"):
        assert re.search(rf"^ +{command} ", done.stdout, re.MULTILINE), command


@pytest.mark.parametrize("command", ["serve", "demo", "once", "record", "check"])
def test_help_of_a_command_says_what_each_flag_is_for(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    options = done.stdout.partition("options:")[2]
    for flag in re.finditer(
        r"^ +(?:-h, )?(--[\w-]+)(?: [\w:\[\]]+)?(.*)\n( *)(.*)", options, re.MULTILINE
    ):
        assert flag[2].strip() or len(flag[3]) > 20, flag[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "COMMAND"),
        (("frobnicate",), "invalid choice"),
        (("once", "--advance", "soon"), "--advance: must be from 0 to a year"),
        (("once", "--advance", "nan"), "--advance: must be from 0 to a year"),
        (("once", "--advance", "-1"), "--advance: must be from 0 to a year"),
        (("once", "--advance", "1e9"), "--advance: must be from 0 to a year"),
        (("once", "--at", "yesterday"), "--at: must be a time like 2026"),
        (("once", "--at", "2026-11-22T12:00:00"), "--at: must name its time zone"),
        (("once", "--at", "0001-01-01T00:00:00Z"), "--at: must be in the years"),
        (("once", "--log-level", "loud"), "--log-level: must be one of"),
        (("once", "--advance", "5"), "only a recording can be advanced"),
        (("once", "--replay", "/nowhere"), "/nowhere: no such folder"),
        (("once", "--config", "c.yaml", "--replay", str(SCENARIO)), "under its own settings"),
        (("once", "--config", "/nowhere.yaml"), "/nowhere.yaml: cannot be read"),
        (("serve", "--listen", "10190"), "--listen: `10190` is not an address and a port"),
        (("demo", "--listen", "127.0.0.1:70000"), "is not an address and a port"),
        (("demo", "--web-config", "/nowhere.yaml"), "/nowhere.yaml"),
    ],
)
def test_wrong_usage_is_refused_with_a_remedy_and_status_2(
    arguments: tuple[str, ...], words: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [("serve",), ("demo",), ("once",), ("check",), ("record", "x")])
def test_wrong_settings_are_refused_with_path_and_remedy(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("prices:\n  table:\n    - {gpu_model: H100, gpu_usd_per_hour: -2}\n")
    done = run(*command, "--config", str(config))
    assert done.returncode == 2
    assert f"{config}: prices.table[0].gpu_usd_per_hour: " in done.stderr
    assert "Correct the value" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_environment_stands_in_for_flags(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("cycle_second: 5\n")
    done = run("check", GPUCOST_CONFIG=str(config))
    assert done.returncode == 2
    assert f"{config}: top level: there is no setting `cycle_second`" in done.stderr
    assert run("check", GPUCOST_LOG_LEVEL="loud").returncode == 2


def test_a_port_that_is_taken_is_said_plainly() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        done = run("demo", "--listen", f"127.0.0.1:{taken.server_port}")
    assert done.returncode == 2
    assert str(taken.server_port) in done.stderr
    assert "Traceback" not in done.stderr


# --- Replay -------------------------------------------------------------------------------------

REPLAY = ("once", "--replay", str(SCENARIO), "--advance", "900")


@pytest.mark.parametrize("form", [(), ("--openmetrics",)])
def test_a_replay_gives_the_same_bytes_every_time(form: tuple[str, ...]) -> None:
    first, second = run(*REPLAY, *form), run(*REPLAY, *form)
    assert (first.returncode, first.stderr) == (0, "")
    assert "gpucost_pod_cost_usd_total{" in first.stdout
    assert first.stdout == second.stdout
    assert first.stdout.endswith("# EOF\n") == bool(form)


def test_it_works_without_docstrings_as_the_image_runs_it() -> None:
    plain, lean = run(*REPLAY), run(*REPLAY, PYTHONOPTIMIZE="2")
    assert (lean.returncode, lean.stderr) == (0, "")
    assert lean.stdout == plain.stdout
    assert "usage: gpucost" in run("--help", PYTHONOPTIMIZE="2").stdout


def test_what_is_wrong_is_told_beside_the_page_that_only_counts_it(tmp_path: Path) -> None:
    (tmp_path / "nvml.json").write_text('{"gpus": [{"device": {"uuid": "GPU-a"}}]}')
    (tmp_path / "pods.json").write_text("torn")
    done = run("once", "--replay", str(tmp_path))
    assert done.returncode == 0
    assert 'gpucost_problems{kind="malformed",node="recorded",source="nvml"} 1.0' in done.stdout
    first, remedy, second, _ = done.stderr.splitlines()
    assert first.startswith("gpucost: kubernetes: malformed: ")
    assert remedy.startswith("  -> Send it as the API server gives it")
    assert second.startswith("gpucost: nvml: malformed: nvml.json: Object missing required field")
    assert second.endswith("- at `$.gpus[0].device`")


def test_a_replay_in_a_pod_is_of_the_recording_not_of_the_pod(tmp_path: Path) -> None:
    bad = tmp_path / "config.yaml"
    bad.write_text("not: ours\n")
    assert run(*REPLAY, NODE_NAME="other", GPUCOST_CONFIG=str(bad)).stdout == run(*REPLAY).stdout


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m gpucost {' '.join(REPLAY)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- Check --------------------------------------------------------------------------------------


def test_check_without_gpus_fails_and_says_what_to_do() -> None:
    done = run("check")
    assert done.returncode == 1
    assert "fail  GPUs" in done.stdout
    assert "NVIDIA_VISIBLE_DEVICES=all" in done.stdout
    assert done.stdout.endswith("\nDollars will not flow yet.\n")
    assert done.stderr == ""


def test_check_on_a_priced_machine_says_that_dollars_will_flow(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("prices: {table: [{gpu_model: H100-80GB, gpu_usd_per_hour: 3}]}\n")
    done = run("check", "--config", str(config), **played(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "ok  GPU 0" in done.stdout
    assert "3.0000 USD/h" in done.stdout
    assert done.stdout.endswith("\nDollars will flow.\n")


# --- Serving ------------------------------------------------------------------------------------


class Serving:
    """A command that serves, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def port(self) -> int:
        return int(self.wait(lambda: re.search(r"listens on .*, port (\d+)", self.log))[1])

    def wait(self, until: Callable[[], Any]) -> Any:  # noqa: ANN401 - what `until` gives
        deadline = time.monotonic() + PATIENCE
        while not (found := until()):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        return found

    def get(self, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def page(self) -> str:
        """/metrics, once there is a report."""
        self.wait(lambda: self.get("/-/ready")[0] == 200)
        status, page = self.get("/metrics")
        assert status == 200
        return page


@contextlib.contextmanager
def serving(tmp_path: Path, *arguments: str, **variables: str) -> Iterator[Serving]:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpucost", *arguments, "--listen", "127.0.0.1:0"],
            env=surroundings(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Serving(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_without_a_gpu_it_serves_its_problems_and_stops_cleanly(
    tmp_path: Path, how: signal.Signals
) -> None:
    with serving(tmp_path, "serve", "--node-name", "bare") as server:
        page = server.page()
        assert 'gpucost_source_up{node="bare",source="nvml"} 0.0' in page
        assert re.search(r'gpucost_problems\{kind="\w+",node="bare",source="nvml"\} 1\.0', page)
        assert "gpucost_gpu_cost_usd_total" not in page
        assert server.get("/-/healthy")[0] == 200
        assert server.get("/")[0] == 200
        server.process.send_signal(how)
        assert server.process.wait(STOPS_WITHIN) == 0, server.log
        assert server.log.rstrip().endswith("stopped")
        assert "Traceback" not in server.log


def test_it_stops_though_a_scrape_is_open(tmp_path: Path) -> None:
    with serving(tmp_path, "serve") as server:
        server.page()
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.connect()
            server.process.terminate()
            assert server.process.wait(STOPS_WITHIN) == 0, server.log


def test_the_first_report_waits_for_the_api_server(
    tmp_path: Path, whole_node: Mapping[str, str]
) -> None:
    with serving(tmp_path, "serve", **whole_node) as server:
        assert 'gpucost_source_up{node="gpu-1",source="kubernetes"} 1.0' in server.page()
        assert "has not answered yet" not in server.log
        assert "unpriced" not in server.log


def test_settings_are_followed_while_it_serves_and_bad_ones_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"

    def settings(usd: float) -> str:
        return f"cycle_seconds: 1\nprices: {{fallback: {{H100-80GB: {usd}}}}}\n"

    def price() -> float | None:
        found = re.search(
            r"^gpucost_gpu_price_usd_per_hour\{.*\} (.*)$", server.page(), re.MULTILINE
        )
        return float(found[1]) if found else None

    config.write_text(settings(2))
    with serving(tmp_path, "serve", "--config", str(config), **played(tmp_path)) as server:
        server.wait(lambda: price() == 2.0)
        config.write_text(settings(-1))
        server.wait(lambda: "gpucost_config_last_reload_successful{" in server.page())
        server.wait(
            lambda: re.search(r"last_reload_successful\{[^}]*\} 0\.0", server.page()) is not None
        )
        assert price() == 2.0
        assert "prices.fallback[H100-80GB]" in server.log
        config.write_text(settings(3.5))
        server.wait(lambda: price() == 3.5)
        assert re.search(r"last_reload_successful\{[^}]*\} 1\.0", server.page())
        server.process.terminate()
        assert server.process.wait(STOPS_WITHIN) == 0, server.log


def test_the_demo_says_that_it_is_simulated_and_has_dollars_in_many_states(tmp_path: Path) -> None:
    with serving(tmp_path, "demo") as server:
        page = server.page()
        assert "SIMULATED" in server.log
        assert "imulated" in server.get("/")[1]
        uuids = {
            dict(labels)["uuid"] for name, labels in series(page) if name == "gpucost_gpu_info"
        }
        assert len(uuids) == 8
        assert "gpucost_unpriced_gpus" in page
        assert series(page)["gpucost_unpriced_gpus", frozenset({("node", "demo-node")})] == 0
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(STOPS_WITHIN) == 0, server.log


# --- Recording ----------------------------------------------------------------------------------


def played(tmp_path: Path, *gpus: fake_nvml.Gpu) -> dict[str, str]:
    """A driver with busy GPUs, one H100 unless told: the environment that leads to it."""
    path = tmp_path / "nvml.world"
    gpus = gpus or (fake_nvml.h100(),)
    for gpu in gpus:
        gpu.busy(0.5)
    fake_nvml.World(path, gpus)
    return {
        "FAKE_NVML_SCENARIO": str(path),
        "LD_LIBRARY_PATH": str(fake_nvml.library().parent),
    }


def secretive(found: dict[str, Any]) -> dict[str, Any]:
    """An object with secrets wherever a user puts them."""
    found["metadata"].setdefault("annotations", {}).update(
        {
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"env": SECRET}),
            "example.com/token": SECRET,
        }
    )
    for container in found.get("spec", {}).get("containers", ()):
        container["env"] = [{"name": "TOKEN", "value": SECRET}]
        container["args"] = ["--password", SECRET]
        container["command"] = ["sh", "-c", f"curl -H {SECRET}"]
        container["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        container["readinessProbe"] = {"exec": {"command": [SECRET]}}
    found.setdefault("status", {})["message"] = SECRET
    found["status"]["conditions"] = [{"type": "Ready", "status": "True", "message": SECRET}]
    return found


@contextlib.contextmanager
def dcgm_exporter(page: bytes) -> Iterator[str]:
    """A dcgm-exporter behind a password, at its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://scraper:{SECRET}@127.0.0.1:{server.server_port}/metrics?token={SECRET}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kubeconfig(host: str) -> str:
    """How to reach an API server, with a token that is a secret."""
    return json.dumps(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": host}}],
            "users": [{"name": "u", "user": {"token": SECRET}}],
        }
    )


def dra_slice(node: str, uuid: str) -> dict[str, object]:
    """A ResourceSlice with one GPU, `gpu-0`, of a node."""
    attributes = {"type": {"string": "gpu"}, "uuid": {"string": uuid}}
    return {
        "metadata": {"name": f"{node}-x"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0", "attributes": attributes}],
        },
    }


@pytest.fixture
def whole_node(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """A node with every source real: the environment in which the command finds them."""
    gpu = fake_nvml.h100()
    uuid = gpu.uuid
    page = (
        f'DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="0",UUID="{uuid}",modelName="NVIDIA H100 80GB HBM3",'
        f'pod="trainer-0",namespace="ml",container="main"}} 0.5\n'
    )
    with (
        KubeletSocket(tmp_path / "kubelet.sock") as kubelet,
        KubeApiServer() as api,
        dcgm_exporter(page.encode()) as dcgm_url,
    ):
        kubelet.pods = [holding("trainer-0", uuid)]
        kubelet.devices = offering(uuid)
        api.put("nodes", secretive(json.loads(json.dumps(AWS_NODE))))
        api.put("pods", secretive(pod("trainer-0", labels={"team": "vision"})))
        api.put("pods", secretive(pod("elsewhere", node="gpu-2")))
        (tmp_path / "config.yaml").write_text(
            "prices: {table: [{instance_type: acme.gpu, node_usd_per_hour: 3.6}]}\n"
            f"dcgm: {{url: '{dcgm_url}'}}\n"
            f"kubelet: {{socket: '{kubelet.path}'}}\n"
        )
        (tmp_path / "kubeconfig").write_text(kubeconfig(api.host))
        yield {
            **played(tmp_path, gpu),
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "GPUCOST_CONFIG": str(tmp_path / "config.yaml"),
            "NODE_NAME": "gpu-1",
        }


STEADY = (
    "gpucost_gpu_info",
    "gpucost_gpu_price_usd_per_hour",
    "gpucost_gpu_memory_bytes",
    "gpucost_node_info",
    "gpucost_pod_cost_usd_per_hour",
    "gpucost_pod_gpu_share_ratio",
    "gpucost_problems",
    "gpucost_source_up",
    "gpucost_unpriced_gpus",
)
"""What a recording must give again. Readings and times are of another moment."""


def steady(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {key: value for key, value in series(page).items() if key[0] in STEADY}


def test_a_recording_of_a_whole_node_replays_to_the_same_holders_and_prices(
    tmp_path: Path, whole_node: Mapping[str, str]
) -> None:
    live = run("once", **whole_node)
    assert live.returncode == 0, live.stderr
    folder = tmp_path / "recording"
    done = run("record", str(folder), **whole_node)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml",
        "nvml.json",
        "dcgm.prom",
        "podresources.json",
        "allocatable.json",
        "pods.json",
        "node.json",
    }
    assert "before you publish it" in done.stdout

    replayed = run("once", "--replay", str(folder), "--advance", "3600")
    assert replayed.returncode == 0, replayed.stderr
    assert steady(replayed.stdout) == steady(live.stdout)
    assert {name for name, _ in steady(live.stdout)} == {*STEADY} - {"gpucost_problems"}
    found = re.search(
        r'^gpucost_pod_cost_usd_total\{.*pod="trainer-0",state="used",team="vision".*\} (.*)$',
        replayed.stdout,
        re.MULTILINE,
    )
    assert found
    assert float(found[1]) == pytest.approx(1.8)


def test_a_recording_of_a_node_with_a_dra_claim_replays_to_the_same_holder(
    tmp_path: Path,
) -> None:
    """The program's own way: kubelet, ResourceSlices watched, claim read, all of it recorded."""
    gpu, free = fake_nvml.h100(), fake_nvml.h100()
    result = {"request": "r", "driver": "gpu.nvidia.com", "pool": "gpu-1", "device": "gpu-0"}
    device = {"driver_name": "gpu.nvidia.com", "pool_name": "gpu-1", "device_name": "gpu-0"}
    claim = {"claim_name": "one", "claim_namespace": "ml", "claim_resources": [device]}
    listed = {
        "pod_resources": [
            {
                "name": "trainer-0",
                "namespace": "ml",
                "containers": [{"name": "main", "dynamic_resources": [claim, claim]}],
            }
        ]
    }
    with KubeletSocket(tmp_path / "kubelet.sock") as kubelet, KubeApiServer() as api:
        kubelet.pods = list(parse_list_json(json.dumps(listed)).pod_resources)
        api.put("nodes", json.loads(json.dumps(AWS_NODE)))
        api.put("pods", pod("trainer-0"))
        api.put("resourceslices", dra_slice("gpu-1", gpu.uuid))
        api.put("resourceslices", dra_slice("gpu-2", free.uuid))
        api.put(
            "resourceclaims",
            {
                "metadata": {"name": "one", "namespace": "ml", "annotations": {"x": SECRET}},
                "status": {"allocation": {"devices": {"results": [result]}}},
            },
        )
        (tmp_path / "config.yaml").write_text(f"kubelet: {{socket: '{kubelet.path}'}}\n")
        (tmp_path / "kubeconfig").write_text(kubeconfig(api.host))
        environment = {
            **played(tmp_path, gpu, free),
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "GPUCOST_CONFIG": str(tmp_path / "config.yaml"),
            "NODE_NAME": "gpu-1",
        }
        live = run("once", **environment)
        folder = tmp_path / "recording"
        done = run("record", str(folder), **environment)
    assert live.returncode == done.returncode == 0, live.stderr + done.stdout + done.stderr
    assert {"resourceslices.json", "resourceclaims.json"} <= {it.name for it in folder.iterdir()}
    assert not any(SECRET in path.read_text() for path in folder.iterdir())
    replayed = run("once", "--replay", str(folder), "--advance", "60")
    shares = [
        {
            labels: value
            for (name, labels), value in series(page).items()
            if name == "gpucost_pod_gpu_share_ratio"
        }
        for page in (live.stdout, replayed.stdout)
    ]
    assert shares[0] == shares[1]
    pods = {dict(labels)["uuid"]: dict(labels)["pod"] for labels in shares[0]}
    assert pods == {gpu.uuid: "trainer-0", free.uuid: ""}


def test_no_secret_is_recorded(tmp_path: Path, whole_node: Mapping[str, str]) -> None:
    folder = tmp_path / "recording"
    done = run("record", str(folder), "--log-level", "debug", **whole_node)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    for path in folder.iterdir():
        text = path.read_text()
        assert SECRET not in text, path.name
        assert not re.search(r'"(env|args|command|image)"', text), path.name
    pods = json.loads((folder / "pods.json").read_text())
    assert [item["metadata"]["name"] for item in pods["items"]] == ["trainer-0"]


def test_a_recording_is_never_written_over_another(
    tmp_path: Path, whole_node: Mapping[str, str]
) -> None:
    (tmp_path / "pods.json").write_text("{}")
    done = run("record", str(tmp_path), **whole_node)
    assert done.returncode == 2
    assert f"{tmp_path}: holds a recording already (config.yaml, pods.json)" in done.stderr
    assert (tmp_path / "pods.json").read_text() == "{}"


def test_what_fails_is_left_out_and_named_and_the_rest_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    config = tmp_path / "settings"
    config.write_text("dcgm: {url: 'http://127.0.0.1:9/metrics'}\n")
    done = run("record", str(folder), "--config", str(config), **played(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dcgm.prom: not recorded: http://127.0.0.1:9/metrics gave no whole answer" in done.stdout
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "nvml.json"}


def test_with_nothing_to_read_recording_fails(tmp_path: Path) -> None:
    done = run("record", str(tmp_path / "recording"))
    assert done.returncode == 1
    assert "nvml.json: not recorded" in done.stdout
    assert "gpucost check" in done.stdout


def test_a_folder_that_cannot_be_written_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("record", str(tmp_path / "file"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
